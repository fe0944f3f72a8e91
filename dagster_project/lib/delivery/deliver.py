"""One delivery: what is left of the last is sent, then what changed is planned and sent, for every destination of a home."""

from collections.abc import Collection, Sequence

import duckdb

from dagster_project.lib.delivery.configuration import Configured, load_destinations, works
from dagster_project.lib.delivery.destination import Destination
from dagster_project.lib.delivery.ledger import Ledger, anonymous
from dagster_project.lib.delivery.members import WarehouseMembers
from dagster_project.lib.delivery.planning import plan, recheck
from dagster_project.lib.delivery.sending import Report, Work, send_all
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.publish import Audience
from dagster_project.lib.settings import Settings


def deliver(home: Home, published: Sequence[Audience]) -> list[Report]:
    """Bring every destination up to the last published version of its audiences; one report for each audience at each.

    The warehouse is locked while plans are made, and never while anything is sent.

    Raises:
        OnefoldError: a destination's file is wrong.
    """
    purposes = {audience.name: audience.purpose for audience in published}
    if not any((home.path / "destinations").glob("*.y*ml")):
        return []
    with home.connect("destinations") as connection:
        columns = [row[0] for row in connection.execute("describe unified.customers").fetchall()]
    destinations = load_destinations(home, purposes, columns)
    legitimate_interest = Settings.of(home).legitimate_interest
    todo, reports = works(home, destinations), {}

    def send(these: list[Work]) -> None:
        for report in send_all(home, these):
            before = reports.get((report.audience, report.destination))
            if report.version is not None or report.stopped or before is None:
                reports[report.audience, report.destination] = report

    with Ledger(home) as ledger:
        left = [work for work in todo if ledger.open_version(ledger.target(work.audience, work.destination))]
        if left:
            with home.connect("delivery plans") as connection:
                for work in left:
                    members = _members(connection, destinations[work.destination], work.audience, purposes, legitimate_interest)
                    recheck(ledger, ledger.target(work.audience, work.destination), members)
            send(left)
        planned = []
        opened: dict[tuple[str, str], Destination] = {}
        for work in todo:
            target = ledger.target(work.audience, work.destination)
            if ledger.open_version(target) is not None:
                continue
            try:
                opened[work.audience, work.destination] = work.open()
            except OnefoldError as error:
                reports[work.audience, work.destination] = _stopped(work, error)
        with home.connect("delivery plans") as connection:
            for work in todo:
                if (destination := opened.get((work.audience, work.destination))) is None:
                    continue
                members = _members(connection, destinations[work.destination], work.audience, purposes, legitimate_interest)
                try:
                    plan(ledger, ledger.target(work.audience, work.destination), destination, members)
                    planned.append(work)
                except OnefoldError as error:
                    reports[work.audience, work.destination] = _stopped(work, error)
    send(planned)
    return [reports[work.audience, work.destination] for work in todo]


def _members(
    connection: duckdb.DuckDBPyConnection,
    configured: Configured,
    audience: str,
    purposes: dict[str, str],
    legitimate_interest: Collection[str],
) -> WarehouseMembers:
    return WarehouseMembers(
        connection, audience, purposes[audience], configured.columns, configured.channel, legitimate_interest
    )


def _stopped(work: Work, error: OnefoldError) -> Report:
    return Report(work.audience, work.destination, stopped=anonymous(str(error)))
