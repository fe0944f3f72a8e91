"""On which engine a home's tables are built: DuckDB in its warehouse, or Spark in its storage."""

import os
from pathlib import Path

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.settings import Settings

ENGINES = ("duckdb", "spark")
VARIABLE = "ONEFOLD_TARGET"


def built_on(home: Home) -> str:
    """The engine that the home's tables are on."""
    file = _file(home)
    return file.read_text().strip() if file.exists() else "duckdb"


def target_of(home: Home, given: str | None = None) -> str:
    """The engine to build on: the given one, else what `ONEFOLD_TARGET` or `onefold.yaml` says, else the one of the tables.

    Raises:
        OnefoldError: there is no engine of that name.
    """
    named = given or os.environ.get(VARIABLE) or Settings.of(home).target or built_on(home)
    if named not in ENGINES:
        raise OnefoldError(f"'{named}' is no engine: {' or '.join(ENGINES)} is")
    return named


def note_engine(home: Home, engine: str) -> None:
    """Say which engine the tables are on, from now on."""
    draft = _file(home).with_suffix(".part")
    draft.write_text(engine)
    draft.replace(_file(home))


def _file(home: Home) -> Path:
    return home.path / "engine"
