"""Rows as the files that a company lands, models built from them, and what these say."""

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.delivery.deliver import Delivery, destinations_of
from dagster_project.lib.delivery.sending import Report
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.publish import audiences
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

Row = tuple[str, dict[str, Any]]  # <channel>/<entity>, and the row


def land_rows(home: Home, place: str, rows: list[dict]) -> Path:
    """Write rows as a CSV file below a home's landing/; the first row's keys are the header."""
    file = home.landing / place
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def land_lines(home: Home, name: str, rows: list[Row]) -> None:
    """Write rows of several entities as JSON lines, a file `name` for each entity."""
    for place in {place for place, _ in rows}:
        file = home.landing / place / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for to, row in rows if to == place))


def build(home: Home, *models: str, as_of: datetime, **variables: object) -> None:
    """Load what has landed and build models, as dbt selects them, without their tests."""
    for channel in load_channels(home).values():
        ingest_channel(home, channel, Settings.of(home))
    arguments = ["build", "--select", *models, "--exclude-resource-type", "unit_test", "test"]
    result = dbt.run(home, arguments, as_of=as_of, variables=variables, without_tests=True)
    assert result.success, dbt.failures(result)


def query(home: Home, sql: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(sql).fetchall()


def deliver(home: Home) -> list[Report]:
    """What the job delivers, without Dagster."""
    manifest = dbt.manifest(home)
    refresh = State(home).last_finished_refresh()
    return Delivery(home, audiences(manifest), destinations_of(home, manifest), refresh).run()


def present_rows(home: Home, table: str) -> list[tuple]:
    """A table of analytics without stamps; customers by their oldest identifier, as ids depend on what was known before."""
    names = [name for name, *_ in query(home, f"describe analytics.{table}")]
    columns = ", ".join(f"t.{name}" for name in names if name not in ("customer_id", "_seq"))
    who = ", (select min(node_id) from identity.assignments as a where a.customer_id = t.customer_id)"
    return query(home, f"select {columns}{who if 'customer_id' in names else ''} from analytics.{table} as t order by all")
