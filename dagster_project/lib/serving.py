"""Serving: a read-only copy of the public tables, replaced in one atomic step, masked for BI and private for activation.

A version is a folder. Small tables are inside its two DuckDB files; those that grow with events lie beside as Parquet parts,
one for each day of this month and the last, one for each month before, of which a new version writes only those that changed.
A file begins as a copy of the one before, in which tables that say by which key they are kept (`meta: {served_by: [...]}`)
get only the rows that were written since.
"""

import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from dagster_project.lib.audiences.tables import upgrade
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, quoted, transaction
from dagster_project.lib.metrics import SavedQuery, saved_queries
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
    "analytics.touchpoints": "occurred_at",
    "analytics.conversions": "converted_at",
    "analytics.attribution": "converted_at",
    "analytics.mentions": "occurred_at",
    "analytics.conversations": "opened_at",
    "analytics.survey_answers": "answered_at",
    "analytics.campaign_members": "started_at",
    "analytics.journeys": "converted_at",
    "analytics.funnel_entries": "step_1_at",
}


_VERSION = "2"  # the form of serving.version itself


@dataclass(frozen=True)
class PublicTable:
    """A contracted table; `masked` gives the SQL of each column that BI may see, `private` all columns."""

    name: str  # schema.table
    private: tuple[str, ...]
    masked: tuple[tuple[str, str], ...]  # (column, expression)
    key: tuple[str, ...] | None = None  # None: copied whole; none of them: rows are only ever added

    def columns(self, flavour: str) -> dict[str, str]:
        """The SQL of each column that a flavour shows."""
        return dict(self.masked) if flavour == "masked" else {column: column for column in self.private}

    def selected(self, flavour: str) -> str:
        return ", ".join(
            column if column == value else f"{value} as {column}" for column, value in self.columns(flavour).items()
        )

    def form(self, flavour: str) -> str:
        """Changes with what a flavour shows of the table, and how."""
        return hashlib.sha256(self.selected(flavour).encode()).hexdigest()[:8]


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
    `internal` (in neither) or names the column whose value stands in for it, such as `identifier_token`. `served_by` names
    the key of a table that stamps its rows with `_seq`: only rows written since the last version are served anew.
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
        key = tuple(meta["served_by"]) if "served_by" in meta else None
        tables.append(PublicTable(f"{node['schema']}.{name}", tuple(masking), tuple(masked), key))
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
        upgrade(connection)
        for left_behind in home.serving.glob(".building-*"):  # by a run that was killed
            shutil.rmtree(left_behind)
        draft.mkdir(parents=True, mode=0o700)
        current = home.serving / "current"
        is_its_own = _is_its_own(connection, current)
        previous = _parts_of(current) if is_its_own else {}
        parts = _write_parts(home, connection, tables, previous, refresh, started)
        for flavour, file in (("masked", "onefold.duckdb"), ("private", "onefold_private.duckdb")):
            before = current / file if is_its_own and (current / file).exists() else None
            _write_file(connection, draft / file, before, flavour, tables, parts, refresh, saved_queries(home))
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
        if "audiences.publications" not in _tables(connection):
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
    home: Home, connection, tables: list[PublicTable], previous: dict[str, list[str]], refresh: Refresh, started: int
) -> dict[str, list[str]]:
    """Parquet parts of the large tables, by '<flavour>/<table>'; a part whose rows did not change is kept as it is.

    A part is never written again under the same name, as readers of older versions come back to it.
    """
    parts: dict[str, list[str]] = {}
    there = _tables(connection)
    for table in tables:
        if table.name not in PARTED or table.name not in there:
            continue
        state = _state_of_parts(connection, table.name, refresh)
        for flavour in ("masked", "private"):
            folder = home.serving / "parts" / flavour / table.name
            folder.mkdir(parents=True, exist_ok=True)
            if flavour == "private":
                folder.parent.chmod(0o700)
            key = f"{flavour}/{table.name}"
            parts[key] = []
            for name, rows_of_part, seq, rows in state:
                mark = f"{name}_{seq}-{rows}-{table.form(flavour)}-"
                kept = (Path(file) for file in previous.get(key, []) if Path(file).name.startswith(mark))
                file = next((part for part in kept if part.parent == folder and part.exists()), None)
                if file is None:
                    file = folder / f"{mark}{started}.parquet"
                    fresh = file.with_suffix(".part")
                    fresh.touch(mode=0o600)
                    connection.execute(
                        f"copy (select {table.selected(flavour)} from {table.name} where {rows_of_part} "
                        f"order by {PARTED[table.name]}, 1) to '{quoted(fresh)}' (format parquet, compression zstd)"
                    )
                    fresh.chmod(0o600 if flavour == "private" else 0o444)
                    fresh.replace(file)
                parts[key].append(str(file))
    return parts


def _state_of_parts(connection, table: str, refresh: Refresh) -> list[tuple[str, str, int, int]]:
    """For each part of a table: its name, the condition of its rows, the last write among them, and how many they are."""
    time, this_month = PARTED[table], refresh.as_of.date().replace(day=1)
    by_day = f"{time} >= date '{_months_after(this_month, -1)}' and {time} < date '{_months_after(this_month, 1)}'"
    state = connection.execute(
        f"""
        select
            case when {by_day} then date_trunc('day', {time}) else date_trunc('month', {time}) end as start,
            coalesce({by_day}, false) as is_day, max(_seq), count(*)
        from {table} group by all order by start
        """
    ).fetchall()
    parts = []
    for start, is_day, seq, rows in state:
        if start is None:
            parts.append(("undated", f"{time} is null", seq, rows))
            continue
        first = start.date() if isinstance(start, datetime) else start
        end = first + timedelta(days=1) if is_day else _months_after(first, 1)
        name = f"{first:%Y-%m-%d}" if is_day else f"{first:%Y-%m}"
        parts.append((name, f"{time} >= date '{first}' and {time} < date '{end}'", seq, rows))
    return parts


def _months_after(first: date, months: int) -> date:
    """The first day of the month that is so many months after another."""
    years, month = divmod(first.month - 1 + months, 12)
    return date(first.year + years, month + 1, 1)


def _write_file(
    connection,
    file: Path,
    before: Path | None,
    flavour: str,
    tables: list[PublicTable],
    parts: dict,
    refresh: Refresh,
    figures: Iterable[SavedQuery] = (),
) -> None:
    """Write one file of a version, from that of the version before where there is one.

    Args:
        figures: saved queries; those of which every table is in the file are its views in the schema metrics.
    """
    notes, views, last = {}, set(), None
    if before and _attach_copy(connection, before, file):
        notes = dict(
            connection.execute(
                "select concat(schema_name, '.', table_name), comment from duckdb_tables() where database_name = 'served'"
            ).fetchall()
        )
        views = {
            name
            for (name,) in connection.execute(
                "select concat(schema_name, '.', view_name) from duckdb_views() where database_name = 'served' and not internal"
            ).fetchall()
        }
        forms = {table.name: table.form(flavour) for table in tables} | {"serving.version": _VERSION}
        if any(forms.get(name) != (note or "").partition(" ")[0] for name, note in notes.items()):
            # What is shown no longer, or masked now, would still lie in the blocks of the copy.
            connection.execute("detach served")
            file.unlink()
            notes, views = {}, set()
        else:
            last = connection.execute("select seq from served.serving.version").fetchone()[0]
    if not notes:
        connection.execute(f"attach '{quoted(file)}' as served")
        connection.execute(
            "create schema served.serving; create table served.serving.version "
            "(refresh bigint, as_of timestamp, served_at timestamp, seq bigint); "
            f"comment on table served.serving.version is '{_VERSION}'"
        )
    try:
        there = _tables(connection)
        present = [table for table in tables if table.name in there]
        for table in present:
            connection.execute(f"create schema if not exists served.{table.name.split('.')[0]}")
            files = parts.get(f"{flavour}/{table.name}")
            if not files and table.name in views:
                connection.execute(f"drop view served.{table.name}")
            elif files and table.name in notes:  # it had no rows
                connection.execute(f"drop table served.{table.name}")
            if files:
                listed = ", ".join(f"'{quoted(f)}'" for f in files)
                connection.execute(f"create or replace view served.{table.name} as select * from read_parquet([{listed}])")
            elif table.key is None or not _bring_up(connection, table, flavour, last, notes.get(table.name)):
                _copy(connection, table, flavour)
        for name in views - {table.name for table in present}:
            connection.execute(f"drop view served.{name}")
        connection.execute("create schema if not exists served.metrics")
        for saved in figures:
            if saved.reads <= {table.name for table in present}:
                _show(connection, saved)
        connection.execute(
            "delete from served.serving.version; "
            "insert into served.serving.version select ?, ?::timestamp, now()::timestamp, value from staging._sequence",
            [refresh.number, refresh.as_of.replace(tzinfo=None)],
        )
    finally:
        connection.execute("detach served")


def _show(connection, saved: SavedQuery) -> None:
    try:
        connection.execute(f"create view served.metrics.{saved.name} as {saved.sql}")
    except duckdb.BinderException as error:
        raise OnefoldError(
            f"saved query {saved.name} cannot be served: {str(error).splitlines()[0]}; split and filter by columns "
            "that are not masked (dbt/models/semantic/)"
        ) from error
    connection.execute(f"comment on view served.metrics.{saved.name} is '{quoted(saved.description)}'")


def _attach_copy(connection, before: Path, file: Path) -> bool:
    """Begin a file as a copy of the one before; false where that one is damaged, and nothing is there yet."""
    shutil.copyfile(before, file)
    try:
        connection.execute(f"attach '{quoted(file)}' as served")
    except duckdb.Error:
        log.warning("serving: %s is damaged; its successor is written anew", before)
        file.unlink()
        return False
    return True


def _copy(connection, table: PublicTable, flavour: str) -> None:
    connection.execute(f"create or replace table served.{table.name} as select {table.selected(flavour)} from {table.name}")
    connection.execute(f"comment on table served.{table.name} is '{table.form(flavour)} 0'")


def _bring_up(connection, table: PublicTable, flavour: str, last: int, note: str | None) -> bool:
    """Replace in a served table what was written since; false if it has to be copied whole.

    Its comment says in which form it is, and how many rows were replaced since it was copied: they take up space.
    """
    if not note or not set(table.key) <= set(table.columns(flavour)):
        return False
    form, replaced = note.split()
    count, fresh = connection.execute(f"select count(*), count(*) filter (_seq > {last}) from {table.name}").fetchone()
    before = connection.execute(f"select count(*) from served.{table.name}").fetchone()[0]
    if not fresh and count == before:
        return True
    if fresh + int(replaced) > count // 4:
        return False
    gone = 0
    if table.key:
        columns = table.columns(flavour)
        keys = ", ".join(f"{columns[name]} as {name}" for name in table.key)
        is_same = " and ".join(f"kept.{name} is not distinct from gone.{name}" for name in table.key)
        gone = connection.execute(
            f"delete from served.{table.name} as gone where not exists "
            f"(select 1 from (select {keys} from {table.name} where _seq <= {last}) as kept where {is_same})"
        ).fetchone()[0]
    connection.execute(
        f"insert into served.{table.name} select {table.selected(flavour)} from {table.name} where _seq > {last}"
    )
    connection.execute(f"comment on table served.{table.name} is '{form} {int(replaced) + gone}'")
    return connection.execute(f"select count(*) from served.{table.name}").fetchone()[0] == count


def _tables(connection) -> set[str]:
    """Tables and views of the database that is current, as schema.table."""
    found = connection.execute(
        "select concat(table_schema, '.', table_name) from information_schema.tables where table_catalog = current_catalog()"
    )
    return {name for (name,) in found.fetchall()}


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
