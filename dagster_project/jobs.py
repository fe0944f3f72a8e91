"""Running Dagster's jobs in this process, with Dagster's history of the home."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from dagster_project.lib.contracts import ChannelContract
from dagster_project.lib.errors import OnefoldError, remedy, with_remedy
from dagster_project.lib.home import Home

if TYPE_CHECKING:
    import dagster as dg

    from dagster_project.lib.live import Pass
    from dagster_project.lib.publish import Publication

PART_TAG = "onefold/part"  # ingest, refresh, publish, deliver: runs of our jobs
BREAKER = "breaker"  # the check of each published audience
_BEGINNING = 60  # seconds in which a run that Dagster launched comes to its first step
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_job(
    home: Home, name: str, *, channel: ChannelContract | None = None, tags: dict[str, str] | None = None
) -> "dg.ExecuteInProcessResult":
    """Run one of the jobs ingest, refresh, publish and deliver to its end; a step that failed is in the result.

    Args:
        channel: for ingest, the one channel to load.
        tags: run tags, such as `onefold/as_of`.

    Raises:
        OnefoldError: another process refreshes or publishes and does not come to its end.
    """
    import dagster as dg
    from dagster._core.utils import make_new_run_id

    os.environ["ONEFOLD_HOME"] = str(home.path)
    os.environ["DAGSTER_HOME"] = str(home.prepare().dagster)
    job = _definitions(home).resolve_job_def(name)
    selection = None
    if channel:
        from dagster_project.defs.automation import channel_assets

        selection = channel_assets(channel)
        tags = {**(tags or {}), "onefold/channel": channel.channel}
    run_id = make_new_run_id()
    with contextlib.ExitStack() as stack:
        if name in ("refresh", "publish"):  # the others wait for single writes only
            stack.enter_context(home.turn(name))
        instance = stack.enter_context(dg.DagsterInstance.get())
        report_vanished(home, instance)
        home.attend(run_id)
        result = job.execute_in_process(
            instance=instance,
            asset_selection=selection,
            tags=tags,
            run_config=_QUIET,
            raise_on_error=False,
            run_id=run_id,
        )
        # On a full disk Dagster may not have noted the end: then the file stays, and the next command reports the run.
        if (run := instance.get_run_by_id(run_id)) and run.is_finished:
            home.leave(run_id)
        return result


def report_vanished(home: Home, instance: "dg.DagsterInstance") -> list[str]:
    """Have Dagster count runs as failed whose process was killed; returns their ids.

    Dagster does not notice by itself that such a run is over, and would hold back every other run and sensor for it.
    """
    import dagster as dg

    unfinished = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    vanished = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=unfinished)):
        run, attended = record.dagster_run, home.is_attended(record.dagster_run.run_id)
        # One that Dagster launched shows its process at its first step; before it starts, Dagster looks after it.
        is_late = run.status == dg.DagsterRunStatus.STARTED and time.time() - (record.start_time or 0) > _BEGINNING
        if PART_TAG in run.tags and (attended is False or (attended is None and is_late)):
            instance.report_run_failed(run, "its process ended without a word (killed, or the machine went down); run it again")
            vanished.append(run.run_id)
    home.forget_the_unattended()
    return vanished


def report_pass(instance: "dg.DagsterInstance", done: "Pass") -> None:
    """Tell Dagster what the continuous mode did, as materialisations and check results; sensors on assets see them."""
    import dagster as dg

    seconds = {f"seconds_{part}": round(taken, 2) for part, taken in done.seconds.items()}
    events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation] = [
        dg.AssetMaterialization(
            ["staging", load.table],
            metadata={"rows_read": load.read, "rows_accepted": load.accepted, "rows_rejected": load.rejected},
        )
        for load in done.loads
        if load.files or load.refused
    ]
    events += [dg.AssetMaterialization(table.split("/"), metadata={"refresh": done.refresh.number}) for table in done.built]
    events += [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(verdict.suite.asset.split("/")),
            check_name=verdict.suite.name,
            passed=verdict.success,
            severity=dg.AssetCheckSeverity.ERROR if verdict.suite.blocking else dg.AssetCheckSeverity.WARN,
            description="; ".join(verdict.changed) or None,
            metadata={"refresh": done.refresh.number},
        )
        for verdict in done.verdicts
    ]
    events += [
        dg.AssetMaterialization(
            ["deliveries", publication.audience],
            metadata={"version": publication.version, "members": publication.members, **seconds},
        )
        for publication in done.publications
        if publication.stop is None or publication.removed
    ]
    events += [dg.AssetCheckEvaluation(**_breaker_check(publication)) for publication in done.publications]
    for event in events:
        instance.report_runless_asset_event(event)


def breaker_check(publication: "Publication") -> "dg.AssetCheckResult":
    """What the circuit breaker says of an audience, as the check `breaker` of its asset."""
    import dagster as dg

    return dg.AssetCheckResult(**_breaker_check(publication))


def _breaker_check(publication: "Publication") -> dict:
    import dagster as dg

    stop = publication.stop
    metadata: dict[str, object] = {"members": publication.members, "sizes": size_history(publication)}
    if stop:
        metadata |= {
            "version_stopped": stop.version,
            "would_be": stop.would_be if stop.would_be is not None else "not known",
            "stopped_since": stop.stopped_at.isoformat(sep=" ", timespec="seconds"),
            "numbers": dg.MetadataValue.json([{"kind": f.kind, **f.numbers} for f in stop.findings]),
        }
        if stop.can_be_approved:
            metadata["approve"] = f"onefold audience approve {stop.audience} --version {stop.version} --reason …"
    return {
        "asset_key": dg.AssetKey(["deliveries", publication.audience]),
        "check_name": BREAKER,
        "passed": stop is None,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": str(stop) if stop else None,
        "metadata": metadata,
    }


def size_history(publication: "Publication") -> "dg.TableMetadataValue":
    """An audience's last versions, the newest first."""
    import dagster as dg

    kinds = {"published_at": "string"}
    names = ("version", "refresh", "members", "added", "removed", "excluded", "published_at")
    columns = [dg.TableColumn(name, kinds.get(name, "int")) for name in names]
    records = [
        dg.TableRecord(row | {"published_at": f"{row['published_at']:%Y-%m-%d %H:%M:%S}"}) for row in publication.history
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


@contextlib.contextmanager
def clear_failures() -> Iterator[None]:
    """What a person can put right fails a step with the remedy as its description, and is not tried again by itself."""
    import dagster as dg
    import duckdb

    try:
        yield
    except OnefoldError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except (OSError, sqlite3.Error, duckdb.Error) as error:
        if remedy(str(error)) is None:
            raise
        raise dg.Failure(with_remedy(str(error)), allow_retries=False) from error


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
            found.append(f"{event.step_key}: {with_remedy(text)}")
    # The steps that fail for what a check of theirs found say so themselves.
    said = "\n".join(found)
    told = _told(result, is_warning=False)
    return [*found, *(one for one in told if not ((why := one.partition(": ")[2]) and why in said))]


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
