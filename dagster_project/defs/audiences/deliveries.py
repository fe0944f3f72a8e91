"""Every exposed audience as an asset `[deliveries, <audience>]` downstream of its model."""

from collections.abc import Iterator

import dagster as dg
import duckdb

from dagster_project.jobs import clear_failures
from dagster_project.lib import dbt, serving
from dagster_project.lib.errors import OnefoldError, with_remedy
from dagster_project.lib.home import Home
from dagster_project.lib.publish import Publication, audiences, publish
from dagster_project.lib.reading import without_values
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State


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
        pool="warehouse",
    )
    def publish_audiences(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        """Each audience on its own: one that is stopped does not hold up the others."""
        home = Home.from_environment()
        home.attend(context.run.run_id)
        with clear_failures():
            home.keep_turn("publish")
            yield from _publish_all(context, home)

    def _publish_all(context: dg.AssetExecutionContext, home: Home) -> Iterator[dg.MaterializeResult]:
        state = State(home)
        refresh = state.last_finished_refresh()
        if refresh is None:
            raise OnefoldError("no refresh has finished yet, so there is nothing to publish; run the job refresh")
        stopped = []
        for audience in exposed:
            try:
                publication = publish(home, audience, refresh)
            except OnefoldError as error:
                stopped.append(str(error))
                continue
            except (OSError, duckdb.Error) as error:
                stopped.append(f"{audience.name} is not published: {without_values(error)}")
                continue
            yield dg.MaterializeResult(asset_key=["deliveries", audience.name], metadata=_metadata(publication))
        with home.connect("publications") as connection:
            published = connection.execute("select count(*) from audiences.publications").fetchone()[0]
        # Also where an earlier run was killed between publication and serving.
        if published > serving.served_publications(home):
            try:
                version = serving.serve(home, tables, refresh, Settings.of(home))
                context.log.info(f"served {version.path.name} with the new memberships")
            except OnefoldError as error:
                stopped.append(f"memberships are not served: {error}")
        if stopped:
            raise OnefoldError(with_remedy("\n".join(stopped)))
        state.advance("published", refresh.number)

    return dg.Definitions(assets=[publish_audiences])


def _metadata(publication: Publication) -> dict[str, object]:
    return {
        "version": publication.version,
        "members": publication.members,
        "added": publication.added,
        "removed": publication.removed,
        "excluded": publication.excluded,
        "file": str(publication.file) if publication.file else "unchanged",
    }
