"""Jobs, the hourly schedules, and the sensors that carry a landed file to published audiences.

Sensors never open the warehouse: they look at landing and at the state store. A run key is remembered for ever, so each is
made from what changed.
"""

import hashlib
import time

import dagster as dg

from dagster_project.jobs import PART_TAG, report_vanished
from dagster_project.lib.contracts import ChannelContract, load_channels
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import new_files
from dagster_project.lib.live import RUN
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State
from dagster_project.lib.stops import stopped

_TABLES = dg.AssetSelection.groups(
    "reference", "cleaned", "identity", "quality", "unified", "tags", "analytics", "audiences", "serving"
)

ingest = dg.define_asset_job(
    "ingest",
    dg.AssetSelection.groups("staging"),
    description="Load what landed. Sensors run it for one channel at a time.",
    executor_def=dg.in_process_executor,
    tags={PART_TAG: "ingest"},
)
refresh = dg.define_asset_job(
    "refresh",
    _TABLES,
    description="Everything from cleaned events to a new serving version, from what the ledger holds.",
    executor_def=dg.in_process_executor,
    tags={PART_TAG: "refresh"},
)
publish = dg.define_asset_job(
    "publish",
    dg.AssetSelection.groups("deliveries"),
    description="Publish audience changes of the last finished refresh.",
    executor_def=dg.in_process_executor,
    tags={PART_TAG: "publish"},
)
deliver = dg.define_asset_job(
    "deliver",
    dg.AssetSelection.groups("destinations"),
    description="Send what changed in published audiences to the destinations of the home, and what was left.",
    executor_def=dg.in_process_executor,
    tags={PART_TAG: "deliver"},
)

_LEFT_TO_IT = dg.SkipReason("the continuous mode is running (onefold live)")
_RETRY_SECONDS = 600
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def channel_assets(channel: ChannelContract) -> list[dg.AssetKey]:
    return [dg.AssetKey(["staging", channel.table(entity)]) for entity in channel.entities]


@dg.sensor(job=ingest, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def landing_files(context: dg.SensorEvaluationContext):
    """A complete new file in a channel's landing folder starts the channel's ingestion, in a run of its own."""
    home = Home.from_environment()
    if home.is_attended(RUN):
        return _LEFT_TO_IT
    requests = []
    for channel in load_channels(home).values():
        files = new_files(home, channel, Settings.of(home))
        if files:
            # With the contract: a file that was refused comes again when its mapping is corrected.
            contract = "|".join(entity.fingerprint for entity in channel.entities.values())
            named = contract + "|".join("/".join(map(str, file.identity)) for file in files)
            requests.append(
                dg.RunRequest(
                    run_key=f"{channel.channel}-{hashlib.sha256(named.encode()).hexdigest()[:16]}",
                    asset_selection=channel_assets(channel),
                    tags={"onefold/channel": channel.channel, "onefold/files": str(len(files))},
                )
            )
    return requests


@dg.sensor(job=refresh, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def loaded_batches(context: dg.SensorEvaluationContext):
    """When batches were loaded that no refresh has taken in, and no ingestion is under way, refresh."""
    home = Home.from_environment()
    if home.is_attended(RUN):
        return _LEFT_TO_IT
    state = State(home)
    loaded = state.progress("loaded")
    if loaded <= state.progress("refreshed"):
        return dg.SkipReason("every loaded batch has been taken in")
    for part in ("ingest", "refresh"):
        if _is_under_way(context.instance, part):
            return dg.SkipReason(f"a run of {part} is under way")
    return dg.RunRequest(run_key=f"refresh-{loaded}")


@dg.sensor(job=publish, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def finished_refresh(context: dg.SensorEvaluationContext):
    """A finished refresh publishes its audiences, as does an approval; one whose checks failed does not finish."""
    home = Home.from_environment()
    if home.is_attended(RUN):
        return _LEFT_TO_IT
    state = State(home)
    last = state.last_finished_refresh()
    approved = [str(stop.number) for stop in stopped(home).values() if stop.approved_at]
    if last is None or (last.number <= state.progress("published") and not approved):
        return dg.SkipReason("the last finished refresh has been published")
    return dg.RunRequest(run_key="-".join(["publish", str(last.number), *approved]))


@dg.sensor(job=deliver, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def published_audiences(context: dg.SensorEvaluationContext):
    """A publication is delivered at once; what could not be sent or planned, every ten minutes."""
    home = Home.from_environment()
    if not any((home.path / "destinations").glob("*.y*ml")):
        return dg.SkipReason("the home has no destinations")
    if _is_under_way(context.instance, "deliver"):
        return dg.SkipReason("a run of deliver is under way")
    state = State(home)
    published = state.progress("publications")
    if published <= state.progress("delivered"):
        with Ledger(home) as ledger:
            if not ledger.is_left_over():
                return dg.SkipReason("everything that was published has been delivered")
    return dg.RunRequest(run_key=f"deliver-{published}-{int(time.time() // _RETRY_SECONDS)}")


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def vanished_runs(context: dg.SensorEvaluationContext):
    """A run whose process was killed counts as failed, so that it holds up no other."""
    vanished = report_vanished(Home.from_environment(), context.instance)
    return dg.SkipReason(f"reported as failed: {', '.join(vanished)}" if vanished else "every run has its process")


@dg.schedule(job=ingest, cron_schedule="0 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def hourly_ingest(context: dg.ScheduleEvaluationContext):
    """Channels with remote folders, or with files that are still not loaded, each in a run of its own."""
    home = Home.from_environment()
    for channel in load_channels(home).values():
        is_remote = any(source.is_remote for entity in channel.entities.values() for source in entity.sources)
        if is_remote or (not home.is_attended(RUN) and new_files(home, channel, Settings.of(home))):
            yield dg.RunRequest(
                run_key=f"{context.scheduled_execution_time.isoformat()}-{channel.channel}",
                asset_selection=channel_assets(channel),
                tags={"onefold/channel": channel.channel},
            )


@dg.schedule(job=refresh, cron_schedule="10 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def hourly_refresh(context: dg.ScheduleEvaluationContext):
    """Tags that age by themselves move although nothing was loaded."""
    if _is_under_way(context.instance, "refresh"):
        return dg.SkipReason("a refresh is under way")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


def _is_under_way(instance: dg.DagsterInstance, part: str) -> bool:
    return bool(instance.get_runs(dg.RunsFilter(tags={PART_TAG: part}, statuses=_UNFINISHED), limit=1))
