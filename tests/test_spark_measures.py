"""What is read from Spark's event logs: parts, packed ones, and one that is being written."""

import json
from pathlib import Path

import pytest
import zstandard

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.spark.measures import Measure, read_event_log


def task(executor: str, stage: int, milliseconds: int, written: int, reason: str = "Success") -> str:
    """A task's end as Spark 4 logs it."""
    event = {
        "Event": "SparkListenerTaskEnd",
        "Stage ID": stage,
        "Task End Reason": {"Reason": reason},
        "Task Info": {"Executor ID": executor},
        "Task Metrics": {"Executor Run Time": milliseconds, "Shuffle Write Metrics": {"Shuffle Bytes Written": written}},
    }
    return _line(event)


def removed(executor: str) -> str:
    return _line({"Event": "SparkListenerExecutorRemoved", "Executor ID": executor, "Removed Reason": "worker lost"})


def _line(event: dict) -> str:
    return json.dumps(event, separators=(",", ":")) + "\n"


def packed(*lines: str) -> bytes:
    """Each line a frame of its own, as Spark flushes."""
    return b"".join(zstandard.ZstdCompressor().compress(line.encode()) for line in lines)


def test_tasks_are_counted_by_executor_and_stage_over_the_parts_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "eventlog_v2_app-1"
    log.mkdir()
    (log / "appstatus_app-1").touch()
    (log / "events_1_app-1.zstd").write_bytes(packed('{"Event":"SparkListenerLogStart"}\n', task("0", 1, 1500, 100)))
    (log / "events_2_app-1.zstd").write_bytes(packed(task("1", 1, 500, 10), task("0", 2, 250, 1), removed("0")))
    (application,) = read_event_log(tmp_path).values()
    assert application.by_executor == {"0": Measure(2, 0, 1.75, 101), "1": Measure(1, 0, 0.5, 10)}
    assert application.by_stage == {1: Measure(2, 0, 2.0, 110), 2: Measure(1, 0, 0.25, 1)}
    assert application.lost == {"0": "worker lost"}
    assert application.shuffle_bytes == 111


def test_a_lost_task_counts_as_failed_and_may_have_no_metrics(tmp_path: Path) -> None:
    lost = {
        "Event": "SparkListenerTaskEnd",
        "Stage ID": 3,
        "Task End Reason": {"Reason": "ExecutorLostFailure"},
        "Task Info": {"Executor ID": "0"},
    }
    (tmp_path / "app-1").write_text(_line(lost) + task("1", 3, 100, 7))
    (application,) = read_event_log(tmp_path).values()
    assert application.by_stage == {3: Measure(2, 1, 0.1, 7)}


def test_a_log_that_is_being_written_gives_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "app-1.inprogress").write_text(task("0", 1, 100, 5) + task("0", 1, 100, 5)[:60])
    whole = packed(task("0", 1, 100, 6), task("0", 1, 100, 6))
    (tmp_path / "app-2.zstd.inprogress").write_bytes(whole[:-9])
    found = read_event_log(tmp_path)
    assert {name: application.shuffle_bytes for name, application in found.items()} == {"app-1": 5, "app-2": 6}


def test_a_log_of_another_codec_is_told(tmp_path: Path) -> None:
    (tmp_path / "app-1.lz4").write_bytes(b"LZ4Block...")
    with pytest.raises(OnefoldError, match=r"app-1\.lz4 .*spark\.eventLog\.compression\.codec"):
        read_event_log(tmp_path)
