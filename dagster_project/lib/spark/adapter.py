"""dbt's Spark adapter as Onefold has it: statements go to this process's session, and macros reach notes and Python steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dbt.adapters import spark
from dbt.adapters.base import available
from dbt_common.exceptions import DbtRuntimeError

from dagster_project.lib.home import Home
from dagster_project.lib.spark.catalogue import SCRATCH, STAMP, Catalogue, Note, Table


@dataclass(frozen=True)
class Build:
    """One dbt command on Spark."""

    home: Home
    session: Any  # SparkSession, of this process or of a Connect server
    seq: int  # the number of this write
    catalogue: Catalogue
    emptied: dict[str, list[int]] = field(default_factory=dict)  # partitions that go when their table is noted


_build: Build | None = None


class SparkAdapter(spark.SparkAdapter):  # dbt reads the name
    """What macros/engine/ calls beside dbt's own methods."""

    def valid_incremental_strategies(self) -> list[str]:
        return ["append", "delete+insert"]

    @available
    def taken_in(self, relation: Any) -> int:
        """The write that last finished a node; 0 where none did."""
        note = _build.catalogue.note(_name(relation))
        return note.seq if note else 0

    @available
    def location(self, relation: Any) -> str:
        """The folder of a table that this write builds in full, as Spark names it; nothing is in it yet."""
        folder = _folder(relation)
        _build.catalogue.storage.remove(folder)
        return _build.catalogue.storage.in_spark(folder)

    @available
    def open(self, relation: Any, emptied: list[Any]) -> None:
        """A table is about to be overwritten in place; partitions of which nothing stays are named."""
        _build.catalogue.open(_name(relation))
        _build.emptied[_name(relation)] = [int(stamp) for stamp in emptied]

    @available
    def commit_note(self, relation: Any, is_consumed: bool = True) -> None:
        """A node's table is written; without `is_consumed` the node will read again what it read."""
        name, session = _name(relation), _build.session
        for stamp in set(_build.emptied.pop(name, [])) - {_build.seq}:
            session.sql(f"alter table {name} drop if exists partition ({STAMP} = {stamp})")
        table = _build.catalogue.read_table(session, name)
        _build.catalogue.commit(Note(name, _build.seq if is_consumed else _noted_seq(table), (table,)))

    @available
    def commit_view(self, relation: Any, query: str) -> None:
        """A view is there."""
        name = _name(relation)
        _build.catalogue.commit(
            Note(name, _build.seq, (replace(_build.catalogue.read_table(_build.session, name), query=query),))
        )

    @available
    def drop_scratch(self, relation: Any) -> None:
        """Drop a table that was needed for a while."""
        _build.session.sql(f"drop table if exists {_name(relation)}")
        _build.catalogue.storage.remove(_folder(relation))

    @available
    def run_step(self, relation: Any, step: str, query: str, as_of: str) -> None:
        """Carry out a Python step; it notes what it made."""
        from dagster_project.lib.spark.steps import run_step

        run_step(_build, _name(relation), step, query, datetime.fromisoformat(as_of))


def _name(relation: Any) -> str:
    return f"{relation.schema}.{relation.identifier}"


def _folder(relation: Any) -> str:
    if relation.schema == SCRATCH:
        return f"{SCRATCH}/{relation.identifier}"
    return f"tables/{relation.schema}/{relation.identifier}/{_build.seq}"


def _noted_seq(table: Table) -> int:
    """A table that had no note any more was open: all in it is from before this write."""
    return max((stamp for stamp in table.partitions or () if stamp < _build.seq), default=0)


@contextmanager
def building(build: Build) -> Iterator[None]:
    """dbt's target spark builds with this session, as one write of a home."""
    from dbt.adapters.spark import session as dbt_session
    from pyspark.errors import PySparkException

    class Cursor(dbt_session.Cursor):
        """Asks the session that is there; dbt's own asks for one with Hive, for each statement."""

        def execute(self, sql: str, *parameters: Any) -> None:
            try:
                self._df = build.session.sql(sql % parameters if parameters else sql)
            except PySparkException as error:
                raise DbtRuntimeError(_words(error)) from error

        def fetchall(self) -> Any:
            try:
                return super().fetchall()
            except PySparkException as error:
                raise DbtRuntimeError(_words(error)) from error

    class Connection(dbt_session.Connection):
        def cursor(self) -> Cursor:
            return Cursor()

    global _build
    before = spark.Plugin.adapter, dbt_session.Connection
    spark.Plugin.adapter, dbt_session.Connection = SparkAdapter, Connection
    _build = build
    try:
        yield
    finally:
        spark.Plugin.adapter, dbt_session.Connection = before
        _build = None


def _words(error: Exception) -> str:
    """An error without the statement's plan and the server's stack."""
    return str(error).partition("\n'")[0].partition("JVM stacktrace")[0].strip()


@contextmanager
def unconnected() -> Iterator[None]:
    """dbt compiles for target spark without PySpark and Java: it asks for nothing, and every relation is there as a table."""

    class Credentials(spark.SparkCredentials):
        def __post_init__(self) -> None:
            """The check that is left out is for a client library."""

    class Unconnected(spark.SparkAdapter):
        def get_relation(self, database: str, schema: str, identifier: str) -> Any:
            return self.Relation.create(database=database, schema=schema, identifier=identifier, type="table")

        @available
        def taken_in(self, relation: Any) -> int:
            return 1

    before = spark.Plugin.adapter, spark.Plugin.credentials
    spark.Plugin.adapter, spark.Plugin.credentials = Unconnected, Credentials
    try:
        yield
    finally:
        spark.Plugin.adapter, spark.Plugin.credentials = before
