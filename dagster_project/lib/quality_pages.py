"""The data docs: plain HTML pages with the history of every suite and the trend of every metric.

Great Expectations' own pages load their styles and scripts from the net and forget history with an ephemeral context; these
are files without either, written into the home beside the data they describe, each replaced whole.
"""

import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from dagster_project.lib.home import Home
from dagster_project.lib.quality import FOLDER, Suite, band, number, prepare_results, suites

_RUNS = 40  # of a suite that its page shows
_POINTS = 60  # of a metric's trend
_PARTS = ("record_metrics", "batch_metrics", "customer_metrics")
_WIDTH, _HEIGHT, _MARGIN = 320.0, 64.0, 5.0


def write(home: Home, connection, *written: Suite) -> Path:
    """Write the pages of some suites (of all, where none is named) and the index.

    Returns:
        The page of the only suite that was named, else the index.
    """
    prepare_results(connection)
    tables = _measured_tables(connection)
    home.quality.mkdir(parents=True, exist_ok=True)
    for suite in written or suites():
        _replace(
            home.quality / f"{suite.name}.html",
            suite=suite,
            runs=_runs(connection, suite),
            trends=_trends(connection, suite, tables),
        )
    index = _replace(
        home.quality / "index.html",
        suite=None,
        overview=[(suite, _runs(connection, suite)) for suite in suites()],
        unusual=unusual(connection),
    )
    return home.quality / f"{written[0].name}.html" if len(written) == 1 else index


def unusual(connection) -> list[dict[str, Any]]:
    """The metrics of the latest refresh that are outside their band, farthest first."""
    parts = [
        f"select * from quality.{table} where is_anomaly and refresh = (select max(refresh) from quality.{table})"
        for table in _measured_tables(connection)
    ]
    if not parts:
        return []
    return _rows(
        connection,
        "select metric, channel, identifier_type, value, usual, lower, upper, anomalous_since "
        f"from ({' union all by name '.join(parts)}) order by deviation desc, metric, channel, identifier_type",
    )


def last_verdicts(connection) -> list[dict[str, Any]]:
    """Each suite with its last verdict."""
    prepare_results(connection)
    found = []
    for suite in suites():
        runs = _runs(connection, suite)
        last = runs[-1] if runs else None
        found.append(
            {
                "suite": suite.name,
                "judges": suite.asset,
                "verdict": "not run yet" if not last else last["word"],
                "refresh": last["refresh"] if last else None,
                "what changed": "; ".join(line for e in last["expectations"] for line in e["changed"]) if last else "",
            }
        )
    return found


def _runs(connection, suite: Suite) -> list[dict[str, Any]]:
    """The last runs of a suite, oldest first, with their expectations."""
    rows = _rows(
        connection,
        """
        select refresh, expectation, success, observed, reason, checked_at, changed from quality.results
        where suite = ? and refresh in (
            select distinct refresh from quality.results where suite = ? order by refresh desc limit ?)
        order by refresh
        """,
        [suite.name, suite.name, _RUNS],
    )
    runs: dict[int, dict[str, Any]] = {}
    for row in rows:
        run = runs.setdefault(row["refresh"], {"refresh": row["refresh"], "at": row["checked_at"], "expectations": []})
        run["expectations"].append({**row, "changed": (row["changed"] or "").splitlines()})
    for run in runs.values():
        run["success"] = all(e["success"] for e in run["expectations"])
        run["word"] = "passed" if run["success"] else "blocked" if suite.blocking else "warned"
    return list(runs.values())


def _trends(connection, suite: Suite, tables: list[str]) -> list[dict[str, Any]]:
    """Each metric that a suite judges, with its last values; those outside their band first."""
    if not suite.metrics or not tables:
        return []
    named = " or ".join(f"metric = '{name}' or starts_with(metric, '{name}:')" for name in suite.metrics)
    union = " union all by name ".join(f"select * from quality.{table} where {named}" for table in tables)
    rows = _rows(
        connection,
        f"""
        select metric, channel, identifier_type, refresh, measured_at, value, usual, lower, upper, samples, numerator,
            denominator, is_anomaly, anomalous_since
        from ({union}) where value is not null and refresh > 0
        qualify row_number() over (partition by metric, channel, identifier_type order by refresh desc) <= {_POINTS}
        order by metric, channel, identifier_type, refresh
        """,
    )
    trends: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        trends.setdefault((row["metric"], row["channel"], row["identifier_type"]), []).append(row)
    latest = max((row["refresh"] for row in rows), default=0)
    found = [
        {**points[-1], "band": band(points[-1]), "plot": plot(points), "is_now": points[-1]["refresh"] == latest}
        for points in trends.values()
    ]
    return sorted(found, key=lambda trend: not (trend["is_anomaly"] and trend["is_now"]))


def plot(points: list[dict[str, Any]]) -> str:
    """One metric's values in time as an SVG: the band, the usual, the values, and dots where a value is outside."""
    values = [p[name] for p in points for name in ("value", "usual", "lower", "upper") if p[name] is not None]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or max(abs(high) * 0.05, 0.01)
    low, high = low - room, high + room

    def x(position: int) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * (position / (len(points) - 1) if len(points) > 1 else 0.5)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (value - low) / (high - low)

    def line(named: list[tuple[int, float]]) -> str:
        return " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in named)

    banded = [(i, p) for i, p in enumerate(points) if p["lower"] is not None or p["upper"] is not None]
    drawn = []
    if banded:  # an open end reaches to the edge of the picture
        top = [(i, high if p["upper"] is None else p["upper"]) for i, p in banded]
        bottom = [(i, low if p["lower"] is None else p["lower"]) for i, p in banded]
        if len(banded) == 1:
            top, bottom = top * 2, bottom * 2
        drawn.append(f'<polygon class="band" points="{line(top)} {line(bottom[::-1])}"/>')
    usual = [(i, p["usual"]) for i, p in enumerate(points) if p["usual"] is not None]
    if usual:
        drawn.append(f'<polyline class="usual" points="{line(usual)}"/>')
    drawn.append(f'<polyline class="value" points="{line([(i, p["value"]) for i, p in enumerate(points)])}"/>')
    for i, p in enumerate(points):
        if p["is_anomaly"] or i == len(points) - 1:
            kind = "outside" if p["is_anomaly"] else "last"
            told = f"{p['measured_at']:%Y-%m-%d %H:%M}: {number(p['value'])}, {band(p)}"
            drawn.append(
                f'<circle class="{kind}" cx="{x(i):.1f}" cy="{y(p["value"]):.1f}" r="3"><title>{told}</title></circle>'
            )
    label = f"{len(points)} values from {number(points[0]['value'])} to {number(points[-1]['value'])}"
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'


def _measured_tables(connection) -> list[str]:
    rows = connection.execute(
        "select table_name from information_schema.tables where table_catalog = current_catalog() and table_schema = 'quality'"
    ).fetchall()
    return [table for table in _PARTS if (table,) in rows]


def _replace(file: Path, **content: Any) -> Path:
    """Write a page; a reader finds the old or the new one, never half of it."""
    text = _template().render(now=datetime.now(UTC), number=number, band=band, **content)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
    return file


@cache
def _template():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("pages.html.j2")


def _rows(connection, query: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
