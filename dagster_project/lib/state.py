"""The state store: what people, sensors and deliveries write while nobody may wait for a refresh."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster_project.lib.home import Home

_SCHEMA = """
create table if not exists landed_files (
    source text not null,        -- <channel>_<entity>/<source name>
    uri text not null,
    size integer not null,
    modified text not null,      -- nanoseconds, or the remote store's version
    contract text not null,      -- fingerprint of the contract that read it
    primary key (source, uri)
);
create table if not exists progress (name text primary key, value integer not null);
create table if not exists approvals (  -- a person takes a suite's present numbers for the new usual
    suite text not null,
    refresh integer not null,
    approved_by text not null,
    reason text not null,
    approved_at text not null
);
create table if not exists decisions (  -- of people about identity; of two on the same identifiers the later counts
    decision integer primary key autoincrement,
    kind text not null,          -- same, different, handed_over, undecided
    left_id text not null,       -- <type>:<value>
    right_id text,               -- null: handed_over
    effective_at text,           -- handed_over: since when the value is somebody else's
    decided_by text not null,
    reason text not null,
    decided_at text not null
);
create table if not exists consent_refusals (  -- since the last refresh: heeded by deliveries that are under way
    refusal integer primary key autoincrement,
    token text not null,         -- keyed hash of the identifier
    purpose text not null,
    channel text not null,
    status text not null,
    stated_at text not null,
    load integer,                -- the load that brought it; null: stated here, and not loaded yet
    unique (token, purpose, channel, status, stated_at)
);
create table if not exists refreshes (
    refresh integer primary key autoincrement,
    run_id text not null unique,
    as_of text not null,
    loaded integer not null,     -- the last load that it takes in
    started_at text not null,
    finished_at text
);
"""


@dataclass(frozen=True)
class Refresh:
    """One refresh: its number grows, `as_of` (UTC) is the only clock that models read."""

    number: int
    as_of: datetime
    loaded: int


@dataclass(frozen=True)
class Decision:
    """What somebody decided about identifiers, as `<type>:<value>`; `right` is None where one was handed on."""

    kind: str  # same, different, handed_over, undecided
    left: str
    right: str | None
    effective_at: datetime | None
    decided_by: str
    reason: str
    decided_at: datetime


@dataclass(frozen=True)
class Refusal:
    """A statement against being contacted; `load` is None while only the state store knows it."""

    token: str
    purpose: str
    channel: str
    status: str
    stated_at: str
    load: int | None


@contextlib.contextmanager
def store_transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction of a state store, over a connection of its own."""
    connection = sqlite3.connect(path, timeout=30)
    try:
        connection.execute("pragma journal_mode = wal")
        with connection:
            yield connection
    finally:
        connection.close()


class State:
    """One home's `state.sqlite`. Every method is one transaction; several processes may use it at once."""

    def __init__(self, home: Home) -> None:
        home.path.mkdir(parents=True, exist_ok=True)
        self._path = home.state
        with self._transaction() as connection:
            connection.executescript(_SCHEMA)
        self._path.chmod(0o600)

    def _transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return store_transaction(self._path)

    def seen_files(self, source: str, contract: str) -> set[tuple[str, int, str]]:
        """(uri, size, modified) of every file that this source read under this contract."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select uri, size, modified from landed_files where source = ? and contract = ?", (source, contract)
            )
            return set(rows.fetchall())

    def remember_file(self, source: str, uri: str, size: int, modified: str, contract: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                "insert or replace into landed_files values (?, ?, ?, ?, ?)", (source, uri, size, modified, contract)
            )

    def forget_files(self, source: str, uris: list[str]) -> None:
        with self._transaction() as connection:
            connection.executemany("delete from landed_files where source = ? and uri = ?", [(source, uri) for uri in uris])

    def progress(self, name: str) -> int:
        """How far a part of the chain has come; 0 before its first time."""
        with self._transaction() as connection:
            row = connection.execute("select value from progress where name = ?", (name,)).fetchone()
            return row[0] if row else 0

    def advance(self, name: str, value: int) -> None:
        """Record progress; it never goes back."""
        with self._transaction() as connection:
            connection.execute(
                "insert into progress values (?, ?) on conflict (name) do update set value = max(value, excluded.value)",
                (name, value),
            )

    def count_on(self, name: str) -> None:
        """Add one to a progress that counts what happened."""
        with self._transaction() as connection:
            connection.execute("insert into progress values (?, 1) on conflict (name) do update set value = value + 1", (name,))

    def start_over(self, written: int) -> None:
        """Forget which files were read: the warehouse was replaced by one whose last write is `written`."""
        with self._transaction() as connection:
            connection.execute("delete from landed_files")
            connection.execute("update progress set value = min(value, ?) where name in ('loaded', 'refreshed')", (written,))

    def refresh(self, run_id: str, as_of: datetime | None = None) -> Refresh:
        """The refresh that a Dagster run carries out; begun when the run's first step asks for it."""
        now = datetime.now(UTC)
        with self._transaction() as connection:
            connection.execute(
                "insert or ignore into refreshes (run_id, as_of, loaded, started_at) "
                "values (?, ?, coalesce((select value from progress where name = 'loaded'), 0), ?)",
                (run_id, (as_of or now).isoformat(), now.isoformat()),
            )
            row = connection.execute(f"{_REFRESH} where run_id = ?", (run_id,)).fetchone()
        return _refresh(row)

    def begun_at(self, refresh: Refresh) -> datetime:
        """When a refresh was begun, by the wall clock."""
        with self._transaction() as connection:
            row = connection.execute("select started_at from refreshes where refresh = ?", (refresh.number,)).fetchone()
        return datetime.fromisoformat(row[0])

    def loaded_of(self, number: int) -> int | None:
        """The last load that a refresh takes in; None where there is no refresh of that number."""
        with self._transaction() as connection:
            row = connection.execute("select loaded from refreshes where refresh = ?", (number,)).fetchone()
        return row[0] if row else None

    def begun_refresh(self, run_id: str) -> Refresh | None:
        """The refresh that a run has begun, else the last one that finished."""
        with self._transaction() as connection:
            row = connection.execute(f"{_REFRESH} where run_id = ?", (run_id,)).fetchone()
        return _refresh(row) if row else self.last_finished_refresh()

    def finish_refresh(self, refresh: Refresh) -> None:
        with self._transaction() as connection:
            connection.execute(
                "update refreshes set finished_at = ? where refresh = ?", (datetime.now(UTC).isoformat(), refresh.number)
            )
        self.advance("refreshed", refresh.loaded)

    def last_finished_refresh(self) -> Refresh | None:
        with self._transaction() as connection:
            row = connection.execute(f"{_REFRESH} where finished_at is not null order by refresh desc limit 1").fetchone()
        return _refresh(row) if row else None

    def approve(self, suite: str, approved_by: str, reason: str) -> int:
        """Let a suite's history begin anew with the latest refresh; returns its number."""
        with self._transaction() as connection:
            number = connection.execute("select coalesce(max(refresh), 0) from refreshes").fetchone()[0]
            connection.execute(
                "insert into approvals values (?, ?, ?, ?, ?)",
                (suite, number, approved_by, reason, datetime.now(UTC).isoformat()),
            )
        return number

    def approved_load(self, suite: str) -> int:
        """The last load that was in the refresh which somebody approved; 0 where nobody approved anything."""
        with self._transaction() as connection:
            row = connection.execute(
                "select max(loaded) from approvals join refreshes using (refresh) where suite = ?", (suite,)
            ).fetchone()
        return row[0] or 0

    def approvals(self) -> dict[str, Refresh]:
        """The refresh with which a suite's history begins, for each suite whose numbers somebody approved."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select suite, refresh, as_of, loaded from refreshes "
                "join (select suite, max(refresh) as refresh from approvals group by suite) using (refresh)"
            ).fetchall()
        return {suite: _refresh(row) for suite, *row in rows}

    def decide(self, decision: Decision) -> None:
        """Keep what somebody decided; nothing is ever taken out, a later decision counts instead."""
        moments = [moment and moment.isoformat() for moment in (decision.effective_at, decision.decided_at)]
        with self._transaction() as connection:
            connection.execute(
                "insert into decisions (kind, left_id, right_id, effective_at, decided_by, reason, decided_at) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                (decision.kind, decision.left, decision.right, moments[0], decision.decided_by, decision.reason, moments[1]),
            )

    def decisions(self) -> list[Decision]:
        """The decisions that count: the last one on each pair, and on each identifier that was handed on."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select kind, left_id, right_id, effective_at, decided_by, reason, decided_at from decisions order by decision"
            ).fetchall()
        last: dict[tuple, Decision] = {}
        for kind, left, right, effective_at, by, reason, decided_at in rows:
            pair = (left, None) if right is None else tuple(sorted((left, right)))
            moment = effective_at and datetime.fromisoformat(effective_at)
            last[pair] = Decision(kind, left, right, moment, by, reason, datetime.fromisoformat(decided_at))
        return [decision for decision in last.values() if decision.kind != "undecided"]

    def refuse(self, refusals: list[Refusal]) -> None:
        """Keep refusals for deliveries; one that is known gets the load that brought it."""
        with self._transaction() as connection:
            connection.executemany(
                "insert into consent_refusals (token, purpose, channel, status, stated_at, load) values (?, ?, ?, ?, ?, ?) "
                "on conflict do update set load = excluded.load",
                [(r.token, r.purpose, r.channel, r.status, r.stated_at, r.load) for r in refusals],
            )

    def refusals(self, after: int = 0) -> list[tuple[int, Refusal]]:
        """Refusals with their numbers, above one."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select refusal, token, purpose, channel, status, stated_at, load from consent_refusals where refusal > ? "
                "order by refusal",
                (after,),
            ).fetchall()
        return [(number, Refusal(*row)) for number, *row in rows]

    def forget_refusals(self, days: float = 1) -> None:
        """Drop refusals that a refresh has taken in which ended so long ago that no delivery goes on from before."""
        before = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        with self._transaction() as connection:
            connection.execute(
                "delete from consent_refusals where load <= (select max(loaded) from refreshes where finished_at < ?)",
                (before,),
            )

    def has_begun(self) -> bool:
        """Whether any refresh was ever begun."""
        with self._transaction() as connection:
            return connection.execute("select 1 from refreshes limit 1").fetchone() is not None

    def unfinished_refreshes(self, before: int) -> list[int]:
        """Numbers of the refreshes among the thousand before one that were blocked or killed."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select refresh from refreshes where finished_at is null and refresh < ? and refresh >= ? order by refresh",
                (before, before - 1000),
            ).fetchall()
        return [number for (number,) in rows]


_REFRESH = "select refresh, as_of, loaded from refreshes"


def _refresh(row: tuple[int, str, int]) -> Refresh:
    return Refresh(row[0], datetime.fromisoformat(row[1]), row[2])
