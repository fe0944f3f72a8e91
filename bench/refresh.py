"""What a refresh costs: the whole of a history, and then a thousand new events on top of it, at several sizes of history."""

import math
import os
import shutil
import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.history import people_of, write_events, write_history
from bench.measure import forget_peak_memory, in_own_process, peak_memory, timed
from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.live import Live, Pass, steps
from dagster_project.lib.refresh import scope_of
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

SIZES = (100_000, 1_000_000, 5_000_000)
BATCH = 1000  # new events of one increment


def run(folder: Path, sizes: tuple[int, ...], increments: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure full builds and increments; times are seconds, those of increments medians.

    Args:
        folder: where to work; a home for each size lies there until the end.
        sizes: events of history.
        increments: how often a thousand events are added at each size; one more warms up and does not count.
    """
    results = []
    for events in sizes:
        home = folder / str(events)
        shutil.rmtree(home, ignore_errors=True)
        tell(f"{events:,} events: writing")
        write_history(home / "landing", events, datetime.now())
        tell(f"{events:,} events: loading and building all")
        full = in_own_process("bench.refresh:full", home)
        tell(f"{events:,} events: {increments} times {BATCH:,} more, after {full['seconds']} s")
        added = in_own_process("bench.refresh:increments", home, events, increments)
        tell(f"{events:,} events: all anew, step by step, after {added['seconds']} s an increment")
        anew = in_own_process("bench.refresh:anew", home)
        results.append({"events": events, "full": full, "increment": added, "anew": anew})
        shutil.rmtree(home)
    first = results[0]
    for result in results:
        growth = result["events"] / first["events"]
        result["full_to_linear"] = round(result["full"]["seconds"] / first["full"]["seconds"] / growth, 2)
        result["increment_to_least"] = round(
            result["increment"]["seconds"] / min(r["increment"]["seconds"] for r in results), 2
        )
    return {"increments": increments, "batch": BATCH, "results": results}


def full(folder: str) -> dict[str, Any]:
    """Load and refresh all of a home, as the jobs do."""
    from dagster_project.jobs import problems, run_job

    home = Home(Path(folder)).prepare()
    channels = load_channels(home)
    ingest, _ = timed(lambda: [ingest_channel(home, channel, Settings.of(home)) for channel in channels.values()])
    seconds, result = timed(lambda: run_job(home, "refresh"))
    if broken := problems(result):
        raise OnefoldError("; ".join(broken))
    return {"ingest": round(ingest, 1), "seconds": round(seconds, 1)}


def anew(folder: str) -> dict[str, Any]:
    """Compute all models of a home from its staging tables, without tests; by step of the refresh, and by model."""
    home, state = Home(Path(folder)), State(Home(Path(folder)))
    refresh = state.refresh("anew", datetime.now(UTC))
    scope = scope_of(home, state, refresh, full=True)
    parts, models = [], []
    for name, select in steps():
        forget_peak_memory()
        command = ["run", "--full-refresh", "--select", *select]
        seconds, done = timed(
            lambda command=command: dbt.run(home, command, as_of=refresh.as_of, variables=scope.variables, without_tests=True)
        )
        if not done.success:
            raise OnefoldError(dbt.failures(done))
        parts.append({"step": name, "seconds": round(seconds, 1), "peak_gib": round(peak_memory() / 2**30, 2)})
        models += [(result.execution_time, result.node.name) for result in done.result.results]
    whole = sum(seconds for seconds, _ in models)
    slowest = [
        {"model": name, "seconds": round(seconds, 1), "share": round(seconds / whole, 3)}
        for seconds, name in sorted(models, reverse=True)[:12]
    ]
    return {"seconds": round(sum(part["seconds"] for part in parts), 1), "parts": parts, "slowest": slowest}


def increments(folder: str, events: str, count: str) -> dict[str, Any]:
    """Add a thousand events of the last two days so many times, in one busy process, and serve after each."""
    home = Home(Path(folder))
    os.sync()  # what the build left to write is not the increments' to wait for
    (home.path / "onefold.yaml").write_text("landing_settle_seconds: 0\n")
    live = Live(home, report=lambda done: None)
    live.warm_up()
    passes, serving, busy = [], [], live.while_busy(most_seconds=math.inf)
    for number in range(int(count) + 1):
        land_batch(home, int(events), number)
        done = next(busy, None)
        if done is None or done.problems:
            raise OnefoldError("; ".join(done.problems) if done else "the new file was not seen")
        passes.append(done)
        serving.append(timed(live.serve)[0])
    closing, _ = timed(busy.close)
    for done in passes:
        done.seconds["checkpoint"] = closing / len(passes)
    return summary(passes[1:]) | {"serve": round(statistics.median(serving[1:]), 2)}


def land_batch(home: Home, events: int, number: int) -> Path:
    """A file of a thousand new events, of the history's people and a few new ones, named when it is whole."""
    first = 10**10 + number * BATCH
    file = home.landing / "web" / "events" / f"new-{number:04}.jsonl"
    people = people_of(events) * 102 // 100 + 1
    now = datetime.now(UTC).replace(tzinfo=None)
    write_events(file, first, first + BATCH, people, now, span=timedelta(days=2))
    return file


def summary(passes: list[Pass]) -> dict[str, Any]:
    """Median seconds of passes, whole and by part."""
    parts = {part: round(statistics.median(p.seconds[part] for p in passes), 2) for part in passes[0].seconds}
    return {"seconds": round(statistics.median(sum(p.seconds.values()) for p in passes), 2), "parts": parts}
