"""The sample company on DuckDB and on Spark, at growing sizes: seconds, memory, and on Spark shuffled and stored bytes."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import in_own_process, peak_memory, timed
from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.live import steps
from dagster_project.lib.refresh import scope_of
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

_AS_OF = datetime(2026, 10, 31, 1, tzinfo=UTC)


def run(folder: Path, people: tuple[int, ...], only_duckdb: tuple[int, ...], tell: Callable[[str], None]) -> dict[str, Any]:
    """Build all models of sample companies on both engines, side by side.

    Args:
        folder: where to work.
        people: sizes of companies for both engines.
        only_duckdb: further sizes, for DuckDB alone.
    """
    results = []
    for size in sorted({*people, *only_duckdb}):
        home = folder / f"{size}"
        shutil.rmtree(home, ignore_errors=True)
        tell(f"{size:,} people: simulating and loading")
        loaded = in_own_process("bench.spark:load", home, size)
        for engine in ("duckdb", "spark") if size in people else ("duckdb",):
            copy = folder / f"{size}-{engine}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(home, copy)
            tell(f"{size:,} people: building on {engine}")
            built = in_own_process("bench.spark:build", copy, engine)
            results.append({"people": size, "events": loaded["events"], "engine": engine, **built})
            shutil.rmtree(copy)
        shutil.rmtree(home)
    return {"results": results}


def load(folder: str, people: str) -> dict[str, Any]:
    """Simulate a company and load its files; returns how many events it has."""
    from simulator import simulate

    home = Home(Path(folder)).prepare()
    simulate(home.landing, home.path / "truth", people=int(people), days=180, seed=7, until=_AS_OF.date())
    events = 0
    for channel in load_channels(home).values():
        loads = ingest_channel(home, channel, Settings.of(home))
        events += sum(load.accepted for load in loads)
    return {"events": events}


def build(folder: str, engine: str) -> dict[str, Any]:
    """Build all models of a home, without tests; by step of the refresh. Java's memory is given beside Python's."""
    home, state = Home(Path(folder)), State(Home(Path(folder)))
    refresh = state.refresh("bench", _AS_OF)
    scope = scope_of(home, state, refresh, full=True, target=engine)
    session = None
    if engine == "spark":  # starting is no part of the work
        from dagster_project.lib.spark.measures import shuffled_bytes
        from dagster_project.lib.spark.session import session as session_of

        session = session_of(home)
    parts, shuffled = {}, {}
    for name, select in steps():
        before = shuffled_bytes(session) if session else 0
        seconds, done = timed(
            lambda select=select: dbt.run(
                home,
                ["build", "--exclude-resource-type", "unit_test", "test", "--select", *select],
                as_of=refresh.as_of,
                variables=scope.variables,
                target=engine,
            )
        )
        if not done.success:
            raise OnefoldError(dbt.failures(done))
        parts[name] = round(seconds, 1)
        if session:
            shuffled[name] = round((shuffled_bytes(session) - before) / 1e6, 2)
    result = {"seconds": round(sum(parts.values()), 1), "parts": parts}
    if session:
        result |= {"shuffled_mb": round(sum(shuffled.values()), 1), "shuffled": shuffled, **_stored(home)}
        result["java_gib"] = round(peak_memory(session.sparkContext._gateway.proc.pid) / 2**30, 2)
    return result


def _stored(home: Home) -> dict[str, float]:
    """Megabytes of staging and of tables in the storage."""
    sizes = {}
    for name in ("staging", "tables"):
        files = (home.path / "spark" / name).glob("**/*.parquet")
        sizes[f"{name}_mb"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
    return sizes
