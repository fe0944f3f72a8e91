"""What Spark's tables are: a note for each of dbt's nodes, written when the node is done.

The note is the commit. A full build writes into a folder of its own and the note then names that folder; a table whose parts
are about to be overwritten loses its note before, so that a crash leaves a node without one, which is built in full. From the
notes a new session registers its tables, and DuckDB gets views over the same Parquet files, with which everything that only
reads (checks, serving, publication, console) goes on as before.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

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
    folder: str  # in the storage
    columns: tuple[tuple[str, str], ...]  # (name, Spark's type), the stamp last where it partitions
    partitions: tuple[int, ...] | None  # stamps that it has; None: not partitioned
    query: str | None = None  # of a view

    @property
    def schema(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Note:
    """What one node has built."""

    node: str  # schema.alias
    seq: int  # the write that finished it: everything that was written before has been taken in
    tables: tuple[Table, ...]


# By session, the notes' marks when its catalogue last named the tables as they are noted.
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
        named = {table.folder for table in note.tables}
        for table in before.tables if before else ():
            if table.folder and table.folder not in named:
                self.storage.remove(table.folder)

    def open(self, node: str) -> None:
        """Take back a node's note: its table is about to be overwritten in place."""
        (self._folder / f"{node}.json").unlink(missing_ok=True)

    def forget(self, node: str) -> None:
        """A node is no more, nor its tables."""
        note = self.note(node)
        self.open(node)
        for table in note.tables if note else ():
            if table.folder:
                self.storage.remove(table.folder)

    def register(self, session: "SparkSession") -> None:
        """Have a session's catalogue name the noted tables as they are noted, and no other of their schemas.

        A catalogue may know a table and be wrong: another process has written it since this session looked, or it is another
        home's, where a Connect server outlives its sessions. A session that read the table before remembers its files, too.
        """
        from pyspark.errors import PySparkException

        notes, marks = list(self.notes()), self._marks()
        noted = {table.name: table for note in notes for table in note.tables}
        agreed = _agreed.get(session)
        moved = {table.name for note in notes for table in note.tables if agreed and agreed.get(note.node) != marks[note.node]}
        schemas = sorted({table.schema for table in noted.values()} | {SCRATCH})
        for schema in schemas:
            session.sql(f"create schema if not exists {schema}")
        known: dict[str, dict[str, str]] = {}
        for schema in schemas:
            for row in session.sql(f"show table extended in {schema} like '*'").collect():
                if not row["isTemporary"]:
                    said = (line.partition(": ") for line in row["information"].splitlines())
                    known[f"{schema}.{row['tableName']}"] = {key: value for key, _, value in said}
        for name, about in list(known.items()):
            if name not in noted or name in moved or not self._is_as_noted(session, noted[name], about, bool(agreed)):
                session.sql(f"drop {'view' if about.get('Type') == 'VIEW' else 'table'} {name}")
                del known[name]
        views = []
        for table in noted.values():
            if table.name not in known:
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
        self.agree(session)

    def agree(self, session: "SparkSession") -> None:
        """A session's catalogue names the tables as they are noted now: it wrote them itself."""
        _agreed[session] = self._marks()

    def _marks(self) -> dict[str, tuple[str, int, int]]:
        """By node, what changes with each commit of its note."""
        return {
            file.stem: (str(file), status.st_mtime_ns, status.st_ino)
            for file in self._folder.glob("*.json")
            for status in [file.stat()]
        }

    def _is_as_noted(self, session: "SparkSession", table: Table, about: dict[str, str], is_agreed: bool) -> bool:
        if table.query:
            return about.get("Type") == "VIEW"
        if _bare(about.get("Location", "")) != _bare(self.storage.in_spark(table.folder)):
            return False
        return is_agreed or table.partitions is None or _partitions(session, table.name) == tuple(sorted(table.partitions))

    def register_table(self, session: "SparkSession", table: Table) -> None:
        """Make a session's catalogue name a table as it is noted."""
        session.sql(f"drop table if exists {table.name}")
        columns = ", ".join(f"`{name}` {kind}" for name, kind in table.columns)
        cut = "" if table.partitions is None else f" partitioned by ({STAMP})"
        where = quoted(self.storage.in_spark(table.folder))
        session.sql(f"create table {table.name} ({columns}) using parquet{cut} location '{where}'")
        for some in _batches(table.partitions or ()):
            parts = " ".join(f"partition ({STAMP} = {stamp})" for stamp in some)
            session.sql(f"alter table {table.name} add if not exists {parts}")

    def read_table(self, session: "SparkSession", name: str) -> Table:
        """A table as a session's catalogue has it."""
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
        partitions = None
        if is_partitioned:
            partitions = _partitions(session, name)
        return Table(name, folder[len(root) + 1 :], tuple(columns.items()), partitions)

    def mirror(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Make views of DuckDB over the noted tables, in place of what has their names.

        Staging is left alone: its tables are DuckDB's own, of which Spark has a copy.
        """
        self.storage.register(connection)
        known = {
            f"{schema}.{name}": kind
            for schema, name, kind in connection.execute(
                "select table_schema, table_name, table_type from information_schema.tables "
                "where table_catalog = current_catalog()"
            ).fetchall()
        }
        for note in self.notes():
            if note.node.startswith(f"{STAGING}."):
                continue
            for table in note.tables:
                if table.query:
                    continue  # dbt's own for DuckDB reads the same tables
                connection.execute(f"create schema if not exists {table.schema}")
                if known.get(table.name) == "BASE TABLE":
                    connection.execute(f"drop table {table.name}")
                connection.execute(f"create or replace view {table.name} as {self.in_duckdb(table)}")

    def in_duckdb(self, table: Table) -> str:
        """DuckDB's SELECT of a table's rows."""
        if table.partitions is None:
            files = self.storage.parts(table.folder)
        else:
            files = [file for stamp in table.partitions for file in self.storage.parts(f"{table.folder}/{STAMP}={stamp}")]
        columns = ", ".join(_in_duckdb(name, kind, not files) for name, kind in table.columns)
        if not files:
            return f"select {columns} where false"
        listed = ", ".join(f"'{quoted(self.storage.path(file))}'" for file in files)
        partitioning = f"hive_partitioning = true, hive_types = {{'{STAMP}': bigint}}" if table.partitions is not None else ""
        options = f", {partitioning}" if partitioning else ", hive_partitioning = false"
        return f"select {columns} from read_parquet([{listed}]{options})"

    @staticmethod
    def _read(file: Path) -> Note:
        given: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tables = tuple(
            Table(
                table["name"],
                table["folder"],
                tuple((name, kind) for name, kind in table["columns"]),
                None if table["partitions"] is None else tuple(table["partitions"]),
                table["query"],
            )
            for table in given["tables"]
        )
        return Note(given["node"], given["seq"], tables)


_DUCKDB_TYPES = {"string": "varchar", "timestamp_ntz": "timestamp", "binary": "blob"}


def _in_duckdb(name: str, kind: str, is_empty: bool) -> str:
    if is_empty:
        return f'cast(null as {_duckdb_type(kind)}) as "{name}"'
    # Spark's times are moments; in UTC they are the models' times.
    return f"""timezone('UTC', "{name}") as "{name}\"""" if kind == "timestamp" else f'"{name}"'


def _partitions(session: "SparkSession", name: str) -> tuple[int, ...]:
    return tuple(sorted(int(row[0].partition("=")[2]) for row in session.sql(f"show partitions {name}").collect()))


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


def _batches(stamps: tuple[int, ...], size: int = 200) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(stamps), size):
        yield stamps[start : start + size]
