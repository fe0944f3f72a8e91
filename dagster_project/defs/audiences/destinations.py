"""Every audience at every destination as an asset `[destinations, <destination>, <audience>]` downstream of its publication."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from dagster_project.jobs import clear_failures
from dagster_project.lib import dbt
from dagster_project.lib.delivery.configuration import Configured
from dagster_project.lib.delivery.deliver import Delivery, destinations_of
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.sending import Report
from dagster_project.lib.errors import OnefoldError, with_remedy
from dagster_project.lib.home import Home
from dagster_project.lib.markdown import markdown_table
from dagster_project.lib.publish import Audience, audiences
from dagster_project.lib.state import State

_SHOWN_VERSIONS = 20
_FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=25))


@dg.definitions
def destinations() -> dg.Definitions:
    home = Home.from_environment()
    manifest = dbt.manifest(home)
    exposed, configured = {audience.name: audience for audience in audiences(manifest)}, destinations_of(home, manifest)
    pairs = {_key(audience, name): (audience, name) for name, each in configured.items() for audience in each.audiences}
    if not pairs:
        return dg.Definitions()

    @dg.multi_asset(
        name="deliver_audiences",
        specs=[_spec(home, key, exposed[audience], name, configured[name]) for key, (audience, name) in pairs.items()],
        check_specs=[
            dg.AssetCheckSpec("delivered", asset=key, description="The last version is sent whole, and every row was taken.")
            for key in pairs
        ],
        can_subset=True,
    )
    def deliver_audiences(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        """Destinations side by side; one that is down does not hold up the others. Nothing is locked while sending."""
        home = Home.from_environment()
        home.attend(context.run.run_id)
        with clear_failures():
            state = State(home)
            refresh, published = state.last_finished_refresh(), state.progress("publications")
            if refresh is None:
                raise OnefoldError("no refresh has finished yet, so there is nothing to deliver; run the job refresh")
            chosen = {pairs[key] for key in context.selected_asset_keys}
            present = dbt.manifest(home)  # and files as they are now, put right since Dagster read them
            reports = Delivery(home, audiences(present), destinations_of(home, present), refresh, chosen).run()
            with Ledger(home) as ledger:
                for report in reports:
                    yield _result(ledger, report)
            stopped = [f"{r.audience} to {r.destination}: {r.stopped}" for r in reports if r.stopped]
            if stopped:
                raise OnefoldError(with_remedy("\n".join(stopped)))
            if chosen == set(pairs.values()):
                state.advance("delivered", published)

    return dg.Definitions(assets=[deliver_audiences])


def _key(audience: str, destination: str) -> dg.AssetKey:
    return dg.AssetKey(["destinations", destination, audience])


def _spec(home: Home, key: dg.AssetKey, audience: Audience, name: str, destination: Configured) -> dg.AssetSpec:
    about = destination.description or f"{name} ({destination.kind})"
    return dg.AssetSpec(
        key=key,
        group_name="destinations",
        deps=[dg.AssetKey(["deliveries", audience.name])],
        owners=[audience.owner],
        kinds={destination.kind},
        description=f"{audience.label} at {about}, for the purpose {audience.purpose}.",
        metadata={
            "purpose": audience.purpose,
            "columns": ", ".join(destination.columns),
            "configuration": dg.MetadataValue.path(str(home.path / "destinations" / f"{name}.yaml")),
        },
        freshness_policy=_FRESH,
    )


def _result(ledger: Ledger, report: Report) -> dg.MaterializeResult:
    target = ledger.target(report.audience, report.destination)
    letters = ledger.letter_count(target)
    versions = ledger.versions(target, ledger.last_version(target) - _SHOWN_VERSIONS)
    key = _key(report.audience, report.destination)
    problems = [report.stopped] if report.stopped else []
    if letters:
        problems.append(f"{letters} dead letters: onefold delivery letters {report.audience} {report.destination}")
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            "held": ledger.held_count(target),
            "adds": report.adds,
            "updates": report.updates,
            "removes": report.removes,
            "accepted": report.accepted,
            "rejected": report.rejected,
            "withheld": report.withheld,
            "dead_letters": letters,
            "requests": report.requests,
            "state": report.state,
            "versions": dg.MetadataValue.md(markdown_table(versions)),
            "log": dg.MetadataValue.md(markdown_table(ledger.log_of(target, _SHOWN_VERSIONS))),
        },
        check_results=[
            dg.AssetCheckResult(
                asset_key=key,
                check_name="delivered",
                passed=not problems,
                severity=dg.AssetCheckSeverity.WARN,
                description="; ".join(problems) or None,
            )
        ],
    )
