"""dbt's Spark adapter as Onefold has it: statements go to this process's session, and macros reach notes and Python steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dbt.adapters import spark
from dbt.adapters.base import available
from dbt_common.exceptions import DbtRuntimeError

from dagster_project.lib.home import Home, quoted
from dagster_project.lib.spark.catalogue import SCRATCH, STAMP, Catalogue, Note


@dataclass(frozen=True)
class Build:
    """One dbt command on Spark."""

    home: Home
    session: Any  # SparkSession, of this process or of a Connect server
    seq: int  # the number of this write
    catalogue: Catalogue
    full: set[str] = field(default_factory=set)  # tables that it builds in full
    drafts: dict[str, "Draft"] = field(default_factory=dict)  # by table, not taken yet
    drafted: list[str] = field(default_factory=list)  # names of all drafts so far
    parts: dict[str, dict[int, str]] = field(default_factory=dict)  # by table with taken drafts, folders by stamp


@dataclass(frozen=True)
class Draft:
    """Parts that are written of a table."""

    name: str  # of the table that has them, schema.table
    location: str  # as Spark names it
    replaced: frozenset[int]  # stamps of the table's own parts that they stand for


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
        """The folder of a table that this write builds in full, as text of Spark's SQL; nothing is in it yet."""
        _build.full.add(_name(relation))
        _build.parts.pop(_name(relation), None)
        return self._emptied(relation, _folder(relation))

    @available
    def draft(self, relation: Any, replaced: list[Any]) -> Draft:
        """Where to write parts of a table, to be taken in place of the replaced ones."""
        name = f"{SCRATCH}.parts_{relation.schema}__{relation.identifier}"
        _build.session.sql(f"drop table if exists {name}")
        number = len(_build.drafted)
        _build.drafted.append(name)
        location = self._emptied(relation, f"{_folder(relation)}.{number}")
        _build.drafts[_name(relation)] = draft = Draft(name, location, frozenset(map(int, replaced)))
        return draft

    def _emptied(self, relation: Any, folder: str) -> str:
        _build.catalogue.begin(_build.session, _name(relation))
        _build.catalogue.storage.remove(folder)
        return quoted(_build.catalogue.storage.in_spark(folder))

    @available
    def take_draft(self, relation: Any) -> None:
        """The session's table has its drafted parts; they count, and the replaced ones no more, when it is noted."""
        name, session, catalogue = _name(relation), _build.session, _build.catalogue
        draft = _build.drafts.pop(name)
        parts = _build.parts.get(name)
        if parts is None:
            table = catalogue.read_table(session, name) if name in _build.full else catalogue.note(name).tables[0]
            parts = dict(table.partitions)
        kept = {stamp: folder for stamp, folder in parts.items() if stamp not in draft.replaced}
        written = catalogue.read_table(session, draft.name).partitions
        if twice := kept.keys() & dict(written).keys():
            raise DbtRuntimeError(f"{name}: rows with the stamps of writes that are done, {sorted(twice)}; use seq()")
        for stamp in draft.replaced:
            session.sql(f"alter table {name} drop if exists partition ({STAMP} = {stamp})")
        catalogue.add_partitions(session, name, written)
        session.sql(f"drop table {draft.name}")
        _build.parts[name] = kept | dict(written)

    @available
    def commit_note(self, relation: Any) -> None:
        """A node's table is written."""
        name, session, catalogue = _name(relation), _build.session, _build.catalogue
        table, parts = catalogue.read_table(session, name), _build.parts.pop(name, None)
        if parts is not None:
            table = replace(table, partitions=tuple(sorted(parts.items())))
        catalogue.commit(Note(name, _build.seq, (table,)))
        catalogue.agree(session, name)

    @available
    def commit_view(self, relation: Any, query: str) -> None:
        """A view is there."""
        name = _name(relation)
        _build.catalogue.commit(
            Note(name, _build.seq, (replace(_build.catalogue.read_table(_build.session, name), query=query),))
        )
        _build.catalogue.agree(_build.session, name)

    @available
    def drop_scratch(self, relation: Any) -> None:
        """Drop a table that was needed for a while."""
        _build.session.sql(f"drop table if exists {_name(relation)}")
        _build.catalogue.storage.remove(_folder(relation))

    @available
    def drop_relation(self, relation: Any) -> None:
        """Drop a table for good."""
        super().drop_relation(relation)
        _build.catalogue.forget(_name(relation))

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
