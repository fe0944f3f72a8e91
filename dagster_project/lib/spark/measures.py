"""What statements cost on Spark: tasks, run time and shuffled bytes, from an event log or from a running session."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dagster_project.lib.errors import OnefoldError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TASK_END = b'{"Event":"SparkListenerTaskEnd"'
_REMOVED = b'{"Event":"SparkListenerExecutorRemoved"'


@dataclass
class Measure:
    """What some tasks did."""

    tasks: int = 0  # that ended, whether well or not
    failed: int = 0  # of these, failed or lost; Spark ran them again
    run_seconds: float = 0.0  # on the executors, summed over tasks
    shuffle_bytes: int = 0  # written for other stages, as on disk


@dataclass
class Application:
    """What the tasks of one application did: by executor's id, and by stage."""

    by_executor: dict[str, Measure] = field(default_factory=lambda: defaultdict(Measure))
    by_stage: dict[int, Measure] = field(default_factory=lambda: defaultdict(Measure))
    lost: dict[str, str] = field(default_factory=dict)  # executors that went, and why Spark thinks they did

    @property
    def shuffle_bytes(self) -> int:
        return sum(measure.shuffle_bytes for measure in self.by_executor.values())


def read_event_log(folder: Path) -> dict[str, Application]:
    """The applications that `spark.eventLog.dir` holds, by id; of a running one, what was logged so far.

    Raises:
        OnefoldError: a log is packed by another codec than Zstandard, which is Spark's default.
    """
    applications: dict[str, Application] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and _is_log(path)):
        name = re.sub(r"^events_\d+_", "", file.name).partition(".")[0]  # rolling logs come in numbered parts
        _add(applications.setdefault(name, Application()), file)
    return applications


def _is_log(path: Path) -> bool:
    return not path.name.startswith((".", "appstatus_")) and not path.name.endswith(".crc")


def _add(application: Application, file: Path) -> None:
    for line in _lines(file):
        # The most of a log are other events, with whole plans in them.
        if not line.startswith((_TASK_END, _REMOVED)):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            if line.endswith(b"\n"):
                raise
            continue  # the last line of a log that is being written
        if event["Event"] == "SparkListenerExecutorRemoved":
            application.lost[event["Executor ID"]] = event["Removed Reason"]
            continue
        metrics = event.get("Task Metrics") or {}
        written = metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
        for measure in (
            application.by_executor[event["Task Info"]["Executor ID"]],
            application.by_stage[event["Stage ID"]],
        ):
            measure.tasks += 1
            measure.failed += event["Task End Reason"]["Reason"] != "Success"
            measure.run_seconds += metrics.get("Executor Run Time", 0) / 1000
            measure.shuffle_bytes += written


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as packed:
        yield from _unpacked(packed, file)


def _unpacked(packed: IO[bytes], file: Path) -> IO[bytes]:
    import io

    start = packed.read(4)
    packed.seek(0)
    if start == b"\x28\xb5\x2f\xfd":
        import zstandard

        # Spark ends a frame with each flush.
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True))
    if start[:1] not in (b"{", b""):
        raise OnefoldError(f"{file} is packed with a codec that is not read here: set spark.eventLog.compression.codec to zstd")
    return packed


def shuffled_bytes(session: "SparkSession", ui: str | None = None) -> int | None:
    """Bytes that the session's application wrote for shuffles since it started; the difference of two is what lies between.

    A session in this process is asked for its status store. Over Connect a statement that writes brings no metrics back
    (`executionInfo` is of queries only), so the driver's REST interface is asked, which knows a task within one heartbeat
    (ten seconds), or at once where `spark.ui.liveUpdate.period` is 0. It counts all sessions of the server.

    Args:
        ui: address of the driver's web UI; by default host and port that the session's settings name.

    Returns:
        None where the driver has no UI that is reached from here.
    """
    if not type(session).__module__.startswith("pyspark.sql.connect"):
        return _of_classic(session)
    address = ui or f"http://{session.conf.get('spark.driver.host', 'localhost')}:{session.conf.get('spark.ui.port', '4040')}"
    executors = _asked(f"{address.rstrip('/')}/api/v1/applications/{session.conf.get('spark.app.id')}/allexecutors")
    return None if executors is None else sum(executor["totalShuffleWrite"] for executor in executors)


def _of_classic(session: "SparkSession") -> int:
    context = session.sparkContext._jsc.sc()
    context.listenerBus().waitUntilEmpty()
    executors = context.statusStore().executorList(False)
    return sum(executors.apply(position).totalShuffleWrite() for position in range(executors.size()))


def _asked(address: str) -> Any:
    import httpx

    try:
        # A busy driver is slow to answer; what is behind a firewall never does.
        answer = httpx.get(address, timeout=httpx.Timeout(30, connect=3), trust_env=False)
        answer.raise_for_status()
        return answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None  # a measure: whoever reports it says that it is not known
