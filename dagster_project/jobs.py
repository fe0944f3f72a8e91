"""Running Dagster's jobs in this process, with Dagster's history of the home."""

import os
from functools import cache
from typing import TYPE_CHECKING

from dagster_project.lib.contracts import ChannelContract
from dagster_project.lib.home import Home

if TYPE_CHECKING:
    import dagster as dg

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_job(
    home: Home, name: str, *, channel: ChannelContract | None = None, tags: dict[str, str] | None = None
) -> "dg.ExecuteInProcessResult":
    """Run one of the jobs ingest, refresh and publish to its end; a step that failed is in the result.

    Args:
        channel: for ingest, the one channel to load.
        tags: run tags, such as `onefold/as_of`.
    """
    import dagster as dg

    os.environ["ONEFOLD_HOME"] = str(home.path)
    os.environ["DAGSTER_HOME"] = str(home.prepare().dagster)
    job = _definitions(home).resolve_job_def(name)
    selection = None
    if channel:
        from dagster_project.defs.automation import channel_assets

        selection = channel_assets(channel)
        tags = {**(tags or {}), "onefold/channel": channel.channel}
    with dg.DagsterInstance.get() as instance:
        return job.execute_in_process(
            instance=instance, asset_selection=selection, tags=tags, run_config=_QUIET, raise_on_error=False
        )


def problems(result: "dg.ExecuteInProcessResult") -> list[str]:
    """Why a run failed, a line for each failed step or check."""
    found = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            user = event.step_failure_data.user_failure_data
            cause = error
            while cause and cause.cause:
                cause = cause.cause
            text = (user.description if user and user.description else None) or (cause.message.strip() if cause else "failed")
            found.append(f"{event.step_key}: {text}")
    return [*found, *_told(result, is_warning=False)]


def warnings(result: "dg.ExecuteInProcessResult") -> list[str]:
    """What a run's checks warn of, a line for each; the run goes on."""
    return _told(result, is_warning=True)


def _told(result: "dg.ExecuteInProcessResult", is_warning: bool) -> list[str]:
    import dagster as dg

    found = []
    for check in result.get_asset_check_evaluations():
        if not check.passed and (check.severity == dg.AssetCheckSeverity.WARN) == is_warning:
            said = f"check {check.check_name} {'warns' if is_warning else 'failed'} on {check.asset_key.to_user_string()}"
            found.append(f"{said}: {check.description}" if check.description else said)
    return found


@cache
def _definitions(home: Home) -> "dg.Definitions":
    from dagster_project.definitions import defs

    return defs()
