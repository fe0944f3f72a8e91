"""Python steps on Spark: what they may use, and how what they make is committed."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dagster_project.lib.home import Home, quoted
from dagster_project.lib.spark.catalogue import SCRATCH, STAMP, Catalogue, Note, Table
from dagster_project.lib.spark.measures import shuffled_bytes

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dagster_project.lib.spark.adapter import Build

# By the steps' names on DuckDB: the function here, and the tables that are state, beside the step's own.
STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "identity.steps.assign": (
        "identity.assign",
        ("_changes", "_redirects", "_refusals", "_shapes", "_decisions", "_customer_ids", "_solved", "_runs"),
    ),
    "identity.steps.match": ("match.match", ("_matched",)),
    "identity.steps.widen": ("match.widen", ("_widened",)),
    "voice.score": ("voice.score", ()),
}


def state_of(step: str) -> tuple[str, ...]:
    """The tables beside its own that a step keeps, by its name on DuckDB."""
    return STEPS[step][1]


@dataclass(frozen=True)
class Whole:
    """A table's new contents: a query; `is_stamped` where later writes append to it, so that it is cut by its stamp."""

    query: str
    is_stamped: bool = False


@dataclass(frozen=True)
class Append:
    """Rows that come to a table: a query of all its columns, stamped with this write."""

    query: str


class Work:
    """What a step uses of the engine."""

    def __init__(self, session: "SparkSession", home: Home, seq: int) -> None:
        self.session, self.home, self.seq = session, home, seq
        self.catalogue = Catalogue(home)
        self._made: list[str] = []

    def execute(self, sql: str) -> Sequence[Any]:
        """Run one statement; returns the rows of a query."""
        return self.session.sql(sql).collect()

    def make(self, name: str, query: str) -> str:
        """A scratch table with the rows of a query, instead of one of that name; returns its full name.

        It lies in the storage and not in a cache, so that a worker that is lost takes nothing with it.
        """
        full = f"{SCRATCH}.{name}"
        self.session.sql(f"drop table if exists {full}")
        self.catalogue.storage.remove(f"{SCRATCH}/{name}")
        location = quoted(self.catalogue.storage.in_spark(f"{SCRATCH}/{name}"))
        self.session.sql(f"create table {full} using parquet location '{location}' as {query}")
        self._made.append(name)
        return full

    def register(self, name: str, function: Callable[..., Any], returns: str | None = None) -> None:
        """Let statements call a Python function, which runs on the workers; one without a type is a UDF that has its own."""
        self.session.udf.register(name, function, returns)

    def shuffled(self) -> int | None:
        """Bytes that were shuffled since the session began; None where nobody can tell."""
        return shuffled_bytes(self.session)

    def clear(self) -> None:
        """Drop the scratch tables."""
        for name in self._made:
            self.session.sql(f"drop table if exists {SCRATCH}.{name}")
            self.catalogue.storage.remove(f"{SCRATCH}/{name}")
        self._made.clear()


def run_step(build: "Build", node: str, step: str, query: str, as_of: datetime) -> None:
    """Carry out a step and commit what it made, all of its tables at once.

    Args:
        node: the step's own table, `schema.table`; the others are in the same schema.
        step: its name on DuckDB, `module.function`.
        query: what the step reads.
    """
    module, _, name = STEPS[step][0].rpartition(".")
    functions = importlib.import_module(f"dagster_project.lib.spark.{module}")
    catalogue, session = build.catalogue, build.session
    note = catalogue.note(node)
    tables = {table.name: table for table in note.tables} if note else {}
    catalogue.begin(session, node)
    _prepare(catalogue, session, node, getattr(functions, "TABLES", {}).get(name, {}), tables, build.seq)
    work = Work(session, build.home, build.seq)
    try:
        made: Mapping[str, Whole | Append] = getattr(functions, name)(
            work, home=build.home, query=query, seq=build.seq, as_of=as_of
        )
        schema = node.partition(".")[0]
        for table, what in made.items():
            tables[f"{schema}.{table}"] = _write(catalogue, session, f"{schema}.{table}", what, tables, build.seq)
    finally:
        work.clear()
    catalogue.commit(Note(node, build.seq, tuple(tables.values())))
    for table in tables.values():
        catalogue.register_table(session, table)
    catalogue.agree(session, node)


def _prepare(
    catalogue: Catalogue, session: "SparkSession", node: str, declared: Mapping[str, str], tables: dict[str, Table], seq: int
) -> None:
    """Have every table of a step be there, with no rows where it never was; those of a killed step are not noted."""
    schema = node.partition(".")[0]
    for name, columns in declared.items():
        full = f"{schema}.{name}"
        if full not in tables:
            folder = f"tables/{schema}/{name}/{seq}-empty"
            typed = tuple((column, kind) for column, kind in (item.strip().split(" ", 1) for item in _split(columns)))
            tables[full] = Table(full, folder, typed, () if typed[-1][0] == STAMP else None)
            catalogue.register_table(session, tables[full])


def _split(columns: str) -> list[str]:
    """The columns of a DDL, which commas part that are not in brackets."""
    parts, depth = [""], 0
    for character in columns:
        depth += (character in "(<") - (character in ")>")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _write(
    catalogue: Catalogue, session: "SparkSession", name: str, what: Whole | Append, tables: dict[str, Table], seq: int
) -> Table:
    schema, _, table = name.partition(".")
    if isinstance(what, Append):
        before, folder = tables[name], f"tables/{schema}/{table}/{seq}/{STAMP}={seq}"
        columns = [column for column, _ in before.columns if column != STAMP]
        query = f"select {', '.join(columns)} from ({what.query}) as fresh"
        made = tuple(sorted((dict(before.partitions or ()) | {seq: folder}).items()))
        result = Table(name, before.folder, before.columns, made)
    else:
        folder, query, result = f"tables/{schema}/{table}/{seq}", what.query, None
    catalogue.storage.remove(folder)
    location = quoted(catalogue.storage.in_spark(folder))
    draft = f"{SCRATCH}.draft_{schema}_{table}"
    session.sql(f"drop table if exists {draft}")
    cut = f" partitioned by ({STAMP})" if isinstance(what, Whole) and what.is_stamped else ""
    session.sql(f"create table {draft} using parquet{cut} location '{location}' as {query}")
    if result is None:
        seen = catalogue.read_table(session, draft)
        result = Table(name, seen.folder, seen.columns, seen.partitions)
    session.sql(f"drop table {draft}")
    return result
