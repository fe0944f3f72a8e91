"""Every suite of expectations/registry.yml as a check of its table, a step of its own."""

import dagster as dg

from dagster_project.jobs import clear_failures
from dagster_project.lib import quality, quality_pages
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.markdown import markdown_table
from dagster_project.lib.state import State


def _check(suite: quality.Suite) -> dg.AssetChecksDefinition:
    reasons = "\n".join(f"- {e['type']} {e['kwargs']}: {e['reason']}" for e in suite.expectations)

    @dg.asset_check(
        asset=suite.asset.split("/"), name=suite.name, blocking=suite.blocking, pool="warehouse", description=reasons
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        home = Home.from_environment()
        home.attend(context.run.run_id)
        with clear_failures():
            state = State(home)
            refresh = state.begun_refresh(context.run.root_run_id or context.run.run_id)
            if refresh is None:
                raise OnefoldError("there is no refresh to judge yet; run the job refresh first")
            since = state.approvals().get(suite.name)
            with home.connect(f"check {suite.name}") as connection:
                verdict = quality.judge(home, connection, suite, refresh.number, since.number if since else 0)
                page = quality_pages.write(home, connection, suite)
        return dg.AssetCheckResult(
            passed=verdict.success,
            severity=dg.AssetCheckSeverity.ERROR if suite.blocking else dg.AssetCheckSeverity.WARN,
            description="; ".join(verdict.changed) or None,
            metadata={
                "what_changed": dg.MetadataValue.md("\n".join(f"- {line}" for line in verdict.changed) or "nothing"),
                "pages": dg.MetadataValue.url(page.as_uri()),
                "numbers": dg.MetadataValue.md(markdown_table(verdict.numbers)),
                "expectations": dg.MetadataValue.md(markdown_table(verdict.results)),
                "look_at": dg.MetadataValue.md(markdown_table(verdict.look_at)),
                "refresh": refresh.number,
            },
        )

    return check


@dg.definitions
def checks() -> dg.Definitions:
    return dg.Definitions(asset_checks=[_check(suite) for suite in quality.suites()])
