"""Serving: a read-only copy of the public tables, replaced in one atomic step, masked for BI and private for activation.

A version is a folder. Small tables are inside its two DuckDB files; those that grow with events lie beside as Parquet parts,
one a month, of which a new version writes only those that changed.
"""

import hashlib
import itertools
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from dagster_project.lib.home import Home, quoted, transaction
from dagster_project.lib.quality import require_proof
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refresh

log = logging.getLogger("onefold")

# Tables that grow with events and not with customers, and the time that cuts them into parts.
PARTED = {
    "unified.customer_events": "occurred_at",
    "unified.session_events": "occurred_at",
    "unified.sessions": "started_at",
    "unified.purchases": "occurred_at",
    "identity.evidence": "seen_at",
}


@dataclass(frozen=True)
class PublicTable:
    """A contracted table; `masked` gives the SQL of each column that BI may see, `private` all columns."""

    name: str  # schema.table
    private: tuple[str, ...]
    masked: tuple[tuple[str, str], ...]  # (column, expression)


@dataclass(frozen=True)
class Version:
    """A finished serving version; counts are tables and Parquet parts."""

    path: Path
    tables: int
    parts: int
    written_parts: int


def public_tables(manifest: dict[str, Any]) -> list[PublicTable]:
    """The models and sources whose YAML says `meta: {public: true}`.

    Only columns that the YAML lists are served. A column's `meta.masking` is `private` (left out of the masked file),
    `internal` (in neither) or names the column whose value stands in for it, such as `identifier_token`.
    """
    tables = []
    for node in [*manifest["nodes"].values(), *manifest["sources"].values()]:
        meta = {**node.get("meta", {}), **node["config"].get("meta", {})}
        if not meta.get("public"):
            continue
        masking = {
            name: {**column.get("meta", {}), **column.get("config", {}).get("meta", {})}.get("masking", "open")
            for name, column in node["columns"].items()
        }
        masking = {name: rule for name, rule in masking.items() if rule != "internal"}
        masked = [(c, c if rule == "open" else rule) for c, rule in masking.items() if rule != "private"]
        name = node.get("alias") or node.get("identifier")
        tables.append(PublicTable(f"{node['schema']}.{name}", tuple(masking), tuple(masked)))
    return sorted(tables, key=lambda table: table.name)


def serve(home: Home, tables: list[PublicTable], refresh: Refresh, settings: Settings) -> Version:
    """Build a new version and switch `serving/current` to it; readers of older versions keep theirs for a while.

    Raises:
        OnefoldError: the warehouse holds tables of another refresh, or one of its blocking suites failed or did not run.
    """
    started = time.time_ns()
    draft = home.serving / f".building-{started}"
    with home.connect("serving") as connection:
        require_proof(connection, {table.name.replace(".", "/") for table in tables}, refresh)
        for left_behind in home.serving.glob(".building-*"):  # by a run that was killed
            shutil.rmtree(left_behind)
        draft.mkdir(parents=True, mode=0o700)
        previous = _parts_of(home.serving / "current") if _is_its_own(connection, home.serving / "current") else {}
        parts = _write_parts(home, connection, tables, previous, started)
        for flavour, file in (("masked", "onefold.duckdb"), ("private", "onefold_private.duckdb")):
            _write_file(connection, draft / file, flavour, tables, parts, refresh)
        (draft / "parts.json").write_text(json.dumps(parts, indent=1))
        (draft / "onefold.duckdb").chmod(0o444)
        (draft / "onefold_private.duckdb").chmod(0o600)
        draft.chmod(0o755)
        version = home.serving / "versions" / f"{refresh.number:08}-{started}"
        version.parent.mkdir(exist_ok=True)
        _note_version(connection, version)
        draft.rename(version)
        _switch(home.serving / "current", version)
        _remove_old(home, settings, version)
    count = sum(len(files) for files in parts.values())
    written = sum(1 for key, files in parts.items() for f in files if f not in previous.get(key, []))
    log.info("serving: %d tables, %d of %d parts written anew", len(tables), written, count)
    return Version(version, len(tables), count, written)


def served_refresh(home: Home) -> int | None:
    """The refresh that the current version shows; None where nothing is served."""
    current = home.serving / "current"
    return int(current.resolve().name.split("-")[0]) if current.exists() else None


def served_publications(home: Home) -> int:
    """How many publications the current version knows of."""
    file = home.serving / "current" / "onefold_private.duckdb"
    if not file.exists():
        return 0
    with duckdb.connect(str(file.resolve()), read_only=True) as connection:
        if not _exists(connection, "audiences.publications"):
            return 0
        return connection.execute("select count(*) from audiences.publications").fetchone()[0]


def _is_its_own(connection, current: Path) -> bool:
    """Whether this warehouse made the current version: the numbers of another, or of a backup, mean other rows."""
    connection.execute("create table if not exists staging._served (version varchar)")
    return (current.resolve().name,) in connection.execute("select version from staging._served").fetchall()


def _note_version(connection, version: Path) -> None:
    with transaction(connection):
        connection.execute("delete from staging._served")
        connection.execute("insert into staging._served values (?)", [version.name])


def _write_parts(
    home: Home, connection, tables: list[PublicTable], previous: dict[str, list[str]], started: int
) -> dict[str, list[str]]:
    """Parquet parts of the large tables, by '<flavour>/<table>'; a part whose rows did not change is kept as it is.

    A part is never written again under the same name, as readers of older versions come back to it.
    """
    parts: dict[str, list[str]] = {}
    for table in tables:
        if table.name not in PARTED or not _exists(connection, table.name):
            continue
        month = f"coalesce(strftime({PARTED[table.name]}, '%Y-%m'), 'undated')"
        state = connection.execute(
            f"select {month} as month, max(_seq), count(*) from {table.name} group by month order by month"
        ).fetchall()
        for flavour in ("masked", "private"):
            folder = home.serving / "parts" / flavour / table.name
            folder.mkdir(parents=True, exist_ok=True)
            if flavour == "private":
                folder.parent.chmod(0o700)
            key = f"{flavour}/{table.name}"
            parts[key] = []
            fingerprint = hashlib.sha256(_columns(table, flavour).encode()).hexdigest()[:8]
            for name, seq, rows in state:
                rows_of = f"{name}-{seq}-{rows}-{fingerprint}-"
                kept = (Path(file) for file in previous.get(key, []) if Path(file).name.startswith(rows_of))
                file = next((part for part in kept if part.parent == folder and part.exists()), None)
                if file is None:
                    file = folder / f"{rows_of}{started}.parquet"
                    fresh = file.with_suffix(".part")
                    fresh.touch(mode=0o600)
                    connection.execute(
                        f"copy (select {_columns(table, flavour)} from {table.name} where {month} = '{name}' "
                        f"order by {PARTED[table.name]}, 1) to '{quoted(fresh)}' (format parquet, compression zstd)"
                    )
                    fresh.chmod(0o600 if flavour == "private" else 0o444)
                    fresh.replace(file)
                parts[key].append(str(file))
    return parts


def _write_file(connection, file: Path, flavour: str, tables: list[PublicTable], parts: dict, refresh: Refresh) -> None:
    connection.execute(f"attach '{quoted(file)}' as served")
    try:
        for table in tables:
            if not _exists(connection, table.name):
                continue
            connection.execute(f"create schema if not exists served.{table.name.split('.')[0]}")
            files = parts.get(f"{flavour}/{table.name}")
            if files:
                listed = ", ".join(f"'{quoted(f)}'" for f in files)
                connection.execute(f"create view served.{table.name} as select * from read_parquet([{listed}])")
            else:
                connection.execute(f"create table served.{table.name} as select {_columns(table, flavour)} from {table.name}")
        connection.execute("create schema if not exists served.serving")
        connection.execute(
            "create table served.serving.version as select ? as refresh, ?::timestamp as as_of, now()::timestamp as served_at",
            [refresh.number, refresh.as_of.replace(tzinfo=None)],
        )
    finally:
        connection.execute("detach served")


def _columns(table: PublicTable, flavour: str) -> str:
    if flavour == "private":
        return ", ".join(table.private)
    return ", ".join(column if column == value else f"{value} as {column}" for column, value in table.masked)


def _exists(connection, name: str) -> bool:
    schema, table = name.split(".")
    return bool(
        connection.execute(
            "select count(*) from information_schema.tables where table_catalog = current_catalog() "
            "and table_schema = ? and table_name = ?",
            [schema, table],
        ).fetchone()[0]
    )


def _parts_of(version: Path) -> dict[str, list[str]]:
    file = version / "parts.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _switch(link: Path, version: Path) -> None:
    """Point the link to the version; a reader finds the old or the new one, never none."""
    fresh = link.with_name(".current")  # one of its kind: the writer holds the lock
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(version.relative_to(link.parent))
    fresh.replace(link)


def _remove_old(home: Home, settings: Settings, current: Path) -> None:
    """Remove versions that are neither among the newest nor young, then parts that no version left names."""
    versions = sorted((home.serving / "versions").iterdir(), key=lambda path: path.name.split("-")[1])
    youngest = time.time() - settings.serving_keep_minutes * 60
    kept = set(versions[-settings.serving_keep_versions :]) | {current}
    # A version counts from when its successor replaced it.
    for version, successor in itertools.pairwise(versions):
        if int(successor.name.split("-")[1]) / 1e9 > youngest:
            kept.add(version)
    for version in versions:
        if version not in kept:
            shutil.rmtree(version)
    named = {file for version in kept for files in _parts_of(version).values() for file in files}
    for part in (home.serving / "parts").glob("*/*/*"):
        if str(part) not in named:
            part.unlink()
