"""Quality gates: Great Expectations judges metrics that SQL computed, never whole tables."""

import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import yaml

from dagster_project.lib.dbt import built_refresh
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, transaction
from dagster_project.lib.state import Refresh

log = logging.getLogger("onefold")

FOLDER = PROJECT_ROOT / "expectations"
_RESULTS = """
create schema if not exists quality;
create table if not exists quality.results (
    refresh bigint not null,
    suite varchar not null,
    asset varchar not null,
    expectation varchar not null,
    success boolean not null,
    observed varchar not null,  -- JSON: the first values judged, and those that broke the expectation
    reason varchar not null,
    checked_at timestamp not null
)
"""


@dataclass(frozen=True)
class Suite:
    """A suite and the table it judges."""

    name: str
    asset: str  # layer/table
    blocking: bool
    query: str
    look_at: str
    expectations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Verdict:
    """What a suite said: one entry for each expectation, the numbers judged, and rows to look at (keys, no contact data)."""

    suite: Suite
    success: bool
    results: list[dict[str, Any]]
    numbers: list[dict[str, Any]]
    look_at: list[dict[str, Any]]


def suites() -> list[Suite]:
    """All suites of the registry.

    Raises:
        OnefoldError: a suite is named that does not exist, or lacks a part.
    """
    found = []
    for entry in yaml.safe_load((FOLDER / "registry.yml").read_text()):
        file = FOLDER / "suites" / f"{entry['suite']}.yml"
        if not file.exists():
            raise OnefoldError(f"{FOLDER / 'registry.yml'}: there is no suite {file}; write it or remove the entry")
        content = yaml.safe_load(file.read_text())
        if missing := {"query", "look_at", "expectations"} - set(content):
            raise OnefoldError(f"{file}: {', '.join(sorted(missing))} is missing; add it")
        for expectation in content["expectations"]:
            if missing := {"type", "kwargs", "reason"} - set(expectation):
                raise OnefoldError(f"{file}: an expectation lacks {', '.join(sorted(missing))}; add it")
        found.append(
            Suite(
                entry["suite"],
                entry["asset"],
                entry["blocking"],
                content["query"],
                content["look_at"],
                tuple(content["expectations"]),
            )
        )
    return found


def judge(connection: duckdb.DuckDBPyConnection, suite: Suite, refresh: int, since: int = 0) -> Verdict:
    """Run a suite on one refresh's numbers and record the result in `quality.results`.

    Args:
        since: the refresh with which the suite's history begins, as somebody approved the change then.

    Raises:
        OnefoldError: the refresh has computed no metrics, so that there is nothing to judge.
    """
    prepare_results(connection)
    measured = connection.execute("select count(*) from quality.record_metrics where refresh = ?", [refresh]).fetchone()[0]
    if not measured:
        raise OnefoldError(f"refresh {refresh} has no metrics to judge; run the whole job: onefold refresh")
    values = {name: value for name, value in {"refresh": refresh, "since": since}.items() if f"${name}" in suite.query}
    cursor = connection.execute(suite.query, values or None)
    frame = cursor.df()
    results = _validate(suite, frame)
    success = all(result["success"] for result in results)
    rows = connection.execute(suite.look_at).df() if not success else None
    now = datetime.now(UTC).replace(tzinfo=None)
    with transaction(connection):
        connection.execute("delete from quality.results where refresh = ? and suite = ?", [refresh, suite.name])
        for result in results:
            said = [result["expectation"], result["success"], json.dumps(result["observed"]), result["reason"]]
            connection.execute(
                "insert into quality.results values (?, ?, ?, ?, ?, ?, ?, ?)", [refresh, suite.name, suite.asset, *said, now]
            )
    if not success:
        broken = [f"{r['expectation']}: {r['observed']}" for r in results if not r["success"]]
        log.warning("%s failed on %s: %s", suite.name, suite.asset, "; ".join(broken))
    return Verdict(suite, success, results, _records(frame), _records(rows) if rows is not None else [])


def prepare_results(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table of results, if it is not there."""
    connection.execute(_RESULTS)


def require_proof(connection: duckdb.DuckDBPyConnection, assets: set[str], refresh: Refresh) -> None:
    """Let nothing leave that a refresh has not built and checked.

    Args:
        assets: the tables that are about to leave, with everything they are built from (layer/table).

    Raises:
        OnefoldError: another refresh built the tables since, or one of the blocking suites failed or did not run.
    """
    built = built_refresh(connection)
    if built != refresh.number:
        by = f"refresh {built}, which did not finish," if built else "somebody by hand"
        raise OnefoldError(
            f"the tables were built by {by} after refresh {refresh.number} was checked; run `onefold refresh` first"
        )
    prepare_results(connection)
    problems = []
    for suite in suites():
        if not suite.blocking or suite.asset not in assets:
            continue
        ran, passed = connection.execute(
            "select count(*), coalesce(bool_and(success), false) from quality.results where refresh = ? and suite = ?",
            [refresh.number, suite.name],
        ).fetchone()
        if not ran:
            problems.append(f"{suite.name} did not run on {suite.asset}")
        elif not passed:
            problems.append(f"{suite.name} failed on {suite.asset}")
    if problems:
        raise OnefoldError(f"{'; '.join(problems)} (refresh {refresh.number}); put the data right and run `onefold refresh`")


def _validate(suite: Suite, frame: Any) -> list[dict[str, Any]]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
    batch = context.data_sources.add_pandas("metrics").add_dataframe_asset(suite.name)
    definition = batch.add_batch_definition_whole_dataframe("refresh")
    expectations = []
    for position, entry in enumerate(suite.expectations):
        kind = "".join(part.title() for part in entry["type"].split("_"))
        expectations.append(getattr(gx.expectations, kind)(**entry["kwargs"], meta={"position": position}))
    gx_suite = gx.ExpectationSuite(name=suite.name, expectations=expectations)
    outcome = definition.get_batch({"dataframe": frame}).validate(gx_suite, result_format="SUMMARY")
    by_position = {r.expectation_config.meta["position"]: r for r in outcome.results}
    results = []
    for position, entry in enumerate(suite.expectations):
        result = by_position[position]
        detail = dict(result.result)
        column = entry["kwargs"].get("column")
        observed = {"values": [_plain(v) for v in frame[column].dropna().head(20)]} if column in frame else {}
        if not result.success:
            observed["unexpected"] = [_plain(v) for v in detail.get("partial_unexpected_list", [])]
            if error := (result.exception_info or {}).get("exception_message"):
                observed["error"] = error
        bounds = {k: v for k, v in entry["kwargs"].items() if k != "column"}
        results.append(
            {
                "expectation": f"{column or entry['type']} {json.dumps(bounds)}",
                "success": bool(result.success),
                "observed": observed,
                "reason": entry["reason"],
            }
        )
    return results


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _records(frame: Any) -> list[dict[str, Any]]:
    return json.loads(frame.head(50).to_json(orient="records", date_format="iso"))
