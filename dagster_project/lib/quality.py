"""Quality gates: Great Expectations judges metrics that SQL computed, never whole tables."""

import json
import logging
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import duckdb
import yaml

from dagster_project.lib.contracts import YAML_LOADER
from dagster_project.lib.dbt import built_refresh
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home, transaction
from dagster_project.lib.metrics import filled_in
from dagster_project.lib.state import Refresh, State

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
    checked_at timestamp not null,
    changed varchar  -- where it was not met: metric, channel, value, usual, band, since when
)
"""
_KEPT_REFRESHES = 1000  # of the results; with some 20 a refresh, a warm loop fills no disk
# A safety net below the rule that queries select keys: addresses, international numbers, mobiles of China.
_CONTACT = re.compile(r"[^\s'\"<>|,;:=/]+@[^\s'\"<>|,;/]+|\+\d[\d ()-]{6,}\d|(?<![0-9a-zA-Z])1[3-9]\d{9}(?![0-9a-zA-Z])")


@dataclass(frozen=True)
class Suite:
    """A suite and the table it judges."""

    name: str
    asset: str  # layer/table
    blocking: bool
    query: str
    look_at: str
    expectations: tuple[dict[str, Any], ...]
    metrics: tuple[str, ...] = ()  # whose history it judges; a metric stands for its parts too: completeness

    @property
    def can_be_approved(self) -> bool:
        """Whether it compares with what was before, so that a person can say that the change is right."""
        return bool(self.metrics) or "$since" in self.query


@dataclass(frozen=True)
class Verdict:
    """What a suite said: one entry for each expectation, the numbers judged, and rows to look at (keys, no contact data)."""

    suite: Suite
    success: bool
    results: list[dict[str, Any]]
    numbers: list[dict[str, Any]]
    look_at: list[dict[str, Any]] = field(default_factory=list)

    @property
    def changed(self) -> list[str]:
        """A sentence for each number that is not as expected."""
        return list(dict.fromkeys(line for result in self.results for line in result["changed"]))


def suites() -> list[Suite]:
    """All suites of the registry.

    Raises:
        OnefoldError: a suite is named that does not exist, or lacks a part.
    """
    found = []
    for entry in yaml.load((FOLDER / "registry.yml").read_text(), YAML_LOADER):
        file = FOLDER / "suites" / f"{entry['suite']}.yml"
        if not file.exists():
            raise OnefoldError(f"{FOLDER / 'registry.yml'}: there is no suite {file}; write it or remove the entry")
        content = yaml.load(file.read_text(), YAML_LOADER)
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
                tuple(content.get("metrics", ())),
            )
        )
    return found


def history(state: State, refresh: Refresh) -> dict[str, Any]:
    """What dbt is told of the history that is usual: refreshes that did not finish, and what people approved since."""
    approved: dict[str, dict[str, Any]] = {}
    approvals = state.approvals()
    for suite in suites():
        since = approvals.get(suite.name)
        for metric in suite.metrics if since else ():
            if since.number > approved.get(metric, {}).get("refresh", 0):
                moment = since.as_of.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
                approved[metric] = {"refresh": since.number, "as_of": moment}
    return {"unfinished_refreshes": state.unfinished_refreshes(refresh.number), "approved": approved}


def judge(home: Home, connection: duckdb.DuckDBPyConnection, suite: Suite, refresh: int, since: int = 0) -> Verdict:
    """Run a suite on one refresh's numbers and record the result in `quality.results`.

    Args:
        home: whose definitions of metrics count.
        since: the refresh with which the suite's history begins, as somebody approved the change then.

    Raises:
        OnefoldError: the refresh has built nothing that could be judged.
    """
    prepare_results(connection)
    if built_refresh(connection) != refresh:
        raise OnefoldError(f"refresh {refresh} has no metrics to judge; run the whole job: onefold refresh")
    values = {name: value for name, value in {"refresh": refresh, "since": since}.items() if f"${name}" in suite.query}
    cursor = connection.execute(filled_in(home, suite.query), values or None)
    frame = cursor.df()
    results = _validate(suite, frame)
    success = all(result["success"] for result in results)
    look_at = _records(connection.execute(filled_in(home, suite.look_at)).df()) if not success else []
    now = datetime.now(UTC).replace(tzinfo=None)
    with transaction(connection):
        connection.execute("delete from quality.results where refresh = ? and suite = ?", [refresh, suite.name])
        for result in results:
            said = [result["expectation"], result["success"], json.dumps(result["observed"]), result["reason"]]
            changed = "\n".join(result["changed"]) or None
            connection.execute(
                "insert into quality.results values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [refresh, suite.name, suite.asset, *said, now, changed],
            )
        if refresh % 20 == 0:
            connection.execute("delete from quality.results where refresh <= ?", [refresh - _KEPT_REFRESHES])
    verdict = Verdict(suite, success, results, _records(frame), look_at)
    if not success:
        log.warning("%s %s on %s: %s", suite.name, word(suite), suite.asset, "; ".join(verdict.changed))
    return verdict


def word(suite: Suite) -> str:
    """What a suite does whose expectations are not met."""
    return "failed" if suite.blocking else "warns"


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


@cache
def _great_expectations() -> tuple[Any, Any]:
    """Great Expectations and a source of data frames, made once a process: both cost more than what they judge here."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
    return gx, context.data_sources.add_pandas("metrics")


def _validate(suite: Suite, frame: Any) -> list[dict[str, Any]]:
    gx, source = _great_expectations()
    asset = next((a for a in source.assets if a.name == suite.name), None) or source.add_dataframe_asset(suite.name)
    definition = next(iter(asset.batch_definitions), None) or asset.add_batch_definition_whole_dataframe("refresh")
    expectations = []
    for position, entry in enumerate(suite.expectations):
        kind = "".join(part.title() for part in entry["type"].split("_"))
        expectations.append(getattr(gx.expectations, kind)(**entry["kwargs"], meta={"position": position}))
    gx_suite = gx.ExpectationSuite(name=suite.name, expectations=expectations)
    outcome = definition.get_batch({"dataframe": frame}).validate(gx_suite, result_format="COMPLETE")
    by_position = {r.expectation_config.meta["position"]: r for r in outcome.results}
    results = []
    for position, entry in enumerate(suite.expectations):
        result = by_position[position]
        detail = dict(result.result)
        column = entry["kwargs"].get("column")
        observed = {"values": [_plain(v) for v in frame[column].dropna().head(20)]} if column in frame else {}
        bounds = {k: v for k, v in entry["kwargs"].items() if k != "column"}
        expectation = f"{column or entry['type']} {json.dumps(bounds)}"
        changed = []
        if not result.success:
            observed["unexpected"] = [_plain(v) for v in detail.get("partial_unexpected_list") or []]
            if error := (result.exception_info or {}).get("exception_message"):
                observed["error"] = without_contacts(error)
            broken = frame.iloc[detail.get("unexpected_index_list") or []]
            changed = [_sentence(row, column, expectation) for row in _records(broken)]
            changed = changed or [f"{expectation} is not met: {json.dumps(observed)}"]
        results.append(
            {
                "expectation": expectation,
                "success": bool(result.success),
                "observed": observed,
                "reason": entry["reason"],
                "changed": changed,
            }
        )
    return results


def _sentence(row: dict[str, Any], column: str, expectation: str) -> str:
    """What changed, in one row of numbers: metric, channel, value, usual, band, since when."""
    if not {"metric", "channel", "value", "usual", "lower", "upper", "anomalous_since"} <= set(row):
        return f"{column} is {number(row.get(column))}, expected {expectation}"
    where = "all channels" if row["channel"] == "*" else row["channel"]
    if row.get("identifier_type") not in (None, "*"):
        where += f", {row['identifier_type']}"
    if row["anomalous_since"]:
        since = f"since {row['anomalous_since'][:16].replace('T', ' ')}"
    else:
        since = f"in this refresh; expected {expectation}"
    return f"{row['metric']} of {where} is {number(row['value'])}, {band(row)}, {since}"


def band(row: dict[str, Any]) -> str:
    """The usual of a metric and the ends of its band, in words."""
    if row["usual"] is None:
        return "no history yet"
    ends = [f"{word} {number(row[side])}" for word, side in (("from", "lower"), ("to", "upper")) if row[side] is not None]
    return f"usual {number(row['usual'])}" + (f", band {' '.join(ends)}" if ends else "")


def number(value: Any) -> str:
    """A number as people read it."""
    if not isinstance(value, int | float):
        return "none" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3f}"


def without_contacts(text: str) -> str:
    """A text with every e-mail address and phone struck out."""
    return _CONTACT.sub("…", text)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _records(frame: Any) -> list[dict[str, Any]]:
    rows = json.loads(frame.head(50).to_json(orient="records", date_format="iso"))
    return [{k: without_contacts(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
