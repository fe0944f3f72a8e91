"""A model's SQL for DuckDB without dbt, which takes seconds to start: the project's own macros, read from their files.

Only what models of audiences and questions of consent use: `ref`, `var`, macros, `dbt.dateadd` and `dbt.datediff`. The tests
hold it against what dbt itself compiles.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from dagster_project.lib.errors import OnefoldError

_ENVIRONMENT = jinja2.Environment(extensions=["jinja2.ext.do"], undefined=jinja2.StrictUndefined, autoescape=False)


def rendered(project: Path, text: str, variables: Mapping[str, Any], ref: Callable[[str], str]) -> str:
    """A model's text as SQL.

    Args:
        variables: besides those of the project's file.
        ref: the table that stands for a model.

    Raises:
        OnefoldError: the text asks for something that only dbt has.
    """
    adapter = _Adapter()
    variables = {**_usual(project / "dbt_project.yml", (project / "dbt_project.yml").stat().st_mtime_ns), **variables}
    given = {
        "ref": ref,
        "var": lambda name, default=None: variables.get(name, default),
        "dbt": _Dbt(),
        "adapter": adapter,
        "return": lambda value: value,
        "is_incremental": lambda: False,
        "config": lambda **_: "",
        "execute": False,
    }
    files = sorted((project / "macros").glob("**/*.sql"))
    try:
        adapter.macros = _library(tuple((file, file.stat().st_mtime_ns) for file in files)).make_module(given)
        return _ENVIRONMENT.from_string(text).render({**given, **vars(adapter.macros)}).strip()
    except (jinja2.TemplateError, AttributeError, TypeError) as error:
        raise OnefoldError(f"only dbt can compile it: {error}") from error


def table_of(project: Path, model: str) -> str:
    """The table of a model or seed."""
    return f"reference.{model}" if (project / "seeds" / f"{model}.csv").exists() else model.replace("_", ".", 1)


@functools.lru_cache(maxsize=2)
def _usual(file: Path, modified: int) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["vars"]


class _Dbt:
    """dbt's own macros, as dbt-duckdb writes them."""

    def dateadd(self, datepart: str, interval: object, from_date_or_timestamp: str) -> str:
        return f"({from_date_or_timestamp} + cast({interval} as bigint) * interval 1 {datepart})"

    def datediff(self, first_date: str, second_date: str, datepart: str) -> str:
        return f"(date_diff('{datepart}', {first_date}::timestamp, {second_date}::timestamp))"


class _Adapter:
    macros: Any = None

    def dispatch(self, name: str) -> Any:
        return getattr(self.macros, f"duckdb__{name}")


@functools.lru_cache(maxsize=2)
def _library(files: tuple[tuple[Path, int], ...]) -> jinja2.Template:
    """All macros, but for the files with blocks that only dbt knows."""
    texts = (file.read_text(encoding="utf-8") for file, _ in files)
    return _ENVIRONMENT.from_string("".join(text for text in texts if "{% materialization" not in text))
