"""Audiences that the circuit breaker stopped, in the state store: why, and who approved them all the same."""

import json
import sqlite3
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.state import State, store_transaction

_SCHEMA = """
create table if not exists audience_stops (
    stop integer primary key autoincrement,
    audience text not null,
    version integer not null,    -- the one that it would be
    refresh integer not null,    -- the last one that would have been published
    baseline integer,            -- the refresh that was published before it was stopped
    findings text not null,      -- JSON: kind, sentence and numbers of each
    members integer not null,    -- who may stay of those who are in it
    would_be integer,            -- members of the version that was stopped; null: not known, as checks failed
    stopped_at text not null,
    judged_at text not null,     -- last
    approved_by text,
    approved_reason text,
    approved_at text,
    ended_at text,               -- null: stopped now
    ended text                   -- approved (and published), cause gone, withdrawn (is an audience no more), or other:
                                 -- what was approved is not what came
);
create unique index if not exists audience_stops_now on audience_stops (audience) where ended_at is null;
create table if not exists audience_passes (  -- the last refresh that an audience was published from, nothing held back
    audience text primary key,
    refresh integer not null
);
"""


@dataclass(frozen=True)
class Finding:
    """One reason to stop an audience, as a sentence for people and the numbers behind it."""

    kind: str  # empty, stale, size, match_rate, over_merge, checks
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """An audience that is not published, the version that it would be, and why."""

    number: int
    audience: str
    version: int
    refresh: int
    baseline: int | None
    findings: tuple[Finding, ...]
    members: int
    would_be: int | None
    stopped_at: datetime
    judged_at: datetime
    approved_by: str | None = None
    approved_reason: str | None = None
    approved_at: datetime | None = None

    @property
    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings}

    @property
    def can_be_approved(self) -> bool:
        """Failed checks are put right, or approved as such: no other numbers are known of an audience whose checks failed."""
        return "checks" not in self.kinds

    @property
    def reason(self) -> str:
        return "; ".join(finding.sentence for finding in self.findings)

    def __str__(self) -> str:
        if not self.can_be_approved:
            return f"{self.audience} is not published: {self.reason}"
        return (
            f"{self.audience} is stopped, its {self.members:,} members stay: {self.reason}. Put it right and run `onefold "
            f"refresh`, or let it out: onefold audience approve {self.audience} --version {self.version} --reason …"
        )


_JUDGED = ("refresh", "findings", "members", "would_be")


class Stops:
    """What the state store keeps of stops. Every method is one transaction; several processes may use it at once."""

    def __init__(self, home: Home) -> None:
        State(home)  # creates the file, for its owner only
        self._path = home.state
        with self._transaction() as connection:
            connection.executescript(_SCHEMA)

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return store_transaction(self._path)

    def now(self) -> dict[str, Stop]:
        """The audiences that are stopped, by name; one that was approved is until it is published."""
        with self._transaction() as connection:
            rows = connection.execute(f"{_STOP} where ended_at is null order by audience").fetchall()
        return {row[1]: _stop(row) for row in rows}

    def passed(self, audience: str) -> int | None:
        """The last refresh that the audience was published from, nothing held back."""
        with self._transaction() as connection:
            row = connection.execute("select refresh from audience_passes where audience = ?", (audience,)).fetchone()
        return row[0] if row else None

    def stop(
        self,
        audience: str,
        version: int,
        refresh: int,
        baseline: int | None,
        findings: list[Finding],
        members: int,
        would_be: int | None,
    ) -> Stop:
        """Keep why an audience is stopped; one that is stopped already keeps since when.

        What somebody approved in the meantime stays as they saw it, but for the version's number.
        """
        now = datetime.now(UTC).isoformat()
        said = json.dumps([vars(finding) for finding in findings], ensure_ascii=False, default=str)
        with self._transaction() as connection:
            connection.execute(
                "insert into audience_stops (audience, version, refresh, baseline, findings, members, would_be, stopped_at, "
                "judged_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (audience) where ended_at is null do update set "
                "version = excluded.version, judged_at = excluded.judged_at, "
                + ", ".join(f"{name} = iif(approved_at is null, excluded.{name}, {name})" for name in _JUDGED),
                (audience, version, refresh, baseline, said, members, would_be, now, now),
            )
            row = connection.execute(f"{_STOP} where audience = ? and ended_at is null", (audience,)).fetchone()
        return _stop(row)

    def approve(self, audience: str, approved_by: str, reason: str, version: int | None = None) -> Stop:
        """Let the next publication of a stopped audience out, if it finds what was found now and is of about this size.

        Args:
            version: the one that was looked at; without it, the one that is stopped now.

        Raises:
            OnefoldError: it is not stopped, another version is, or its checks failed.
        """
        if not reason.strip():
            raise OnefoldError("say why it is right to publish: --reason …; it is kept with your name")
        with self._transaction() as connection:
            connection.execute("begin immediate")  # nothing else is found between the look and the approval
            row = connection.execute(f"{_STOP} where audience = ? and ended_at is null", (audience,)).fetchone()
            if row is None:
                raise OnefoldError(f"{audience} is not stopped; `onefold audience stopped` shows those that are")
            stop = _stop(row)
            if version is not None and version != stop.version:
                raise OnefoldError(
                    f"{audience}: version {stop.version} is stopped, not {version}: look at it (onefold audience stopped) "
                    "and approve that one, or not"
                )
            if not stop.can_be_approved:
                raise OnefoldError(
                    f"{audience}: {stop.reason}. What failed checks cannot be approved here; `onefold approve SUITE` takes a "
                    "suite's numbers for the usual"
                )
            connection.execute(
                "update audience_stops set approved_by = ?, approved_reason = ?, approved_at = ? where stop = ?",
                (approved_by, reason, datetime.now(UTC).isoformat(), stop.number),
            )
            return _stop(connection.execute(f"{_STOP} where stop = ?", (stop.number,)).fetchone())

    def end(self, stop: Stop, how: str) -> None:
        """The stop does not hold any more."""
        with self._transaction() as connection:
            connection.execute(
                "update audience_stops set ended_at = ?, ended = ? where stop = ? and ended_at is null",
                (datetime.now(UTC).isoformat(), how, stop.number),
            )

    def forget_all_but(self, audiences: Collection[str]) -> None:
        """End the stops of audiences that are published no more."""
        for name, stop in self.now().items():
            if name not in audiences:
                self.end(stop, "withdrawn")

    def note_passed(self, audience: str, refresh: int) -> None:
        """The audience was published from a refresh, nothing held back: its stop is over."""
        with self._transaction() as connection:
            connection.execute(
                "insert into audience_passes values (?, ?) on conflict (audience) do update set refresh = excluded.refresh",
                (audience, refresh),
            )
            connection.execute(
                "update audience_stops set ended_at = ?, ended = iif(approved_at is null, 'cause gone', 'approved') "
                "where audience = ? and ended_at is null",
                (datetime.now(UTC).isoformat(), audience),
            )


def stopped(home: Home) -> dict[str, Stop]:
    """The audiences of which nothing may leave now but removals, by name."""
    return Stops(home).now()


_STOP = (
    "select stop, audience, version, refresh, baseline, findings, members, would_be, stopped_at, judged_at, approved_by, "
    "approved_reason, approved_at from audience_stops"
)


def _stop(row: tuple) -> Stop:
    number, audience, version, refresh, baseline, findings, members, would_be, stopped_at, judged_at, by, reason, at = row
    found = tuple(Finding(**finding) for finding in json.loads(findings))
    moments = datetime.fromisoformat(stopped_at), datetime.fromisoformat(judged_at)
    approved_at = at and datetime.fromisoformat(at)
    return Stop(number, audience, version, refresh, baseline, found, members, would_be, *moments, by, reason, approved_at)
