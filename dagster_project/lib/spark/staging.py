"""What was ingested, as Parquet that Spark reads: one folder for each load, which the ledger names.

DuckDB writes the files. Spark is told of the loads that staging holds and of no other folder, so that a load that was
withdrawn, or half an export of a killed process, is not there for it.
"""

import json
from typing import TYPE_CHECKING

from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.progress import tell
from dagster_project.lib.spark.catalogue import STAMP, Catalogue, Note, Table
from dagster_project.lib.spark.storage import Storage

if TYPE_CHECKING:
    import duckdb
    from pyspark.sql import SparkSession

_SPARK_TYPES = {
    "VARCHAR": "string",
    "VARCHAR[]": "array<string>",
    "JSON": "string",
    "BIGINT": "bigint",
    "INTEGER": "int",
    "DOUBLE": "double",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "HUGEINT": "decimal(38,0)",
}
# What ingestion learnt and noted: written whole when it changed.
SYSTEM_TABLES = ("_loads", "_rejected", "_phones", "_user_agents", "_ip_addresses")


def stage(home: Home, connection: "duckdb.DuckDBPyConnection", session: "SparkSession", seq: int) -> int:
    """Bring the staging that Spark sees up to the ledger; returns how many loads were written.

    Args:
        connection: the home's warehouse.
        seq: the number of this write.
    """
    catalogue = Catalogue(home)
    catalogue.storage.register(connection)
    session.sql("create schema if not exists staging")
    known = home.path / "spark" / "staged.json"
    staged: dict[str, dict[str, int]] = json.loads(known.read_text()) if known.exists() else {}
    names = [channel.table(entity) for channel in load_channels(home).values() for entity in channel.entities]
    written = 0
    for done, name in enumerate(names, 1):
        held = {
            str(stamp): rows
            for stamp, rows in connection.execute(
                f"select {STAMP}, count(*) from staging.{name} group by 1 order by 1"
            ).fetchall()
        }
        before = staged.get(name, {}) if catalogue.note(f"staging.{name}") else {}
        folders = {stamp: f"staging/{name}/{STAMP}={stamp}" for stamp in held}
        parts = tuple((int(stamp), folder) for stamp, folder in folders.items())
        table = Table(f"staging.{name}", f"staging/{name}", spark_columns(connection, f"staging.{name}"), parts)
        changed = [stamp for stamp, rows in held.items() if before.get(stamp) != rows]
        for stamp in changed:
            folder = folders[stamp]
            catalogue.storage.remove(folder)
            copy_to(connection, catalogue.storage, table, f"where {STAMP} = {stamp}", folder)
            written += 1
        staged[name] = held
        _tell(catalogue, session, table, seq, bool(changed))
        tell("staging for Spark", done, len(names))
    for name in SYSTEM_TABLES:
        columns = spark_columns(connection, f"staging.{name}")
        listed = ", ".join(f'"{column}"' for column, _ in columns)
        rows, mark = connection.execute(f"select count(*), bit_xor(hash({listed})) from staging.{name}").fetchone()
        state = {"rows": rows, "mark": mark or 0}
        note = catalogue.note(f"staging.{name}")
        folder = note.tables[0].folder if note else ""
        if staged.get(name) != state or note is None:
            folder = f"staging/{name}/{seq}"
            copy_to(connection, catalogue.storage, Table(f"staging.{name}", folder, columns, None), "", folder)
        staged[name] = state
        _tell(catalogue, session, Table(f"staging.{name}", folder, columns, None), seq, is_changed=False)
    draft = known.with_suffix(".part")
    draft.write_text(json.dumps(staged))
    draft.replace(known)
    for name in staged:  # of killed exports, and withdrawn
        if name not in SYSTEM_TABLES:
            _remove_unnamed(catalogue, name, set(staged[name]))
    return written


def spark_columns(connection: "duckdb.DuckDBPyConnection", name: str) -> tuple[tuple[str, str], ...]:
    """The columns of a table (`schema.table`) with Spark's types, the stamp last."""
    described = connection.execute(f"describe {name}").fetchall()
    columns = [(column, _SPARK_TYPES.get(kind, kind.lower())) for column, kind, *_ in described if column != STAMP]
    return (*columns, *((column, "bigint") for column, *_ in described if column == STAMP))


def copy_to(connection: "duckdb.DuckDBPyConnection", storage: Storage, table: Table, which: str, folder: str) -> None:
    """Write the rows of a condition of a DuckDB table into a folder of the storage, as Spark reads them."""

    def selected(column: str, kind: str) -> str:
        if kind == "timestamp":  # as a moment, which is what Spark takes a timestamp for
            return f"""timezone('UTC', "{column}") as "{column}\""""
        return f'cast("{column}" as varchar) as "{column}"' if kind == "string" else f'"{column}"'

    columns = ", ".join(selected(column, kind) for column, kind in table.columns if table.partitions is None or column != STAMP)
    if storage.is_local:
        storage.files.makedirs(storage.path(folder), exist_ok=True)
    target = quoted(storage.path(f"{folder}/part.parquet"))
    connection.execute(f"copy (select {columns} from {table.name} {which}) to '{target}' (format parquet, compression zstd)")


def _tell(catalogue: Catalogue, session: "SparkSession", table: Table, seq: int, is_changed: bool) -> None:
    """Note a staging table, and have the session know it; `is_changed` where files lie in the place of others."""
    note = catalogue.note(table.name)
    if is_changed or note is None or note.tables != (table,):
        catalogue.begin(session, table.name)
        catalogue.commit(Note(table.name, seq, (table,)))
        catalogue.register_table(session, table)
        catalogue.agree(session, table.name)


def _remove_unnamed(catalogue: Catalogue, name: str, named: set[str]) -> None:
    storage = catalogue.storage
    for path in storage.files.glob(f"{storage.files._strip_protocol(storage.ours)}/staging/{name}/{STAMP}=*"):
        stamp = str(path).rstrip("/").rpartition("=")[2]
        if stamp not in named:
            storage.remove(f"staging/{name}/{STAMP}={stamp}")
