"""Rows as the files that a company lands."""

import csv
from pathlib import Path

from dagster_project.lib.home import Home


def land_rows(home: Home, place: str, rows: list[dict]) -> Path:
    """Write rows as a CSV file below a home's landing/; the first row's keys are the header."""
    file = home.landing / place
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file
