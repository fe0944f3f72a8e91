"""The circuit breaker: reasons not to publish an audience although its checks passed, found before anything leaves.

It compares with what was published before: the audience's size, and the metrics of the last refresh that it was published
from. So a break stays one until it is put right or somebody approves it, and slow change is no break.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from dagster_project.lib import quality
from dagster_project.lib.audiences.form import Band, Fresh
from dagster_project.lib.quality import number
from dagster_project.lib.state import Refresh, State
from dagster_project.lib.stops import Finding, Stop

# The suite `identity` blocks at a fifth below the usual. A tenth since the last publication is several days' movement at once;
# with fewer records a handful of strangers is a tenth.
_MATCH_RATE_MAY_FALL, _FROM_RECORDS = 0.1, 100
# What the suite `tags` allows over-merge suspects: a hundredth. Beside it the metric has to be outside its own band.
_MAY_RISE = 0.01
_LEVELS = ("largest_customer_share", "bridged_customers", "over_merge_suspects")
_CHURN = "id_churn:customers"
_SHOWN = 3  # channels in a sentence


@dataclass(frozen=True)
class Counts:
    """What a publication would do to an audience."""

    version: int  # the last published; 0: none yet
    selected: int  # customers in the model, those who are kept out included
    members: int  # now, by the last published version
    must_leave: int  # of them, those who may not stay, such as for lack of consent
    would_be: int  # members of the next version
    last_size: int  # of the last version that had members

    @property
    def staying(self) -> int:
        return self.members - self.must_leave


def judge(
    connection: duckdb.DuckDBPyConnection,
    state: State,
    counts: Counts,
    band: Band,
    fresh: Fresh,
    refresh: Refresh,
    baseline: int | None,
) -> list[Finding]:
    """Why an audience should not be published from a refresh; nothing if it should.

    Args:
        baseline: the refresh that it was last published from; None: never, so that there is nothing to compare with.
    """
    findings = [*_stale(connection, state, fresh, refresh)]
    if counts.version:
        if counts.selected == 0 and counts.staying > 0:
            findings.append(
                Finding(
                    "empty",
                    f"its model has no rows, and an empty source removes nobody who may stay ({counts.staying:,} members do)",
                    {"selected": 0, "members": counts.staying},
                )
            )
        else:
            findings += _size(counts, band)
    if baseline is not None:
        findings += _metrics(connection, state, refresh, baseline)
    return findings


def is_approved(stop: Stop | None, findings: list[Finding], counts: Counts, band: Band) -> bool:
    """Whether somebody approved what is found: the same kinds, and a size no further off, but for what the band allows."""
    if stop is None or stop.approved_at is None or stop.would_be is None:
        return False
    if not {finding.kind for finding in findings} <= stop.kinds:
        return False
    if min(stop.members, stop.would_be) <= counts.would_be <= max(stop.members, stop.would_be):
        return True
    return not _is_outside(stop.would_be, counts.would_be, band)


def _is_outside(before: int, after: int, band: Band) -> bool:
    if abs(after - before) < band.least:
        return False
    return after < before * (1 - band.shrink) or after > before * (1 + band.grow)


def _size(counts: Counts, band: Band) -> list[Finding]:
    """Who leaves because they may not stay is no sign of a broken source, so that a fall is counted from the others."""
    # One that ran empty and fills again is compared with what it was; one that never had members, with nothing.
    published = counts.members or counts.last_size
    is_fall = counts.would_be < counts.staying
    before = counts.staying if is_fall else published
    if not before or counts.staying <= counts.would_be <= published or not _is_outside(before, counts.would_be, band):
        return []
    change = counts.would_be / before - 1
    allowed = f"fall by {band.shrink:.0%}" if is_fall else f"grow by {band.grow:.0%}"
    return [
        Finding(
            "size",
            f"it would {'fall' if is_fall else 'grow'} from {before:,} to {counts.would_be:,} members ({change:+.0%}), and its "
            f"band lets it {allowed} (changes below {band.least:,} members do not count)",
            {"members": before, "would_be": counts.would_be, "change": round(change, 4), **band.model_dump()},
        )
    ]


def _stale(connection, state: State, fresh: Fresh, refresh: Refresh) -> list[Finding]:
    """A refresh that is too old by the wall clock, or channels that stopped coming.

    Every audience reads all channels, through identity and events; one of them that is late is a warning of the suite
    `channels`. Here count those that the audience names, and the case that none comes any more.
    """
    found = []
    # When it was begun and not `as_of`: whoever gives another moment for now has chosen it.
    age = (datetime.now(UTC) - state.begun_at(refresh)).total_seconds() / 3600
    if age > fresh.within_hours:
        found.append(
            Finding(
                "stale",
                f"refresh {refresh.number} is {age:,.0f} hours old, more than {number(fresh.within_hours)}; "
                "see why none has finished since",
                {"refresh": refresh.number, "hours": round(age, 1), "within_hours": fresh.within_hours},
            )
        )
    columns = "metric, channel, value, usual, lower, upper, is_anomaly, anomalous_since"
    rows = connection.execute(
        f"select {columns}, deviation is not null as has_band from quality.metrics "
        "where refresh = ? and metric in ('freshness:events', 'freshness:loads') "
        "order by deviation desc nulls last, channel, metric",
        [refresh.number],
    ).fetchall()
    names = [*columns.split(", "), "has_band"]
    ages = [dict(zip(names, row, strict=True)) for row in rows]
    if not ages:
        return found  # nothing has come for nine weeks, or nothing yet that has a time
    late: dict[str, dict[str, Any]] = {}  # the worst first
    for row in ages:
        if row["is_anomaly"]:
            late.setdefault(row["channel"], row)
    remedy = "see why, or `onefold approve channels` if that is how it is now"
    known, banded = {row["channel"] for row in ages}, {row["channel"] for row in ages if row["has_band"]}
    gone = _gone(connection, [channel for channel in fresh.channels if channel not in known])
    named = [_said(late[channel]) for channel in fresh.channels if channel in late]
    named += [f"nothing has come from {channel} for nine weeks" for channel in gone]
    if named:
        found.append(Finding("stale", f"{', '.join(named)}; {remedy}", {"channels": list(fresh.channels)}))
    elif banded and banded == late.keys():
        worst = list(late.values())
        more = f" and {len(worst) - _SHOWN} channels more" if len(worst) > _SHOWN else ""
        said = f"no channel comes any more: {', '.join(_said(row) for row in worst[:_SHOWN])}{more}; {remedy}"
        found.append(Finding("stale", said, {"channels": sorted(late)}))
    return found


def _gone(connection, channels: list[str]) -> list[str]:
    """Which channels came once; of one that a company never had, nothing is missed."""
    if not channels:
        return []
    rows = connection.execute(
        "select distinct channel from staging._loads where status = 'loaded' and channel in (select unnest(?::varchar[])) "
        "order by channel",
        [channels],
    )
    return [channel for (channel,) in rows.fetchall()]


def _metrics(connection, state: State, refresh: Refresh, baseline: int) -> list[Finding]:
    """Match rate and signs of over-merging against the last publication; an approval of their suite stands for one."""
    approved = quality.history(state, refresh)["approved"]
    metrics = ("match_rate", _CHURN, *_LEVELS)
    since = {metric: max(baseline, approved.get(metric.split(":")[0], {}).get("refresh", 0)) for metric in metrics}
    asked = ", ".join(f"('{metric}', {number})" for metric, number in since.items())
    cursor = connection.execute(
        f"""
        with of_all as (
            select metrics.*, asked.since
            from quality.metrics as metrics inner join (values {asked}) as asked (metric, since) using (metric)
            where channel = '*' and identifier_type = '*' and refresh <= $refresh
        ),
        published as (
            select metric, max_by(value, refresh) as before, max_by(denominator, refresh) as denominator_before
            from of_all where refresh <= since and value is not null group by metric
        )
        select of_all.*, published.before, published.denominator_before
        from of_all left join published using (metric)
        where refresh > since and (refresh = $refresh or (metric = '{_CHURN}' and is_anomaly))
        order by metric, refresh
        """,
        {"refresh": refresh.number},
    )
    names = [column[0] for column in cursor.description]
    found, churned = [], []
    for row in (dict(zip(names, row, strict=True)) for row in cursor.fetchall()):
        value, before = row["value"], row["before"]
        if row["metric"] == _CHURN:
            churned += [row] if row["is_anomaly"] else []
        elif value is None or before is None:
            continue
        elif row["metric"] == "match_rate":
            if (
                value < before * (1 - _MATCH_RATE_MAY_FALL)
                and min(row["denominator"], row["denominator_before"]) >= _FROM_RECORDS
            ):
                found.append(
                    Finding(
                        "match_rate",
                        f"the match rate fell from {number(before)} to {number(value)} since the audience was last published "
                        f"({value / before - 1:+.0%}, more than {_MATCH_RATE_MAY_FALL:.0%}); see which channel lost its "
                        "identifiers, or `onefold approve identity` if that is how it is now",
                        _numbers(row) | {"before": before},
                    )
                )
        elif row["is_anomaly"] and value - before > _MAY_RISE:
            found.append(
                Finding(
                    "over_merge",
                    f"{row['metric']} rose from {number(before)} to {number(value)} since the audience was last published, "
                    f"{quality.band(row)}; see which value joined people who are not one",
                    _numbers(row) | {"before": before},
                )
            )
    if churned:
        worst = max(churned, key=lambda row: (row["value"], row["refresh"]))
        found.append(
            Finding(
                "over_merge",
                f"{number(worst['numerator'])} customers were merged or split at once in refresh {worst['refresh']}, "
                f"{number(worst['value'])} of all, {quality.band(worst)}; see which value joined them, and approve once it is "
                "undone, or right (`onefold approve identifiers` does so for every audience)",
                _numbers(worst),
            )
        )
    return found


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("metric", "refresh", "value", "usual", "lower", "upper")}


def _said(row: dict[str, Any]) -> str:
    return f"{row['metric']} of {row['channel']} is {number(row['value'])} hours, {quality.band(row)}"
