"""One delivery: what is left of the last is sent, then what changed is planned and sent, for every destination of a home."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb

from dagster_project.lib.audiences.exclusions import exclude_members, forget_exclusions, write_exclusions
from dagster_project.lib.audiences.tables import prepare_audiences
from dagster_project.lib.delivery.configuration import Configured, load_destinations, works
from dagster_project.lib.delivery.destination import Destination
from dagster_project.lib.delivery.ledger import Ledger, Plan, Target, anonymous
from dagster_project.lib.delivery.members import WarehouseMembers
from dagster_project.lib.delivery.planning import NO_IDENTIFIER, plan, plan_leavers, recheck, unidentified, withdraw
from dagster_project.lib.delivery.sending import Report, Withhold, Work, send_all
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.publish import Audience, audiences, is_published
from dagster_project.lib.quality import require_proof
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refresh, State
from dagster_project.lib.statements import NewRefusals
from dagster_project.lib.stops import stopped

_CONTACTS = ("unified/customers", "unified/customer_identifiers", "unified/contact_permissions")  # what rows are made of


def destinations_of(home: Home, manifest: dict[str, Any]) -> dict[str, Configured]:
    """The destinations of a home, held against its audiences and against the columns of a customer; opens no warehouse.

    Raises:
        OnefoldError: a file is wrong.
    """
    columns = manifest["nodes"]["model.onefold.unified_customers"]["columns"]
    return load_destinations(home, [audience.name for audience in audiences(manifest)], columns)


def sensitive(audience: Audience, name: str, destination: Configured) -> str | None:
    """Why an audience may not go to a destination: restricted tags are for service and care, and never for advertising."""
    if not audience.restricted or not (destination.is_advertising or destination.channel == "ads"):
        return None
    return (
        f"{audience.name} is made from restricted tags ({', '.join(audience.restricted)}), and {name} is advertising: nobody "
        "is sent there, and who is there is removed; take the audience out of its file"
    )


class Delivery:
    """What is due between the audiences and the destinations of a home.

    Args:
        refresh: the last one that finished; plans are made of its tables only.
        only: pairs of audience and destination; all that are configured by default.
    """

    def __init__(
        self,
        home: Home,
        published: Sequence[Audience],
        destinations: Mapping[str, Configured],
        refresh: Refresh,
        only: Collection[tuple[str, str]] | None = None,
    ) -> None:
        self.home, self.destinations, self.refresh = home, destinations, refresh
        self.audiences = {audience.name: audience for audience in published}
        self.works = [
            work for work in works(home, dict(destinations)) if only is None or (work.audience, work.destination) in only
        ]
        self.targets: dict[tuple[str, str], Target] = {}
        self.reports: dict[tuple[str, str], Report] = {}
        self._held_back: dict[tuple[str, str], str | None] = {}
        self._stopped = stopped(home)
        self._legitimate_interest = Settings.of(home).legitimate_interest

    def run(self) -> list[Report]:
        """Bring every destination up to the last published version of its audiences; one report for each audience at each.

        The warehouse is locked while plans are made, and never while anything is sent.

        Raises:
            OnefoldError: a refresh is under way and does not come to its end.
        """
        if not self.works:
            return []
        with Ledger(self.home) as ledger:
            ledger.trim()
            with self.home.connect("delivery plans") as connection:
                prepare_audiences(connection)  # a home may be older than a table that is read here
            for work in self.works:
                target = ledger.target(*self._pair(work))
                self.targets[self._pair(work)] = target
                self.reports[self._pair(work)] = Report(*self._pair(work), state=ledger.state(target))
            active = [work for work in self.works if self.reports[self._pair(work)].state != "paused"]
            self._send_left(ledger, active)
            self._send_changes(ledger, active)
            with self.home.connect("deliveries") as connection:
                mirror(connection, ledger)
        return list(self.reports.values())

    def _send_left(self, ledger: Ledger, active: list[Work]) -> None:
        """Send what an earlier delivery planned and did not get through, as far as it may still be sent."""
        left = [work for work in active if ledger.open_version(self.targets[self._pair(work)])]
        opened = [(work, destination) for work in left if (destination := self._opened(work))]
        if not opened:
            return
        checked = []
        with self.home.connect("delivery plans") as connection:
            refusals = NewRefusals(self.home, connection)
            for work, destination in opened:
                try:
                    if self._only_removals(connection, work) is None:
                        recheck(ledger, self.targets[self._pair(work)], destination, self._members(connection, work))
                    checked.append(work)
                except OnefoldError as error:
                    self._stop(work, error)
        self._send(checked, refusals)

    def _only_removals(self, connection: duckdb.DuckDBPyConnection, work: Work) -> str | None:
        """Why nobody may be added or updated; kept, and said of each row that is left out for it."""
        pair = self._pair(work)
        reason = None
        if self._sensitive(work):
            reason = "restricted tag"
        elif self.reports[pair].state == "withdrawn":
            reason = "the audience was withdrawn"
        elif work.audience in self._stopped:
            reason = "the audience is stopped"
        elif not is_published(connection, self.audiences[work.audience]):
            reason = "the audience is not published by its present definition"
        self._held_back[pair] = reason
        return reason

    def _send_changes(self, ledger: Ledger, active: list[Work]) -> None:
        """Plan what changed since the last plan, and send it."""
        due = [work for work in active if ledger.open_version(self.targets[self._pair(work)]) is None]
        opened = [(work, destination) for work in due if (destination := self._opened(work))]
        if not opened:
            return
        planned = []
        # A refresh that is under way has tables of two moments.
        with self.home.turn("delivery plans"), self.home.connect("delivery plans") as connection:
            self.refresh = State(self.home).last_finished_refresh() or self.refresh  # one may have ended while we waited
            refusals = NewRefusals(self.home, connection)
            for work, destination in opened:
                try:
                    if self._plan(connection, ledger, work, destination):
                        planned.append(work)
                except OnefoldError as error:
                    self._stop(work, error)
        self._send(planned, refusals)

    def _plan(self, connection: duckdb.DuckDBPyConnection, ledger: Ledger, work: Work, destination: Destination) -> Plan | None:
        pair, target, now = self._pair(work), self.targets[self._pair(work)], self.refresh.as_of.replace(tzinfo=None)
        held_back = self._only_removals(connection, work)
        if sensitive := self._sensitive(work):
            self._stop(work, OnefoldError(sensitive))
            exclude_members(connection, *pair, "restricted tag", now)
            return withdraw(ledger, target, destination)
        if self.reports[pair].state == "withdrawn":
            forget_exclusions(connection, *pair)
            return withdraw(ledger, target, destination)
        require_proof(connection, {*self.audiences[work.audience].reads, *_CONTACTS}, self.refresh)
        members = self._members(connection, work)
        if held_back:
            return plan_leavers(ledger, target, destination, members)
        made = plan(ledger, target, destination, members)
        connection.execute("insert into unsent select unnest(?::varchar[]), ?", [unidentified(ledger), NO_IDENTIFIER])
        write_exclusions(connection, *pair, now)
        return made

    def _sensitive(self, work: Work) -> str | None:
        """Why nothing of an audience may go to a destination, also where a tag became restricted since it went there."""
        return sensitive(self.audiences[work.audience], work.destination, self.destinations[work.destination])

    def _send(self, these: list[Work], refusals: NewRefusals) -> None:
        for report in send_all(self.home, [replace(work, withhold=self._withhold(work, refusals)) for work in these]):
            before = self.reports[report.audience, report.destination]
            report.state, report.stopped = before.state, report.stopped or before.stopped
            self.reports[report.audience, report.destination] = report

    def _withhold(self, work: Work, refusals: NewRefusals) -> Withhold:
        if reason := self._held_back.get(self._pair(work)):
            return lambda rows: dict.fromkeys((row.customer_id for row in rows), reason)
        configured = self.destinations[work.destination]
        return refusals.of(self.audiences[work.audience].purpose, configured.columns, configured.channel)

    def _opened(self, work: Work) -> Destination | None:
        try:
            return work.open()
        except OnefoldError as error:
            self._stop(work, error)
            return None

    def _members(self, connection: duckdb.DuckDBPyConnection, work: Work) -> WarehouseMembers:
        configured, purpose = self.destinations[work.destination], self.audiences[work.audience].purpose
        return WarehouseMembers(
            connection, work.audience, purpose, configured.columns, configured.channel, self._legitimate_interest
        )

    def _stop(self, work: Work, error: OnefoldError) -> None:
        self.reports[self._pair(work)].stopped = anonymous(str(error))

    @staticmethod
    def _pair(work: Work) -> tuple[str, str]:
        return work.audience, work.destination


def mirror(connection: duckdb.DuckDBPyConnection, ledger: Ledger) -> None:
    """Bring `audiences.deliveries` up to the ledger: versions that were open when it was last written, and later ones."""
    prepare_audiences(connection)
    known = {
        (audience, destination): after
        for audience, destination, after in connection.execute(
            "select audience, destination, coalesce(min(version) filter (finished_at is null) - 1, max(version)) "
            "from audiences.deliveries group by all"
        ).fetchall()
    }
    for target in ledger.targets():
        after = known.get((target.audience, target.destination), 0)
        if rows := ledger.versions(target, after):
            _replace(connection, target, after, rows)


def _replace(connection: duckdb.DuckDBPyConnection, target: Target, after: int, rows: list[dict[str, Any]]) -> None:
    names = (target.audience, target.destination)
    with transaction(connection):
        connection.execute(
            "delete from audiences.deliveries where audience = ? and destination = ? and version > ?", [*names, after]
        )
        connection.executemany(
            "insert into audiences.deliveries by name select ? as audience, ? as destination, ? as version, ? as status, "
            "? as adds, ? as updates, ? as removes, ? as accepted, ? as rejected, "
            "(?::timestamptz at time zone 'UTC') as planned_at, (?::timestamptz at time zone 'UTC') as finished_at",
            [[*names, *row.values()] for row in rows],
        )
