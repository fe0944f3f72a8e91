"""From DuckDB to Spark and back: what is state goes along, everything else is built anew."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dagster_project.lib.engine import note_engine
from dagster_project.lib.home import Home, quoted, transaction
from dagster_project.lib.spark.catalogue import STAMP, Catalogue, Note, Table
from dagster_project.lib.spark.staging import copy_to, spark_columns
from dagster_project.lib.spark.steps import state_of

if TYPE_CHECKING:
    import duckdb


def to_spark(home: Home, connection: "duckdb.DuckDBPyConnection", nodes: Iterable[Any], seq: int) -> list[str]:
    """Carry a home's state from DuckDB to the storage; the tables of its models are dropped.

    State is what no rebuild gives back: identities with their ledger, decisions of matching, histories. Safe to run again after
    a crash: tables are dropped only once everything is noted and Spark is said to be the engine.

    Args:
        nodes: dbt's models and seeds.
        seq: the number of this write.

    Returns:
        The tables that were carried, `schema.table`.
    """
    catalogue = Catalogue(home)
    catalogue.storage.claim()
    catalogue.storage.register(connection)
    for note in catalogue.notes():  # of a move that came to no end
        if not note.node.startswith("staging."):
            catalogue.forget(note.node)
    there = _tables(connection)
    carried = []
    for node, names in _state(nodes).items():
        tables = []
        for name in (name for name in names if there.get(name) == "BASE TABLE"):
            columns, folder = spark_columns(connection, name), f"tables/{name.replace('.', '/')}/{seq}-carried"
            parts = None
            if columns[-1][0] == STAMP:
                stamps = connection.execute(f"select distinct {STAMP} from {name} order by 1").fetchall()
                parts = tuple((stamp, f"{folder}/{STAMP}={stamp}") for (stamp,) in stamps)
            table = Table(name, folder, columns, parts)
            if parts is None:
                copy_to(connection, catalogue.storage, table, "", folder)
            for stamp, part in parts or ():
                copy_to(connection, catalogue.storage, table, f"where {STAMP} = {stamp}", part)
            tables.append(table)
        if tables:
            catalogue.commit(Note(node, seq - 1, tuple(tables)))  # what this write builds is still to be taken in
            carried += [table.name for table in tables]
    note_engine(home, "spark")
    drop_left_behind(connection, nodes)
    return carried


def drop_left_behind(connection: "duckdb.DuckDBPyConnection", nodes: Iterable[Any]) -> None:
    """Drop the tables of models from a warehouse whose engine is another; views over that engine's tables take their names."""
    nodes = list(nodes)
    names = {f"{node.schema}.{node.alias}" for node in nodes} | {name for names in _state(nodes).values() for name in names}
    there = _tables(connection)
    for kind, words in (("VIEW", "view"), ("BASE TABLE", "table")):
        for name in sorted(name for name in names if there.get(name) == kind):
            if kind == "BASE TABLE" or not _reads_parquet(connection, name):
                connection.execute(f"drop {words} {name}")


def to_duckdb(home: Home, connection: "duckdb.DuckDBPyConnection", nodes: Iterable[Any]) -> list[str]:
    """Carry a home's state from the storage into its warehouse, at once; then what was Spark's is removed."""
    catalogue = Catalogue(home)
    catalogue.storage.claim()
    catalogue.storage.register(connection)
    nodes = list(nodes)
    tables = {table.name: table for note in catalogue.notes() for table in note.tables}
    carried = sorted({name for names in _state(nodes).values() for name in names} & set(tables))
    there = _tables(connection)
    with transaction(connection):
        for name in sorted({f"{node.schema}.{node.alias}" for node in nodes} | set(tables)):
            if there.get(name) == "VIEW" and not name.startswith("staging."):
                connection.execute(f"drop view {name}")
        for name in carried:
            connection.execute(f"create schema if not exists {tables[name].schema}")
            connection.execute(f"create or replace table {name} as {catalogue.in_duckdb(tables[name])}")
    note_engine(home, "duckdb")
    catalogue.clear()
    return carried


def finish(home: Home) -> None:
    """Remove what a move that came to no end left of Spark's, where the tables are DuckDB's."""
    if any((home.path / "spark" / "notes").glob("*.json")):
        catalogue = Catalogue(home)
        catalogue.storage.claim()
        catalogue.clear()


def has_any(connection: "duckdb.DuckDBPyConnection", nodes: Iterable[Any]) -> bool:
    """Whether any table of the project was ever built."""
    return bool({f"{node.schema}.{node.alias}" for node in nodes} & set(_tables(connection)))


def _state(nodes: Iterable[Any]) -> dict[str, list[str]]:
    """By node, the tables that no rebuild gives back."""
    state: dict[str, list[str]] = {}
    for node in nodes:
        name = f"{node.schema}.{node.alias}"
        if step := node.config.get("step"):
            state[name] = [name, *(f"{node.schema}.{table}" for table in state_of(step) if table != node.alias)]
        elif node.config.get("full_refresh") is False:
            state[name] = [name]
    return state


def _tables(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    rows = connection.execute(
        "select concat(table_schema, '.', table_name), table_type from information_schema.tables "
        "where table_catalog = current_catalog()"
    ).fetchall()
    return dict(rows)


def _reads_parquet(connection: "duckdb.DuckDBPyConnection", name: str) -> bool:
    schema, _, view = name.partition(".")
    (sql,) = connection.execute(
        f"select sql from duckdb_views() where schema_name = '{quoted(schema)}' and view_name = '{quoted(view)}'"
    ).fetchone()
    return "read_parquet" in sql
