"""How long a million JSON events take through the whole of ingestion, beside what others need to read them.

Onefold reads, maps, types, validates, looks for duplicates, hashes, ledgers and stores. Bare DuckDB only reads the same
file into a table of the same types; pandas only parses it; dlt loads it into a DuckDB file with types of its own finding.
Each runs in a process of its own; what it imports is not counted.
"""

import shutil
import statistics
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from bench.history import people_of, write_events
from bench.measure import in_own_process, timed
from dagster_project.lib.contracts import STAGING_TYPES, load_channels
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.settings import Settings

BESIDE = ("duckdb", "pandas", "dlt")
_FILE = "landing/web/events/events.jsonl"


def run(folder: Path, events: int, rounds: int, beside: tuple[str, ...], tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure Onefold and the others in turns; seconds are medians, ratios are to bare DuckDB.

    Args:
        folder: where to work; emptied before and after.
        events: how many.
        rounds: turns of Onefold and DuckDB; the slow ones have one.
        beside: those of BESIDE to measure beside Onefold.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_events(folder / _FILE, 0, events, people_of(events), datetime(2026, 1, 1))
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for turn in range(rounds):
        for name in ("onefold", *beside):
            if turn and name in ("pandas", "dlt"):
                continue
            tell(f"{name}, round {turn + 1} of {rounds}")
            measured = in_own_process(f"bench.ingest:by_{name}", folder)
            assert measured["rows"] == events, f"{name} read {measured['rows']} rows of {events}"
            seconds.setdefault(name, []).append(measured["seconds"])
            peaks[name] = max(peaks.get(name, 0), measured["peak_gib"])
    size = (folder / _FILE).stat().st_size
    shutil.rmtree(folder)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    results = [
        {
            "reader": name,
            "seconds": round(taken, 2),
            "to_duckdb": round(taken / median["duckdb"], 2) if "duckdb" in median else None,
            "peak_gib": peaks[name],
        }
        for name, taken in median.items()
    ]
    return {"events": events, "megabytes": round(size / 1e6), "rounds": rounds, "results": results}


def by_onefold(folder: str) -> dict[str, Any]:
    import pandas  # noqa: F401 - DuckDB imports it at the first parameter; no reader's imports are counted

    from dagster_project.lib.ingest import ingest_channel

    home = Home(Path(folder))
    for old in home.path.glob("*.*"):
        old.unlink()
    home.prepare()
    web = load_channels(home)["web"]
    seconds, [load] = timed(lambda: ingest_channel(home, web, Settings.of(home)))
    return {"seconds": seconds, "rows": load.accepted}


def by_duckdb(folder: str) -> dict[str, Any]:
    entity = load_channels(Home(Path(folder)))["web"].entities["events"]
    columns = ", ".join(f"{name}: '{STAGING_TYPES[column.type]}'" for name, column in entity.columns.items())
    target = Path(folder) / "bare.db"
    target.unlink(missing_ok=True)

    def read() -> int:
        with duckdb.connect(str(target)) as connection:
            connection.execute(
                f"create table events as select * from read_json('{quoted(Path(folder) / _FILE)}', "
                f"format = 'newline_delimited', columns = {{{columns}}})"
            )
            return connection.execute("select count(*) from events").fetchone()[0]

    seconds, rows = timed(read)
    return {"seconds": seconds, "rows": rows}


def by_pandas(folder: str) -> dict[str, Any]:
    import pandas

    seconds, frame = timed(lambda: pandas.read_json(Path(folder) / _FILE, lines=True))
    return {"seconds": seconds, "rows": len(frame)}


def by_dlt(folder: str) -> dict[str, Any]:
    import json

    import dlt

    def lines() -> Any:
        with (Path(folder) / _FILE).open() as file:
            for line in file:
                yield json.loads(line)

    target = dlt.destinations.duckdb(str(Path(folder) / "dlt.db"))
    pipeline = dlt.pipeline("bench", pipelines_dir=str(Path(folder) / "dlt"), destination=target, dataset_name="bench")
    seconds, _ = timed(lambda: pipeline.run(lines(), table_name="events", write_disposition="replace"))
    with pipeline.sql_client() as client:
        return {"seconds": seconds, "rows": client.execute_sql("select count(*) from events")[0][0]}
