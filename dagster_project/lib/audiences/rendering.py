"""A model's SQL for DuckDB without dbt, which takes seconds to start: the project's own macros, read from their files.

Only what models of audiences use: `ref`, `var`, macros, `dbt.dateadd` and `dbt.datediff`. The tests hold it against what dbt
itself compiles.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from dagster_project.lib.errors import OnefoldError


def rendered(project: Path, text: str, variables: Mapping[str, Any], ref: Callable[[str], str]) -> str:
    """A model's text as SQL.

    Args:
        ref: the table that stands for a model.

    Raises:
        OnefoldError: the text asks for something that only dbt has.
    """
    environment = jinja2.Environment(extensions=["jinja2.ext.do"], undefined=jinja2.StrictUndefined, autoescape=False)
    environment.globals |= {
        "ref": ref,
        "var": lambda name, default=None: variables.get(name, default),
        "dbt": _Dbt(),
        "adapter": _Adapter(),
        "return": lambda value: value,
        "is_incremental": lambda: False,
        "config": lambda **_: "",
        "execute": False,
    }
    try:
        return environment.from_string(_macros(project) + text).render().strip()
    except jinja2.TemplateError as error:
        raise OnefoldError(f"only dbt can compile it: {error}") from error


class _Dbt:
    """dbt's own macros, as dbt-duckdb writes them."""

    def dateadd(self, datepart: str, interval: object, from_date_or_timestamp: str) -> str:
        return f"date_add({from_date_or_timestamp}, interval ({interval}) {datepart})"

    def datediff(self, first_date: str, second_date: str, datepart: str) -> str:
        return f"date_diff('{datepart}', {first_date}::timestamp, {second_date}::timestamp)"


class _Adapter:
    @jinja2.pass_context
    def dispatch(self, context: jinja2.runtime.Context, name: str) -> Any:
        return context.vars[f"duckdb__{name}"]


def _macros(project: Path) -> str:
    files = sorted((project / "macros").glob("**/*.sql"))
    return _joined(tuple((file, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=2)
def _joined(files: tuple[tuple[Path, int], ...]) -> str:
    """All macros, but for the blocks that only dbt knows."""
    texts = (file.read_text(encoding="utf-8") for file, _ in files)
    return "".join(text for text in texts if "{% materialization" not in text and "{% test" not in text)
