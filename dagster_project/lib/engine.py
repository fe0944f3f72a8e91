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


def target_of(home: Home) -> str:
    """The engine to build on: what `ONEFOLD_TARGET` or `onefold.yaml` says, else the one that the tables are on.

    Raises:
        OnefoldError: the variable names no engine.
    """
    given = os.environ.get(VARIABLE) or Settings.of(home).target or built_on(home)
    if given not in ENGINES:
        raise OnefoldError(f"{VARIABLE} is '{given}': an engine is {' or '.join(ENGINES)}")
    return given


def note_engine(home: Home, engine: str) -> None:
    """Say which engine the tables are on, from now on."""
    draft = _file(home).with_suffix(".part")
    draft.write_text(engine)
    draft.replace(_file(home))


def _file(home: Home) -> Path:
    return home.path / "engine"
