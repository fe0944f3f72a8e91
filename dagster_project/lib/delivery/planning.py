"""Planning: what has to be added, updated and removed so that a destination holds what an audience says, as one version."""

import contextlib
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dagster_project.lib.delivery.destination import NO_IDENTIFIER, Destination, Row, keyed_by
from dagster_project.lib.delivery.ledger import OPERATIONS, TOKENS, Batch, Ledger, Plan, Target, connect, now
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.keyed import tokens

_REMOVE, _UPDATE, _ADD = range(len(OPERATIONS))
_CHUNK = 5_000  # rows a transaction; others may write the state store in between


class Members(Protocol):
    """Where the members of an audience come from, with the values that are sent."""

    position: str  # how far what is read now goes; kept, and given back as `since`
    shape: str  # what a row is made of: with another one everybody is planned anew

    def is_empty(self) -> bool:
        """Whether the source is empty or broken, so that nobody may be removed for being absent from it."""

    def everyone(self) -> Iterator[tuple[str, Row | None]]:
        """Every member, with their row, or None for whoever the destination should not hold, by customer id upwards."""

    def changed(self, since: str, besides: Iterable[str]) -> Iterator[tuple[str, Row | None]] | None:
        """Customers who may have changed after `since`, and those of `besides`, each once, with their row.

        The row is None for whoever the destination should not hold. None instead of an iterator: it cannot be said.
        """

    def leaving(self, since: str | None, besides: Iterable[str]) -> Iterator[tuple[str, None]]:
        """Of the changed (None: of none) and those of `besides` the ones who may not stay, whatever else is held back."""

    def these(self, customer_ids: Sequence[str]) -> Iterator[tuple[str, Row | None]]:
        """These customers, each once, with their row, or None for whoever the destination should not hold."""


_Held = list[tuple[bytes, bytes | None, str]]  # row key, payload, what names the row


def plan(ledger: Ledger, target: Target, destination: Destination, members: Members) -> Plan | None:
    """Fix what has changed for a target as its next version; None where nothing has.

    The first plan, and one after what is sent was configured anew, compares everybody; others cost as much as has changed.
    Members are read as they come and written in parts, into a version that counts only when it is whole.

    Raises:
        OnefoldError: the version before is neither finished nor given up; or the source is empty while the destination
            holds rows, which removes nobody.
    """
    with ledger.turn(target):
        _make_ready(ledger, target)
        held_count = ledger.held_count(target) if members.is_empty() else 0
        if held_count:
            raise OnefoldError(
                f"{target}: the audience's source is empty, and an empty source removes nobody; {held_count} rows stay there"
            )
        return _Planner(ledger, target, destination, members).plan()


def plan_leavers(ledger: Ledger, target: Target, destination: Destination, members: Members) -> Plan | None:
    """Fix the removal of those who may not stay, and nothing else, of an audience that was stopped.

    What else changed is left to the next plan.

    Raises:
        OnefoldError: the version before is neither finished nor given up.
    """
    with ledger.turn(target):
        _make_ready(ledger, target)
        return _Planner(ledger, target, destination, members, only_leavers=True).plan()


def unidentified(ledger: Ledger) -> list[str]:
    """Customers of whom the last plan found nothing that identifies them at its destination."""
    rows = ledger.connection.execute("select customer_id from temp.unsent where reason = ?", (NO_IDENTIFIER,))
    return [customer_id for (customer_id,) in rows]


def withdraw(ledger: Ledger, target: Target, destination: Destination) -> Plan | None:
    """Fix the removal of everything that a destination holds of an audience that is not to go there any more.

    Raises:
        OnefoldError: the version before is neither finished nor given up.
    """
    with ledger.turn(target):
        _make_ready(ledger, target)
        return _Planner(ledger, target, destination, _Nobody(), may_be_empty=True).plan()


class _Nobody:
    """An audience without members, on purpose."""

    position, shape = "", "nobody"

    def is_empty(self) -> bool:
        return False

    def everyone(self) -> Iterator[tuple[str, Row]]:
        return iter(())

    def changed(self, since: str, besides: Iterable[str]) -> None:
        return None

    def these(self, customer_ids: Sequence[str]) -> Iterator[tuple[str, Row | None]]:
        return ((customer_id, None) for customer_id in customer_ids)


def _make_ready(ledger: Ledger, target: Target) -> None:
    if unfinished := ledger.open_version(target):
        raise OnefoldError(
            f"{target}: version {unfinished.version} is not finished; send it, settle what is uncertain, or give it up, "
            "before the next is planned"
        )
    _discard_unfinished_plans(ledger, target)


def recheck(ledger: Ledger, target: Target, destination: Destination, members: Members) -> int:
    """Take out of a target's open version whom the destination should not hold any more, or not like that; returns how many.

    For a version that is sent later than it was planned: consent counts as it was last stated. Whom the destination may have
    got by an attempt without an answer is removed there by the next version, and who is to be sent otherwise is planned anew.
    """
    withheld = 0
    with ledger.turn(target):
        together, count = [], 0  # asked for at once, as there may be very many small batches
        for batch in ledger.open_batches(target):
            if batch.operation == "remove" or batch.status == "uncertain":
                continue
            together.append(batch)
            count += batch.row_count
            if count >= _CHUNK:
                withheld += _withhold_changed(ledger, destination, together, members)
                together, count = [], 0
        withheld += _withhold_changed(ledger, destination, together, members)
    return withheld


def _withhold_changed(ledger: Ledger, destination: Destination, batches: list[Batch], members: Members) -> int:
    sent = [(batch, ledger.rows_of(batch)) for batch in batches]
    customers = [row.customer_id for _, rows in sent for row in rows]
    present = members.these(customers) if customers else ()
    payloads = {customer_id: _payload(ledger, destination, row) for customer_id, row in present}
    count = 0
    for batch, rows in sent:
        theirs = [(row, "is no longer to be sent like that") for row in rows if payloads.get(row.customer_id) != row.payload]
        count += len(theirs)
        if theirs:
            doubtful = replace(batch, is_uncertain=batch.is_uncertain or batch.status == "sending")
            with ledger.transaction():
                ledger.withhold(doubtful, theirs)
    return count


def _payload(ledger: Ledger, destination: Destination, row: Row | None) -> bytes | None:
    """What the ledger knows a row by as it would be sent; None for whoever is not sent."""
    prepare = getattr(destination, "prepare", None)
    if row is not None and prepare:
        row = prepare(row)
    return None if row is None else _hash(ledger.home.key, _canonical({name: row[name] for name in destination.columns}))


def _discard_unfinished_plans(ledger: Ledger, target: Target) -> None:
    """Remove what a killed plan wrote; a part at a time, rows first, so that being killed again leaves nothing behind."""
    found = ledger.connection.execute(
        "select version from delivery_versions where target = ? and status = 'planning'", (target.number,)
    ).fetchall()
    for (version,) in found:
        of_version = "target = ? and version = ?"
        batches = ledger.connection.execute(
            f"select phase, batch, part from delivery_batches where {of_version}", (target.number, version)
        ).fetchall()
        for start in range(0, len(batches), 100):
            with ledger.transaction() as connection:
                for table in ("delivery_rows", "delivery_batches"):
                    connection.executemany(
                        f"delete from {table} where {of_version} and phase = ? and batch = ? and part = ?",
                        [(target.number, version, *place) for place in batches[start : start + 100]],
                    )
        with ledger.transaction() as connection:
            connection.execute(f"delete from delivery_versions where {of_version}", (target.number, version))


@dataclass
class _Filling:
    """The batch of one operation that is being filled."""

    number: int = 0
    rows: list[tuple] = field(default_factory=list)
    count: int = 0  # over all batches


class _Planner:
    def __init__(
        self,
        ledger: Ledger,
        target: Target,
        destination: Destination,
        members: Members,
        may_be_empty: bool = False,
        only_leavers: bool = False,
    ) -> None:
        self.ledger, self.target, self.destination, self.members = ledger, target, destination, members
        self.may_be_empty, self.only_leavers = may_be_empty, only_leavers
        self.secret = ledger.home.key
        self.columns, self.keys = tuple(destination.columns), keyed_by(destination)
        self.prepare = getattr(destination, "prepare", None)
        shape = [members.shape, self.columns, self.keys, self.prepare is not None]
        self.shape = hashlib.sha256(json.dumps(shape).encode()).hexdigest()
        row = ledger.connection.execute(
            "select shape, position, version from delivery_targets where target = ?", (target.number,)
        ).fetchone()
        self.since = row[1] if row[0] == self.shape else None
        self.version = row[2] + 1
        self.has_letters = ledger.has_letters(target.number)
        self.fillings = tuple(_Filling() for _ in OPERATIONS)
        self.waiting: list[tuple] = []  # full batches not yet written
        self.waiting_count = 0

    def plan(self) -> Plan | None:
        connection = self.ledger.connection
        held = connection.execute("select named from delivery_held where target = ? limit 1", (self.target.number,)).fetchone()
        if held and (was := list(json.loads(held[0]))) != list(self.keys):
            raise OnefoldError(
                f"{self.target}: the key was {', '.join(was)} and is {', '.join(self.keys)} now, but what was sent can only be "
                "removed by the key it was sent with; take that back, or give the destination another name"
            )
        # Who leaves is known whole before it is cut into batches: what somebody else still has there is not removed.
        connection.execute("drop table if exists temp.leaving")
        connection.execute(
            "create temp table leaving (customer_id text, row_key blob, named text, primary key (customer_id, row_key))"
        )
        connection.execute("create index temp.leaving_by_key on leaving (row_key)")
        # Whom nothing identifies there, with that reason; and who is to be sent no more, whose letters are moot.
        connection.execute("drop table if exists temp.unsent")
        connection.execute("create temp table unsent (customer_id text primary key, reason text)")
        # A connection that reads on could not begin to write once another process had written.
        with contextlib.closing(connect(self.ledger.home)) as reading:
            changed = None
            if self.only_leavers:
                besides = self._due_customers(reading) if self.since else self._held_customers(reading)
                changed = self.members.leaving(self.since, besides)
            elif self.since is not None:
                changed = self.members.changed(self.since, self._due_customers(reading))
            self._compare(self._everyone(reading) if changed is None else self._with_held(changed))
        self._plan_removals()
        for phase in range(len(OPERATIONS)):
            self._cut(phase)
        self._write()
        return self._commit()

    def _due_customers(self, reading: sqlite3.Connection) -> Iterator[str]:
        rows = reading.execute(
            "select distinct customer_id from delivery_letters where target = ? and is_due", (self.target.number,)
        )
        for (customer_id,) in rows:
            yield customer_id

    def _held_customers(self, reading: sqlite3.Connection) -> Iterator[str]:
        for (customer_id,) in reading.execute(
            "select distinct customer_id from delivery_held where target = ?", (self.target.number,)
        ):
            yield customer_id

    def _with_held(self, changed: Iterator[tuple[str, Row | None]]) -> Iterator[tuple[str, Row | None, _Held]]:
        for customer_id, row in changed:
            held = self.ledger.connection.execute(
                "select row_key, payload, named from delivery_held where target = ? and customer_id = ?",
                (self.target.number, customer_id),
            ).fetchall()
            yield customer_id, row, held

    def _everyone(self, reading: sqlite3.Connection) -> Iterator[tuple[str, Row | None, _Held]]:
        """Members beside what is held, both by customer id, so that neither has to fit into memory."""
        held = _grouped(
            reading.execute(
                "select customer_id, row_key, payload, named from delivery_held where target = ? order by customer_id",
                (self.target.number,),
            )
        )
        customer_id, theirs = next(held, (None, []))
        last, is_filled = "", False
        for member, row in self.members.everyone():
            if member <= last:
                raise OnefoldError(f"{self.target}: members do not come by customer id upwards, or twice")
            last, is_filled = member, True
            while customer_id is not None and customer_id < member:
                yield customer_id, None, theirs
                customer_id, theirs = next(held, (None, []))
            if customer_id == member:
                yield member, row, theirs
                customer_id, theirs = next(held, (None, []))
            else:
                yield member, row, []
        if not is_filled and customer_id is not None and not self.may_be_empty:
            raise OnefoldError(f"{self.target}: the audience has no members to send, and an empty source removes nobody")
        while customer_id is not None:
            yield customer_id, None, theirs
            customer_id, theirs = next(held, (None, []))

    def _compare(self, customers: Iterator[tuple[str, Row | None, _Held]]) -> None:
        leaving: list[tuple[str, bytes, str]] = []
        for customer_id, row, held in customers:
            row_key, raw = None, row
            if row is None and self.has_letters:
                self._note_unsent(customer_id, None)
            elif row is not None and self.prepare and (row := self.prepare(row)) is None:
                self._note_unsent(customer_id, NO_IDENTIFIER)
            if row is not None:
                sent = _canonical({name: row[name] for name in self.columns})
                stored = sent if raw is row else _canonical({**row, TOKENS: self._address_tokens(raw)})
                named = _canonical({name: row[name] for name in self.keys})
                is_own = self.keys == ("customer_id",) and row["customer_id"] == customer_id
                row_key = b"" if is_own else _hash(self.secret, named)
                payload = _hash(self.secret, sent)
                there = next((was for key, was, _ in held if key == row_key), b"")
                if there != payload:
                    phase = _UPDATE if there else _ADD  # what it may hold is added anew
                    self._put(phase, customer_id, row_key, payload, named, stored)
            leaving += [(customer_id, key, named) for key, _, named in held if key != row_key]
            if len(leaving) >= _CHUNK:
                self._leave(leaving)
                leaving = []
        self._leave(leaving)

    def _address_tokens(self, row: Row) -> list[str]:
        """What refusals of the addresses in a row are known by: who checks them before sending no longer sees the addresses."""
        sources = getattr(self.members, "columns", {})
        named = [f"{kind}:{row[name]}" for name, kind in sources.items() if kind in ("email", "phone") and row.get(name)]
        return tokens(self.secret, named)

    def _note_unsent(self, customer_id: str, reason: str | None) -> None:
        self.ledger.connection.execute("insert into temp.unsent values (?, ?)", (customer_id, reason))

    def _leave(self, leaving: list[tuple[str, bytes, str]]) -> None:
        with self.ledger.transaction() as connection:
            connection.executemany("insert into temp.leaving values (?, ?, ?)", leaving)

    def _plan_removals(self) -> None:
        connection = self.ledger.connection
        connection.execute("drop table if exists temp.shared")
        connection.execute(
            """
            create temp table shared as
            select leaving.customer_id, leaving.row_key from temp.leaving as leaving
            where leaving.row_key <> x'' and exists (
                select 1 from delivery_held as held
                where held.target = ? and held.row_key = leaving.row_key and held.row_key <> x''
                    and held.customer_id <> leaving.customer_id
                    and not exists (
                        select 1 from temp.leaving as other
                        where other.row_key = held.row_key and other.customer_id = held.customer_id
                    )
            )
            """,
            (self.target.number,),
        )
        connection.execute("delete from temp.leaving where (customer_id, row_key) in (select * from temp.shared)")
        rows = connection.execute("select customer_id, row_key, named from temp.leaving order by customer_id, row_key")
        while chunk := rows.fetchmany(_CHUNK):
            for customer_id, row_key, named in chunk:
                self._put(_REMOVE, customer_id, row_key, None, named, named)

    def _put(self, phase: int, customer_id: str, row_key: bytes, payload: bytes | None, named: str, sent: str) -> None:
        # What the destination refused for what it is, it is not asked again.
        is_refused = (
            self.has_letters
            and self.ledger.connection.execute(
                "select 1 from delivery_letters where target = ? and customer_id = ? and operation = ? and not is_due "
                "and payload is ?",
                (self.target.number, customer_id, OPERATIONS[phase], row_key if phase == _REMOVE else payload),
            ).fetchone()
        )
        if is_refused:
            return
        filling = self.fillings[phase]
        filling.rows.append((customer_id, row_key, payload, named, sent))
        filling.count += 1
        if len(filling.rows) >= self.destination.batch_size:
            self._cut(phase)

    def _cut(self, phase: int) -> None:
        filling = self.fillings[phase]
        if not filling.rows:
            return
        filling.number += 1
        place = f"{self.target.audience}-{self.version:06}-{phase}-{filling.number:06}"
        # Made from the content: a state store restored from a backup sends the same batch under the same key.
        content = hmac.new(self.secret, f"{self.target.destination}:{place}".encode(), hashlib.sha256)
        for customer_id, row_key, payload, _, _ in filling.rows:
            content.update(customer_id.encode() + b"\0" + row_key + b"\0" + (payload or b"") + b"\0")
        self.waiting.append((phase, filling.number, f"{place}-{content.hexdigest()[:24]}", filling.rows))
        self.waiting_count += len(filling.rows)
        filling.rows = []
        if self.waiting_count >= _CHUNK:
            self._write()

    def _write(self) -> None:
        if not self.waiting:
            return
        number, version = self.target.number, self.version
        with self.ledger.transaction() as connection:
            connection.execute(
                "insert or ignore into delivery_versions (target, version, status, semantics, planned_at) "
                "values (?, ?, 'planning', ?, ?)",
                (number, version, self.destination.semantics, now()),
            )
            for phase, batch, key, rows in self.waiting:
                connection.execute(
                    "insert into delivery_batches (target, version, phase, batch, part, key, row_count, status) "
                    "values (?, ?, ?, ?, 0, ?, ?, 'waiting')",
                    (number, version, phase, batch, key, len(rows)),
                )
                connection.executemany(
                    "insert into delivery_rows values (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?)",
                    [(number, version, phase, batch, place, *row) for place, row in enumerate(rows)],
                )
        self.waiting, self.waiting_count = [], 0

    def _commit(self) -> Plan | None:
        removes, updates, adds = (filling.count for filling in self.fillings)
        has_changed = bool(removes or updates or adds)
        number = self.target.number
        with self.ledger.transaction() as connection:
            connection.execute(
                "delete from delivery_held where target = ? "
                "and (customer_id, row_key) in (select customer_id, row_key from temp.shared)",
                (number,),
            )
            connection.execute(
                "delete from delivery_letters where target = ? and (is_due and not ? "
                "or operation <> 'remove' and customer_id in (select customer_id from temp.unsent))",
                (number, self.only_leavers),
            )
            connection.execute(
                "insert into delivery_letters select ?, customer_id, 'add', reason, null, 0, ?, '', ? "
                "from temp.unsent where reason is not null",
                (number, self.version - (not has_changed), now()),
            )
            if has_changed:
                connection.execute(
                    "update delivery_versions set status = 'open', adds = ?, updates = ?, removes = ? "
                    "where target = ? and version = ?",
                    (adds, updates, removes, number, self.version),
                )
            connection.execute("update delivery_targets set version = version + ? where target = ?", (has_changed, number))
            if not self.only_leavers:  # else whatever else changed is still to be looked at
                connection.execute(
                    "update delivery_targets set shape = ?, position = ? where target = ?",
                    (self.shape, self.members.position, number),
                )
        return Plan(self.version, adds, updates, removes) if has_changed else None


def _hash(secret: bytes, text: str) -> bytes:
    """Keyed, since what is hashed may be guessed; 128 bits."""
    return hmac.digest(secret, text.encode(), "sha256")[:16]


def _canonical(row: dict[str, Any]) -> str:
    """A row as the JSON that is stored, hashed and sent: dates and decimals as text."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)


def _grouped(rows: Iterable[tuple]) -> Iterator[tuple[str, _Held]]:
    """What is held by customer."""
    customer_id, theirs = None, []
    for owner, *what in rows:
        if owner != customer_id:
            if customer_id is not None:
                yield customer_id, theirs
            customer_id, theirs = owner, []
        theirs.append(tuple(what))
    if customer_id is not None:
        yield customer_id, theirs
