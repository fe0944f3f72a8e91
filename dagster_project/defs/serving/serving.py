"""The served copy of the public tables, downstream of all of them and of their checks."""

import dagster as dg

from dagster_project.jobs import clear_failures
from dagster_project.lib import dbt, serving
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State


@dg.definitions
def served() -> dg.Definitions:
    home = Home.from_environment()
    tables = serving.public_tables(dbt.manifest(home))

    @dg.asset(
        key=["serving", "current"],
        group_name="serving",
        kinds={"duckdb", "parquet"},
        owners=["team:data-platform"],
        deps=[dg.AssetKey(table.name.split(".")) for table in tables if not table.name.startswith("audiences.")],
        pool="warehouse",
        retry_policy=dg.RetryPolicy(max_retries=2, delay=5),
        description="What BI and the console open: serving/current, replaced in one step by each finished refresh.",
    )
    def current(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        home, state = Home.from_environment(), State(Home.from_environment())
        home.attend(context.run.run_id)
        with clear_failures():
            refresh = state.begun_refresh(context.run.root_run_id or context.run.run_id)
            if refresh is None:
                raise OnefoldError("there is no refresh to serve yet; run the job refresh")
            version = serving.serve(home, tables, refresh, Settings.of(home))
            state.finish_refresh(refresh)
            dbt.note_finished_project(home)
        return dg.MaterializeResult(metadata=serving_metadata(version))

    return dg.Definitions(assets=[current])


def serving_metadata(version: serving.Version) -> dict[str, object]:
    return {
        "path": dg.MetadataValue.path(str(version.path)),
        "tables": version.tables,
        "parts": version.parts,
        "parts_written": version.written_parts,
    }
