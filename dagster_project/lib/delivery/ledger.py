"""The delivery ledger in the state store: what each destination holds, what is being sent to it, and what it answered.

Every change is one short transaction, so that whoever writes the state store meanwhile is not held up, and a process may be
killed between any two of them.
"""

import contextlib
import fcntl
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dagster_project.lib.delivery.destination import Operation
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.state import State

# Removals go first: what one customer leaves behind may be what another is added with.
OPERATIONS: tuple[Operation, ...] = ("remove", "update", "add")

_SCHEMA = """
create table if not exists delivery_targets (  -- one audience at one destination
    target integer primary key,
    audience text not null,
    destination text not null,
    shape text,                  -- fingerprint of what a row is made of
    position text,               -- how far the audience's source is planned; null: everybody is planned anew
    version integer not null default 0,
    state text not null default 'active',  -- active, paused, withdrawn
    unique (audience, destination)
);
create table if not exists delivery_held (  -- what the destination is known to hold
    target integer not null,
    customer_id text not null,
    row_key blob not null,       -- keyed hash of `named`; empty where the customer id names the row
    payload blob,                -- keyed hash of the row that was sent; null: it may hold the row
    named text not null,         -- JSON of the columns that name the row there: what its removal has to say
    primary key (target, customer_id, row_key)
) without rowid;
create index if not exists delivery_held_by_key on delivery_held (target, row_key) where row_key <> x'';
create table if not exists delivery_versions (
    target integer not null,
    version integer not null,
    status text not null,        -- planning, open, finished, given_up
    semantics text not null,     -- of the destination: what an uncertain batch means
    adds integer not null default 0,
    updates integer not null default 0,
    removes integer not null default 0,
    planned_at text not null,
    finished_at text,
    primary key (target, version)
);
create table if not exists delivery_batches (
    target integer not null,
    version integer not null,
    phase integer not null,      -- place of the operation in the order of sending
    batch integer not null,
    part integer not null,       -- above 0: rows of an answered batch that are sent again
    key text not null unique,
    row_count integer not null,
    status text not null,        -- waiting, sending, failed, uncertain (held for a decision), acknowledged, dead
    attempts integer not null default 0,
    runs integer not null default 0,  -- in which all attempts failed
    is_uncertain integer not null default 0,  -- an attempt ended without an answer
    not_before real not null default 0,       -- seconds since 1970
    request_id text,
    accepted integer,
    rejected integer,
    primary key (target, version, phase, batch, part)
) without rowid;
create index if not exists delivery_batches_open on delivery_batches (target, version, phase, batch, part)
    where status not in ('acknowledged', 'dead');
create table if not exists delivery_rows (  -- of batches without an answer
    target integer not null,
    version integer not null,
    phase integer not null,
    batch integer not null,
    part integer not null,
    place integer not null,
    customer_id text not null,
    row_key blob not null,
    payload blob,
    named text not null,
    row text not null,           -- JSON of what is sent
    primary key (target, version, phase, batch, part, place)
) without rowid;
create table if not exists delivery_letters (  -- dead letters
    target integer not null,
    customer_id text not null,
    operation text not null,
    reason text not null,
    payload blob,                -- of the row that was not taken: the same one is not sent again by itself
    is_due integer not null,     -- whether the next plan looks at this customer again
    version integer not null,
    key text not null,
    died_at text not null,
    primary key (target, customer_id, operation)
) without rowid;
create table if not exists delivery_log (  -- one request; holds no row's values
    target integer not null,
    version integer not null,
    operation text not null,
    key text not null,
    attempt integer not null,
    outcome text not null,       -- answered, unavailable, refused, killed; decided where a person settled the batch
    request_id text,
    rows integer not null,
    accepted integer not null default 0,
    rejected integer not null default 0,
    again integer not null default 0,
    reason text,
    seconds real,
    at text not null
);
create index if not exists delivery_log_by_target on delivery_log (target, version);
"""


@dataclass(frozen=True)
class Target:
    """One audience at one destination."""

    number: int
    audience: str
    destination: str

    def __str__(self) -> str:
        return f"{self.audience} to {self.destination}"


@dataclass(frozen=True)
class Plan:
    """A version of one target whose changes are fixed."""

    version: int
    adds: int
    updates: int
    removes: int


@dataclass(frozen=True)
class Batch:
    """One batch of a version, by its place in the order of sending."""

    target: int
    version: int
    phase: int
    batch: int
    part: int
    key: str
    row_count: int
    status: str
    attempts: int
    runs: int
    is_uncertain: bool
    not_before: float

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.phase]

    @property
    def place(self) -> tuple[int, int, int, int, int]:
        return (self.target, self.version, self.phase, self.batch, self.part)


# In a row that was prepared, beside what is sent: keyed tokens of the addresses that it does not show any more.
TOKENS = "_tokens"


@dataclass(frozen=True)
class SentRow:
    """One row of a batch; `place` is its number in it."""

    place: int
    customer_id: str
    row_key: bytes
    payload: bytes | None
    named: str
    row: str


@dataclass(frozen=True)
class Letter:
    """A row that a destination did not take."""

    customer_id: str
    operation: str
    reason: str
    is_due: bool  # the next plan looks at it again
    version: int
    key: str
    died_at: str


_BATCH = (
    "select target, version, phase, batch, part, key, row_count, status, attempts, runs, is_uncertain, not_before "
    "from delivery_batches"
)
KEPT_DAYS = 400  # of requests in the log, and of batches with an answer
_AT = "target = ? and version = ? and phase = ? and batch = ? and part = ?"
_OPEN = "status not in ('acknowledged', 'dead')"


class Ledger:
    """The ledger of one home, over one connection: for one thread."""

    def __init__(self, home: Home) -> None:
        State(home)  # creates the file, for its owner only
        self.home = home
        self.connection = connect(home)
        self.connection.executescript(_SCHEMA)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what happens inside as one, or nothing of it."""
        self.connection.execute("begin immediate")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("rollback")
            raise
        self.connection.execute("commit")

    def target(self, audience: str, destination: str) -> Target:
        """The target of that name, made where there is none."""
        names = (audience, destination)
        with self.transaction() as connection:
            connection.execute("insert or ignore into delivery_targets (audience, destination) values (?, ?)", names)
        number = self._one("select target from delivery_targets where audience = ? and destination = ?", names)[0]
        return Target(number, audience, destination)

    def targets(self) -> list[Target]:
        """Every audience at every destination that anything was planned for."""
        rows = self.connection.execute("select target, audience, destination from delivery_targets order by 2, 3")
        return [Target(*row) for row in rows.fetchall()]

    def state(self, target: Target) -> str:
        """`active`; `paused`: nothing is planned and nothing sent; `withdrawn`: nobody is to be there any more."""
        return self._one("select state from delivery_targets where target = ?", (target.number,))[0]

    def set_state(self, target: Target, state: str) -> None:
        """Pause, withdraw or resume a target."""
        with self.transaction() as connection:
            connection.execute("update delivery_targets set state = ? where target = ?", (state, target.number))

    def is_left_over(self) -> bool:
        """Whether anything that was planned waits to be sent, or to be sent again."""
        return (
            self._one(
                "select 1 from delivery_targets join delivery_versions as open using (target) "
                "where state <> 'paused' and status = 'open' and (adds + updates + removes = 0 or exists ("
                "select 1 from delivery_batches as b where b.target = open.target and b.version = open.version "
                f"and b.{_OPEN} and b.status <> 'uncertain')) limit 1"
            )
            is not None
        )

    def overview(self) -> list[dict[str, Any]]:
        """Every target with its last version, what it holds and what waits for a person."""
        rows = self.connection.execute(
            """
            select
                targets.audience, targets.destination, targets.state, versions.version, versions.status, versions.adds,
                versions.updates, versions.removes,
                (select count(*) from delivery_held where target = targets.target) as held,
                (select count(*) from delivery_batches as b
                    where b.target = targets.target and b.version = versions.version
                        and b.status not in ('acknowledged', 'dead', 'uncertain')) as to_send,
                (select count(*) from delivery_batches as b
                    where b.target = targets.target and b.version = versions.version and b.status = 'uncertain') as uncertain,
                (select count(*) from delivery_letters where target = targets.target) as dead_letters,
                (select max(at) from delivery_log where target = targets.target and outcome = 'answered') as answered_at
            from delivery_targets as targets
            left join delivery_versions as versions
                on versions.target = targets.target and versions.version = targets.version and versions.status <> 'planning'
            order by targets.audience, targets.destination
            """
        )
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]

    def last_version(self, target: Target) -> int:
        """The number of the last version that was planned; 0 before the first."""
        return self._one("select version from delivery_targets where target = ?", (target.number,))[0]

    def versions(self, target: Target, after: int = 0) -> list[dict[str, Any]]:
        """The versions of a target above one, with how many rows were taken and how many were not."""
        rows = self.connection.execute(
            """
            select version, versions.status, adds, updates, removes, coalesce(sum(accepted), 0) as accepted,
                coalesce(sum(rejected), 0) as rejected, planned_at, finished_at
            from delivery_versions as versions left join delivery_batches using (target, version)
            where target = ? and version > ? and versions.status <> 'planning'
            group by version order by version
            """,
            (target.number, after),
        )
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]

    def log_of(self, target: Target, limit: int = 100) -> list[dict[str, Any]]:
        """The last requests for a target, the newest first."""
        rows = self.connection.execute(
            "select at, version, operation, attempt, outcome, rows, accepted, rejected, again, seconds, request_id, reason, "
            "key from delivery_log where target = ? order by rowid desc limit ?",
            (target.number, limit),
        )
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]

    def trim(self, days: int = KEPT_DAYS) -> None:
        """Drop requests and answered batches of former versions that are older than so many days."""
        since = datetime.fromtimestamp(time.time() - days * 86_400, UTC).isoformat(timespec="milliseconds")
        with self.transaction() as connection:
            connection.execute(
                "delete from delivery_log where rowid < coalesce((select rowid from delivery_log where at >= ? "
                "order by rowid limit 1), 9e18)",
                (since,),
            )
            old = connection.execute(
                "select target, version from delivery_versions as old where finished_at < ? and exists ("
                "select 1 from delivery_batches as b where b.target = old.target and b.version = old.version)",
                (since,),
            ).fetchall()
            connection.executemany("delete from delivery_batches where target = ? and version = ?", old)

    @contextlib.contextmanager
    def turn(self, target: Target) -> Iterator[None]:
        """Be the only one who plans, sends or settles for a target; the operating system ends it with the process.

        Raises:
            OnefoldError: another process or thread has its turn.
        """
        folder = self.home.path / "delivering"
        folder.mkdir(exist_ok=True)
        with (folder / str(target.number)).open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OnefoldError(f"{target}: is being delivered already; run again when that has ended") from None
            yield

    def open_version(self, target: Target) -> Plan | None:
        """The version that is neither finished nor given up; there is one at most."""
        row = self._one(
            "select version, adds, updates, removes from delivery_versions where target = ? and status = 'open'",
            (target.number,),
        )
        return Plan(*row) if row else None

    def held_count(self, target: Target) -> int:
        """How many rows the destination is known to hold."""
        return self._one("select count(*) from delivery_held where target = ?", (target.number,))[0]

    def next_batch(self, target: Target, version: int, moment: float) -> Batch | None:
        """The first batch that is to be sent; rows that are to wait, as they were asked for again, let those behind them pass.

        A batch that failed as a whole does not, and no row passes one of an operation before its own.

        Args:
            moment: the time, in seconds since 1970.
        """
        unsent = f"{_BATCH} where target = ? and version = ? and {_OPEN} and status <> 'uncertain'"
        row = self._one(f"{unsent} order by phase, batch, part limit 1", (target.number, version))
        if row is None:
            return None
        first = _batch(row)
        if first.status != "waiting" or first.not_before <= moment:
            return first
        of_phase = (target.number, version, first.phase)
        row = self._one(
            f"{unsent} and phase = ? and (status <> 'waiting' or not_before <= ?) order by batch, part limit 1",
            (*of_phase, moment),
        ) or self._one(f"{unsent} and phase = ? order by not_before, batch, part limit 1", of_phase)
        return _batch(row)

    def open_batches(self, target: Target, status: str | None = None) -> Iterator[Batch]:
        """Batches without an answer, in the order of sending; of one status if it is named. They may be settled meanwhile."""
        plan, place = self.open_version(target), (-1, 0, 0)
        while plan is not None:
            rows = self.connection.execute(
                f"{_BATCH} where target = ? and version = ? and {_OPEN} and (phase, batch, part) > (?, ?, ?) "
                "and status = coalesce(?, status) order by phase, batch, part limit 500",
                (target.number, plan.version, *place, status),
            ).fetchall()
            yield from map(_batch, rows)
            if len(rows) < 500:
                return
            place = rows[-1][2:5]

    def uncertain(self, target: Target) -> list[Batch]:
        """Batches that a destination which appends may have got without answering, also those sent again since."""
        rows = self.connection.execute(
            f"{_BATCH} where target = ? and is_uncertain and version in (select version from delivery_versions "
            "where target = ? and semantics = 'appends') order by version, phase, batch, part",
            (target.number, target.number),
        )
        return [_batch(row) for row in rows.fetchall()]

    def rows_of(self, batch: Batch) -> list[SentRow]:
        rows = self.connection.execute(
            f"select place, customer_id, row_key, payload, named, row from delivery_rows where {_AT} order by place",
            batch.place,
        )
        return [SentRow(*row) for row in rows.fetchall()]

    def letters(self, target: Target) -> list[Letter]:
        """The dead letters of a target."""
        rows = self.connection.execute(
            "select customer_id, operation, reason, is_due, version, key, died_at from delivery_letters where target = ? "
            "order by died_at, customer_id, operation",
            (target.number,),
        )
        return [Letter(c, o, reason, bool(due), v, key, at) for c, o, reason, due, v, key, at in rows.fetchall()]

    def letter_count(self, target: Target) -> int:
        """How many dead letters there are."""
        return self._one("select count(*) from delivery_letters where target = ?", (target.number,))[0]

    def has_letters(self, number: int) -> bool:
        """Whether there is any dead letter of the target of that number."""
        return self._one("select 1 from delivery_letters where target = ? limit 1", (number,)) is not None

    def replay(self, target: Target) -> int:
        """Have the next plan look at every dead letter again, with the row as it is then; returns how many there are."""
        with self.transaction() as connection:
            return connection.execute("update delivery_letters set is_due = 1 where target = ?", (target.number,)).rowcount

    def settle(self, target: Target, key: str, was_sent: bool) -> None:
        """Say what became of a batch that was held: it counts as taken, or it is sent again under its key.

        Raises:
            OnefoldError: no batch of that key is held for a decision.
        """
        with self.turn(target):
            batch = next((batch for batch in self.open_batches(target, "uncertain") if batch.key == key), None)
            if batch is None:
                raise OnefoldError(
                    f"{target}: no batch {key} waits for a decision; onefold delivery uncertain {target.audience} "
                    f"{target.destination} lists those that do"
                )
            with self.transaction() as connection:
                if was_sent:
                    rows = self.rows_of(batch)
                    self._take(batch, rows)
                    self.close(batch, "acknowledged", len(rows), 0, None)
                else:
                    connection.execute(
                        f"update delivery_batches set status = 'waiting', runs = 0, not_before = 0 where {_AT}", batch.place
                    )
                self.log(batch, "decided", reason="taken as sent" if was_sent else "sent again")

    def give_up(self, target: Target) -> int:
        """End the open version: what was not sent is dropped, and the next plan looks at its customers again.

        What may have been received counts as held, so that it is removed when its customer leaves. Returns how many rows
        were dropped; killed in between, it is continued by calling it again.
        """
        with self.turn(target):
            plan, dropped = self.open_version(target), 0
            if plan is None:
                return 0
            for batch in self.open_batches(target):
                with self.transaction():
                    rows = self.rows_of(batch)
                    doubt = batch.is_uncertain or batch.status == "sending"
                    self.bury(batch, ((row, "given up") for row in rows), is_due=True, may_be_held=doubt)
                    self.close(batch, "dead", 0, len(rows), None)
                dropped += batch.row_count
            self.finish(target, plan.version, "given_up")
        return dropped

    def finish(self, target: Target, version: int, status: str) -> None:
        with self.transaction() as connection:
            connection.execute(
                "update delivery_versions set status = ?, finished_at = ? where target = ? and version = ?",
                (status, now(), target.number, version),
            )

    # What follows is called inside a transaction.

    def mark(self, batch: Batch, status: str, **columns: object) -> None:
        """Set a batch's status, and other columns of it."""
        columns = {"status": status, **columns}
        self.connection.execute(
            f"update delivery_batches set {', '.join(f'{name} = ?' for name in columns)} where {_AT}",
            (*columns.values(), *batch.place),
        )

    def answer(
        self,
        batch: Batch,
        accepted: list[SentRow],
        rejected: list[tuple[SentRow, str]],
        again: list[SentRow],
        request_id: str | None,
        not_before: float,
        is_told_of_now: bool,
    ) -> None:
        """Take in what a destination said of a batch; rows to be sent again become the batch's next part.

        Args:
            is_told_of_now: the answer is about this attempt alone; one before without an answer may have been received.
        """
        self._take(batch, accepted)
        self.bury(batch, rejected, is_due=False, may_be_held=batch.is_uncertain and is_told_of_now)
        if again:
            part = batch.part + 1
            self.connection.execute(
                "insert into delivery_batches (target, version, phase, batch, part, key, row_count, status, is_uncertain, "
                "not_before) values (?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?)",
                (
                    *(*batch.place[:4], part),
                    # Other rows need another key: a destination that knows the first would answer for those.
                    f"{batch.key.partition('.')[0]}.{part}",
                    len(again),
                    batch.is_uncertain,
                    not_before,
                ),
            )
            self.connection.executemany(
                f"update delivery_rows set part = ? where {_AT} and place = ?",
                [(part, *batch.place, row.place) for row in again],
            )
        status = "acknowledged" if accepted or again or not rejected else "dead"
        self.close(batch, status, len(accepted), len(rejected), request_id)

    def withhold(self, batch: Batch, rows: list[tuple[SentRow, str]]) -> None:
        """Take rows out of a batch before it is sent, with the reason for each."""
        self.bury(batch, rows, is_due=True, may_be_held=batch.is_uncertain)
        self.connection.executemany(
            f"delete from delivery_rows where {_AT} and place = ?", [(*batch.place, row.place) for row, _ in rows]
        )
        self.mark(batch, batch.status, row_count=batch.row_count - len(rows))

    def bury(self, batch: Batch, rows: Iterable[tuple[SentRow, str]], is_due: bool, may_be_held: bool) -> None:
        """Make rows dead letters, each with its reason."""
        rows = list(rows)
        at = now()
        self.connection.executemany(
            "insert or replace into delivery_letters values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(batch.target, row.customer_id, batch.operation, scrubbed(reason, row.row)),
                    *(_judged(batch, row), is_due, batch.version, batch.key, at),
                )
                for row, reason in rows
            ],
        )
        if may_be_held and batch.operation != "remove":
            self.connection.executemany(
                "insert into delivery_held values (?, ?, ?, null, ?) "
                "on conflict (target, customer_id, row_key) do update set payload = null",
                [(batch.target, row.customer_id, row.row_key, row.named) for row, _ in rows],
            )

    def log(self, batch: Batch, outcome: str, **columns: object) -> None:
        columns = {
            "target": batch.target,
            "version": batch.version,
            "operation": batch.operation,
            "key": batch.key,
            "attempt": batch.attempts,
            "outcome": outcome,
            "rows": batch.row_count,
            **columns,
            "at": now(),
        }
        self.connection.execute(
            f"insert into delivery_log ({', '.join(columns)}) values ({', '.join('?' * len(columns))})", tuple(columns.values())
        )

    def _take(self, batch: Batch, rows: list[SentRow]) -> None:
        """The destination holds these rows now, or no longer."""
        if batch.operation == "remove":
            self.connection.executemany(
                "delete from delivery_held where target = ? and customer_id = ? and row_key = ?",
                [(batch.target, row.customer_id, row.row_key) for row in rows],
            )
        else:
            self.connection.executemany(
                "insert or replace into delivery_held values (?, ?, ?, ?, ?)",
                [(batch.target, row.customer_id, row.row_key, row.payload, row.named) for row in rows],
            )
        if not self.has_letters(batch.target):
            return
        settled = ("remove",) if batch.operation == "remove" else ("add", "update")
        self.connection.executemany(
            "delete from delivery_letters where target = ? and customer_id = ? and operation = ?",
            [(batch.target, row.customer_id, operation) for row in rows for operation in settled],
        )
        if batch.operation != "remove":  # what is there again is removed again: that its removal failed once says nothing
            self.connection.executemany(
                "delete from delivery_letters where target = ? and customer_id = ? and operation = 'remove' and payload is ?",
                [(batch.target, row.customer_id, row.row_key) for row in rows],
            )

    def close(self, batch: Batch, status: str, accepted: int, rejected: int, request_id: str | None) -> None:
        """End a batch; its rows are no longer needed."""
        self.connection.execute(f"delete from delivery_rows where {_AT}", batch.place)
        self.mark(batch, status, request_id=request_id, accepted=accepted, rejected=rejected)

    def _one(self, statement: str, values: tuple = ()) -> tuple | None:
        return self.connection.execute(statement, values).fetchone()


def connect(home: Home) -> sqlite3.Connection:
    """A connection to the state store in which transactions are begun and ended by hand."""
    connection = sqlite3.connect(home.state, timeout=30, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")  # what was sent must be known after a loss of power, too
    return connection


def scrubbed(reason: str, row: str) -> str:
    """A destination's words without anything of the row they are about."""
    values = {text for value in json.loads(row).values() for text in map(str, value if isinstance(value, list) else [value])}
    lowered = reason.lower()
    # Two letters may be in any word; two Chinese characters are a name.
    told = [value for value in values if len(value) > (1 if not value.isascii() else 2) and value.lower() in lowered]
    for value in sorted(told, key=len, reverse=True):
        reason = re.sub(re.escape(value), "…", reason, flags=re.I)
    return anonymous(reason)


def anonymous(reason: str) -> str:
    """A text for the log without e-mail addresses, longer numbers and hashes, which may be of people."""
    return re.sub(r"[^\s<>\"',;:=]+@[^\s<>\"',;:=]+|\+?\d[\d\s()-]{5,}\d|\b[0-9a-fA-F]{32,}\b", "…", reason)[:500]


def _judged(batch: Batch, row: SentRow) -> bytes | None:
    return row.row_key if batch.operation == "remove" else row.payload


def _batch(row: tuple) -> Batch:
    return Batch(*row[:10], bool(row[10]), row[11])


def now() -> str:
    """The time as the ledger writes it, UTC."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
