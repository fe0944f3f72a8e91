"""One delivery: what is left of the last is sent, then what changed is planned and sent, for every destination of a home."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb

from dagster_project.lib.delivery.configuration import Configured, load_destinations, works
from dagster_project.lib.delivery.destination import Destination
from dagster_project.lib.delivery.ledger import Ledger, Target, anonymous
from dagster_project.lib.delivery.members import WarehouseMembers
from dagster_project.lib.delivery.planning import plan, recheck, withdraw
from dagster_project.lib.delivery.sending import Report, Work, send_all
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.publish import Audience, audiences, prepare_audiences
from dagster_project.lib.quality import require_proof
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refresh
from dagster_project.lib.statements import NewRefusals

_CONTACTS = ("unified/customers", "unified/customer_identifiers", "unified/contact_permissions")  # what rows are made of


def destinations_of(home: Home, manifest: dict[str, Any]) -> dict[str, Configured]:
    """The destinations of a home, held against its audiences and against the columns of a customer; opens no warehouse.

    Raises:
        OnefoldError: a file is wrong.
    """
    columns = manifest["nodes"]["model.onefold.unified_customers"]["columns"]
    return load_destinations(home, [audience.name for audience in audiences(manifest)], columns)


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
        self.reports: dict[tuple[str, str], Report] = {}
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
            targets = {self._pair(work): ledger.target(*self._pair(work)) for work in self.works}
            states = {pair: ledger.state(target) for pair, target in targets.items()}
            for pair, state in states.items():
                self.reports[pair] = Report(*pair, state=state)
            active = [work for work in self.works if states[self._pair(work)] != "paused"]
            left = [work for work in active if ledger.open_version(targets[self._pair(work)])]
            if left:
                with self.home.connect("delivery plans") as connection:
                    refusals = NewRefusals(self.home, connection)
                    for work in left:
                        target = targets[self._pair(work)]
                        recheck(ledger, target, self._members(connection, work))
                self._send(left, refusals)
            due = [work for work in active if ledger.open_version(targets[self._pair(work)]) is None]
            opened = {self._pair(work): destination for work in due if (destination := self._opened(work))}
            planned = []
            # A refresh that is under way has tables of two moments.
            with self.home.turn("delivery plans"), self.home.connect("delivery plans") as connection:
                refusals = NewRefusals(self.home, connection)
                for work in due:
                    pair = self._pair(work)
                    if pair not in opened:
                        continue
                    try:
                        require_proof(connection, {*self.audiences[work.audience].reads, *_CONTACTS}, self.refresh)
                        if states[pair] == "withdrawn":
                            has_plan = ledger.held_count(targets[pair]) and withdraw(ledger, targets[pair], opened[pair])
                        else:
                            has_plan = plan(ledger, targets[pair], opened[pair], self._members(connection, work))
                    except OnefoldError as error:
                        self._stop(work, error)
                        continue
                    if has_plan:
                        planned.append(work)
            self._send(planned, refusals)
            with self.home.connect("deliveries") as connection:
                mirror(connection, ledger)
        return list(self.reports.values())

    def _send(self, these: list[Work], refusals: NewRefusals) -> None:
        watched = [
            replace(
                work,
                withhold=refusals.of(
                    self.audiences[work.audience].purpose,
                    self.destinations[work.destination].columns,
                    self.destinations[work.destination].channel,
                ),
            )
            for work in these
        ]
        for report in send_all(self.home, watched):
            report.state = self.reports[report.audience, report.destination].state
            self.reports[report.audience, report.destination] = report

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
