"""Every exposed audience as an asset `[deliveries, <audience>]` downstream of its model."""

from collections.abc import Iterator

import dagster as dg
import duckdb

from dagster_project.jobs import BREAKER, breaker_check, clear_failures, size_history
from dagster_project.lib import dbt, serving
from dagster_project.lib.errors import OnefoldError, with_remedy
from dagster_project.lib.home import Home
from dagster_project.lib.publish import Publication, audiences, publish
from dagster_project.lib.reading import without_values
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State
from dagster_project.lib.stops import Stops


@dg.definitions
def deliveries() -> dg.Definitions:
    manifest = dbt.manifest(Home.from_environment())
    exposed = audiences(manifest)
    tables = serving.public_tables(manifest)

    @dg.multi_asset(
        name="publish_audiences",
        specs=[
            dg.AssetSpec(
                key=["deliveries", audience.name],
                group_name="deliveries",
                deps=[dg.AssetKey(["audiences", audience.name]), dg.AssetKey(["unified", "contact_permissions"])],
                owners=[audience.owner],
                kinds={"csv"},
                description=f"{audience.description} Published for the purpose {audience.purpose}.",
                metadata={"purpose": audience.purpose, "label": audience.label},
            )
            for audience in exposed
        ],
        check_specs=[
            dg.AssetCheckSpec(
                BREAKER,
                asset=["deliveries", audience.name],
                description=(
                    "Nothing leaves where checks failed, the source is empty or stale, the size changes beyond "
                    f"{-audience.band.shrink:.0%} or {audience.band.grow:+.0%}, the match rate fell, or people were joined who "
                    "are not one; an authorised person may approve that version (docs/audiences.md)."
                ),
            )
            for audience in exposed
        ],
        pool="warehouse",
    )
    def publish_audiences(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """Each audience on its own: one that is stopped does not hold up the others."""
        home = Home.from_environment()
        home.attend(context.run.run_id)
        with clear_failures():
            home.keep_turn("publish")
            yield from _publish_all(context, home)

    def _publish_all(context: dg.AssetExecutionContext, home: Home) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        state = State(home)
        refresh = state.last_finished_refresh()
        if refresh is None:
            raise OnefoldError("no refresh has finished yet, so there is nothing to publish; run the job refresh")
        Stops(home).forget_all_but({audience.name for audience in exposed})
        stopped, faults = [], []
        for audience in exposed:
            try:
                publication = publish(home, audience, refresh)
            except OnefoldError as error:
                faults.append(str(error))
                continue
            except (OSError, duckdb.Error) as error:
                faults.append(f"{audience.name} is not published: {without_values(error)}")
                continue
            if publication.stop:
                (stopped if publication.stop.can_be_approved else faults).append(str(publication.stop))
            if publication.stop is None or publication.removed:
                yield dg.MaterializeResult(asset_key=["deliveries", audience.name], metadata=_metadata(publication))
            yield breaker_check(publication)
        with home.connect("publications") as connection:
            published = connection.execute("select count(*) from audiences.publications").fetchone()[0]
        # Also where an earlier run was killed between publication and serving.
        if published > serving.served_publications(home):
            try:
                version = serving.serve(home, tables, refresh, Settings.of(home))
                context.log.info(f"served {version.path.name} with the new memberships")
            except OnefoldError as error:
                faults.append(f"memberships are not served: {error}")
        state.count_on("publications")  # one that is stopped or fails holds up no delivery of the others
        if not faults:
            state.advance("published", refresh.number)
        if stopped or faults:
            raise OnefoldError(with_remedy("\n".join([*stopped, *faults])))

    return dg.Definitions(assets=[publish_audiences])


def _metadata(publication: Publication) -> dict[str, object]:
    return {
        "version": publication.version,
        "members": publication.members,
        "added": publication.added,
        "removed": publication.removed,
        "excluded": publication.excluded,
        "sizes": size_history(publication),
        "file": str(publication.file) if publication.file else "unchanged",
    }
