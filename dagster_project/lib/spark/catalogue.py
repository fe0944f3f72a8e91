"""What Spark's tables are: a note for each of dbt's nodes, written when the node is done.

The note is the commit. Every write goes into a folder of its own, a full build with all rows, any other with the parts that it
adds or replaces; nothing that a note names is ever overwritten, and what no note names any more is removed. From the notes a
new session registers its tables, and DuckDB gets views over the same Parquet files, with which everything that only reads
(checks, serving, publication, console) goes on as before.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.spark.storage import Storage

if TYPE_CHECKING:
    import duckdb
    from pyspark.sql import SparkSession

STAMP = "_seq"  # partitions tables that grow: the number of the write
STAGING = "staging"  # schema of what was ingested
SCRATCH = "scratch"  # schema of tables that are needed for a while


@dataclass(frozen=True)
class Table:
    """One Parquet table, or a view."""

    name: str  # schema.table
    folder: str  # in the storage; of a partitioned table the one of its last full build
    columns: tuple[tuple[str, str], ...]  # (name, Spark's type), the stamp last where it partitions
    partitions: tuple[tuple[int, str], ...] | None  # (stamp, folder); None: not partitioned
    query: str | None = None  # of a view

    @property
    def schema(self) -> str:
        return self.name.partition(".")[0]

    @property
    def folders(self) -> set[str]:
        """Where its rows are."""
        if self.query:
            return set()
        return {self.folder} if self.partitions is None else {folder for _, folder in self.partitions}


@dataclass(frozen=True)
class Note:
    """What one node has built."""

    node: str  # schema.alias
    seq: int  # the write that finished it: everything that was written before has been taken in
    tables: tuple[Table, ...]


# By session and node, the marks of the notes after which the session itself named the node's tables.
_agreed: WeakKeyDictionary["SparkSession", dict[str, tuple[str, int, int]]] = WeakKeyDictionary()


class Catalogue:
    """The notes of one home."""

    def __init__(self, home: Home) -> None:
        self.storage = Storage.of(home)
        self._folder = home.path / "spark" / "notes"

    def notes(self) -> list[Note]:
        """All of them, by name."""
        return [self._read(file) for file in sorted(self._folder.glob("*.json"))]

    def note(self, node: str) -> Note | None:
        """That of one node; None where it was never finished, or is being overwritten."""
        file = self._folder / f"{node}.json"
        return self._read(file) if file.exists() else None

    def commit(self, note: Note) -> None:
        """Keep a note in place of the one before, at once; then folders that nothing names any more go."""
        before = self.note(note.node)
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{note.node}"
        draft.write_text(json.dumps(asdict(note)), encoding="utf-8")
        draft.replace(self._folder / f"{note.node}.json")
        for folder in _folders(before) - _folders(note):
            self.storage.remove(folder)

    def forget(self, node: str) -> None:
        """A node is no more, nor its tables."""
        note = self.note(node)
        (self._folder / f"{node}.json").unlink(missing_ok=True)
        for folder in _folders(note):
            self.storage.remove(folder)

    def clear(self) -> None:
        """Nothing is on Spark any more."""
        for note in self.notes():
            self.forget(note.node)
        for folder in ("tables", STAGING, SCRATCH):
            self.storage.remove(folder)
        self.storage.release()

    def sweep(self) -> None:
        """Remove what builds left that came to no end: folders of tables that no note names, and scratch tables."""
        named = {"/".join(folder.split("/")[:4]) for note in self.notes() for folder in _folders(note)}
        for folder in {*self.storage.folders("tables/*/*/*"), *self.storage.folders(f"{STAGING}/_*/*")} - named:
            self.storage.remove(folder)
        self.storage.remove(SCRATCH)

    def register(self, session: "SparkSession", schemas: Iterable[str] = ()) -> None:
        """Have a session's catalogue name the noted tables as they are noted, and no other of their schemas.

        A catalogue may know a table and be wrong: another process has written it since this session looked, a build came to no
        end, or it is another home's, where a Connect server outlives its sessions. A session that read the table before
        remembers its files, too. So only what this session itself has named as it is noted is left as it is.

        Args:
            schemas: more of them that are the home's.
        """
        from pyspark.errors import PySparkException

        notes, marks, agreed = list(self.notes()), self._marks(), _agreed.setdefault(session, {})
        noted = {table.name: table for note in notes for table in note.tables}
        trusted = {table.name for note in notes if agreed.get(note.node) == marks[note.node] for table in note.tables}
        for schema in sorted({table.schema for table in noted.values()} | {SCRATCH, *schemas}):
            session.sql(f"create schema if not exists {schema}")
            views = {row["viewName"] for row in session.sql(f"show views in {schema}").collect() if not row["isTemporary"]}
            for row in session.sql(f"show tables in {schema}").collect():
                name = f"{schema}.{row['tableName']}"
                if not row["isTemporary"] and name not in trusted:
                    session.sql(f"drop {'view' if row['tableName'] in views else 'table'} {name}")
        views = []
        for table in noted.values():
            if table.name not in trusted:
                views.append(table) if table.query else self.register_table(session, table)
        while views:  # some read others
            missing = []
            for view in views:
                try:
                    session.sql(f"create or replace view {view.name} as {view.query}")
                except PySparkException:
                    missing.append(view)
            if len(missing) == len(views):
                break  # dbt makes them anew
            views = missing
        _agreed[session] = marks

    def begin(self, session: "SparkSession", node: str) -> None:
        """A session is about to write a node's tables: until they are noted, what it names is not to be trusted."""
        _agreed.setdefault(session, {}).pop(node, None)

    def agree(self, session: "SparkSession", node: str) -> None:
        """A session's catalogue names a node's tables as they are noted now."""
        _agreed.setdefault(session, {})[node] = self._marks(f"{node}.json")[node]

    def _marks(self, files: str = "*.json") -> dict[str, tuple[str, int, int]]:
        """By node, what changes with each commit of its note."""
        return {
            file.stem: (str(file), status.st_mtime_ns, status.st_ino)
            for file in self._folder.glob(files)
            for status in [file.stat()]
        }

    def register_table(self, session: "SparkSession", table: Table) -> None:
        """Make a session's catalogue name a table as it is noted."""
        session.sql(f"drop table if exists {table.name}")
        columns = ", ".join(f"`{name}` {kind}" for name, kind in table.columns)
        cut = "" if table.partitions is None else f" partitioned by ({STAMP})"
        where = quoted(self.storage.in_spark(table.folder))
        session.sql(f"create table {table.name} ({columns}) using parquet{cut} location '{where}'")
        self.add_partitions(session, table.name, table.partitions or ())

    def add_partitions(self, session: "SparkSession", name: str, partitions: Sequence[tuple[int, str]]) -> None:
        """Have a session's catalogue name more partitions of a table, or other folders of them."""
        for start in range(0, len(partitions), 200):
            some = partitions[start : start + 200]
            parts = [
                f"partition ({STAMP} = {stamp}) location '{quoted(self.storage.in_spark(folder))}'" for stamp, folder in some
            ]
            session.sql(f"alter table {name} add {' '.join(parts)}")

    def read_table(self, session: "SparkSession", name: str) -> Table:
        """A table as a session has just built it in full."""
        columns: dict[str, str] = {}
        about: dict[str, str] = {}
        is_partitioned = is_described = False
        for row in session.sql(f"describe table extended {name}").collect():
            is_described = is_described or row["col_name"].startswith("# Detailed")
            is_partitioned = is_partitioned or row["col_name"].startswith("# Partition")
            if is_described:
                about[row["col_name"]] = row["data_type"]
            elif row["col_name"] and not row["col_name"].startswith("#"):
                columns[row["col_name"]] = row["data_type"]
        folder, root = (_bare(text) for text in (about.get("Location", ""), self.storage.sparks))
        folder, partitions = folder[len(root) + 1 :], None
        if is_partitioned:
            stamps = (int(row[0].partition("=")[2]) for row in session.sql(f"show partitions {name}").collect())
            partitions = tuple((stamp, f"{folder}/{STAMP}={stamp}") for stamp in sorted(stamps))
        return Table(name, folder, tuple(columns.items()), partitions)

    def mirror(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Make views of DuckDB over the noted tables, in place of what has their names; those of tables that are no more go.

        Staging is left alone: its tables are DuckDB's own, of which Spark has a copy.
        """
        self.storage.register(connection)
        known = {
            f"{schema}.{name}": (kind, query or "")
            for schema, name, kind, query in connection.execute(
                "select table_schema, table_name, table_type, sql from information_schema.tables "
                "left join duckdb_views() as views on (schema_name, view_name) = (table_schema, table_name) "
                "and database_name = table_catalog where table_catalog = current_catalog()"
            ).fetchall()
        }
        named = set()
        for note in self.notes():
            if note.node.startswith(f"{STAGING}."):
                continue
            for table in note.tables:
                named.add(table.name)
                if table.query:
                    continue  # dbt's own for DuckDB reads the same tables
                connection.execute(f"create schema if not exists {table.schema}")
                if table.name in known and known[table.name][0] == "BASE TABLE":
                    connection.execute(f"drop table {table.name}")
                connection.execute(f"create or replace view {table.name} as {self.in_duckdb(table)}")
        for name, (kind, query) in known.items():
            if kind == "VIEW" and name not in named and f" AS {_ON_SPARK}" in query:
                connection.execute(f"drop view {name}")

    def in_duckdb(self, table: Table) -> str:
        """DuckDB's SELECT of a table's rows.

        Raises:
            OnefoldError: a part that is noted is not there.
        """
        files = []
        for folder in [table.folder] if table.partitions is None else [folder for _, folder in table.partitions]:
            there = self.storage.parts(folder)
            if not there and table.partitions is not None:
                raise OnefoldError(
                    f"{table.name}: {self.storage.path(folder)} is not there; restore the storage from its backup"
                )
            files += there
        columns = ", ".join(_in_duckdb(name, kind) for name, kind in table.columns)
        nulls = ", ".join(f'cast(null as {_duckdb_type(kind)}) as "{name}"' for name, kind in table.columns)
        rows = f"select {nulls} where false"
        if files:
            listed = ", ".join(f"'{quoted(self.storage.path(file))}'" for file in files)
            if table.partitions is None:
                rows = f"from read_parquet([{listed}], hive_partitioning = false)"
            else:  # parts from before a column was added lack it
                how = f"hive_partitioning = true, hive_types = {{'{STAMP}': bigint}}, union_by_name = true"
                rows = f"{rows} union all by name from read_parquet([{listed}], {how})"
        return f"select {columns} from ({rows}) as {_ON_SPARK}"

    @staticmethod
    def _read(file: Path) -> Note:
        given: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tables = tuple(
            Table(
                table["name"],
                table["folder"],
                tuple((name, kind) for name, kind in table["columns"]),
                None if table["partitions"] is None else tuple((stamp, folder) for stamp, folder in table["partitions"]),
                table["query"],
            )
            for table in given["tables"]
        )
        return Note(given["node"], given["seq"], tables)


_ON_SPARK = "rows_on_spark"  # in DuckDB's views over Spark's tables, by which these are known
_DUCKDB_TYPES = {"string": "varchar", "timestamp": "timestamptz", "timestamp_ntz": "timestamp", "binary": "blob"}


def _in_duckdb(name: str, kind: str) -> str:
    # Spark's times are moments; in UTC they are the models' times.
    return f"""timezone('UTC', "{name}") as "{name}\"""" if kind == "timestamp" else f'"{name}"'


def _folders(note: Note | None) -> set[str]:
    return {folder for table in note.tables for folder in table.folders} if note else set()


def _duckdb_type(kind: str) -> str:
    if found := re.fullmatch(r"array<(.*)>", kind):
        return f"{_duckdb_type(found[1])}[]"
    if found := re.fullmatch(r"struct<([^<>]*)>", kind):  # of plain fields
        fields = (field.partition(":") for field in found[1].split(","))
        return f"struct({', '.join(f'{name.strip()} {_duckdb_type(of.strip())}' for name, _, of in fields)})"
    return _DUCKDB_TYPES.get(kind, kind)


def _bare(location: str) -> str:
    """A location without the ways of writing that it is a local file."""
    return "/" + location.removeprefix("file:").lstrip("/") if location.startswith(("file:", "/")) else location
