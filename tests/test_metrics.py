"""Every metric against plain Python over the tables, the formulas against examples by hand, and who reads them."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import pandas
import pytest
from click.testing import CliRunner

from dagster_project.cli import main
from dagster_project.lib import answers, dbt, metrics, quality, serving
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.metrics import Question
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

Row = dict[str, Any]
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def company(sample_company: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A copy of the sample company, served."""
    path = tmp_path_factory.mktemp("metrics") / "home"
    shutil.copytree(sample_company.path, path, symlinks=True, ignore=shutil.ignore_patterns(".lock"))
    home = Home(path).prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(path))
        tables = serving.public_tables(dbt.manifest(home))
        serving.serve(home, tables, State(home).last_finished_refresh(), Settings.of(home))
        yield home


@pytest.fixture(scope="module")
def tables(company: Home) -> dict[str, list[Row]]:
    """The rows of the warehouse, those of customers with their city."""
    with_city = "select t.*, c.city from {} as t left join unified.customers as c using (customer_id)"
    queries = {
        "customers": "select * from unified.customers",
        "conversions": with_city.format("analytics.conversions"),
        "events": with_city.format("unified.customer_events"),
        "sessions": "select * from unified.sessions",
        "channels": "select * from analytics.channels",
        "answers": "select * from cleaned.survey_responses",
        "conversations": "select * from analytics.conversations",
        "members": "select * from analytics.campaign_members",
        "months": with_city.format("analytics.customer_months"),
        "mentions": "select * from analytics.mentions",
        "measurements": "select * from quality.metrics",
    }
    with company.connect("test") as connection:
        read = {name: _rows(connection, query) for name, query in queries.items()}
    return read | {"members": _with_what_shows(read["members"]), "months": _with_months_before(read["months"])}


def _with_what_shows(members: list[Row]) -> list[Row]:
    """Members of campaigns, with what a sender's reports say of each message."""
    reported = {
        column: {(m["campaign_id"].lower(), m["channel"]) for m in members if m[column]}
        for column in ("delivered_at", "opened_at")
    }
    for member in members:
        campaign = member["campaign_id"].lower(), member["channel"]
        came = any(member[f"{what}_at"] for what in ("delivered", "opened", "clicked", "unsubscribed", "complained"))
        not_back = bool(member["sent_at"]) and not member["bounced_at"]
        member["is_delivered"] = came or (campaign not in reported["delivered_at"] and not_back)
        member["has_opens"] = member["channel"] == "email" or campaign in reported["opened_at"]
    return members


def _with_months_before(months: list[Row]) -> list[Row]:
    """Customers' months, with how many months ago each was there last: nothing is taken from the columns that say so."""
    seen = defaultdict(list)
    for row in months:
        seen[row["customer_id"]].append(_number(row["month"]))
    return [
        row | {"gap": min((n - m for m in seen[row["customer_id"]] if m < (n := _number(row["month"]))), default=None)}
        for row in months
    ]


def _number(month: date) -> int:
    return month.year * 12 + month.month


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _sum(rows: list[Row], value: Callable[[Row], Any]) -> Any:
    values = [value(row) for row in rows]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ratio(numerator: Any, denominator: Any) -> float | None:
    return float(numerator) / float(denominator) if numerator is not None and denominator else None


def _complete(rows: list[Row], column: str) -> bool:
    return all(row[column] is not None for row in rows)


def _is_own(row: Row) -> bool:
    is_done_to = row["event_name"] in (
        *("email_sent", "email_delivered", "email_bounced", "email_held_out"),
        *("sms_sent", "sms_delivered", "sms_bounced", "sms_held_out"),
        *("message_sent", "call_made", "order_cancelled", "order_refunded"),
    )
    return row["traffic"] == "customer" and row["customer_id"] is not None and not is_done_to


def _count(rows: list[Row], *columns: str) -> int:
    return sum(any(row[column] for column in columns) for row in rows)


def _members(group: str, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["member_group"] == group]


def _rate(rows: list[Row], *columns: str) -> float | None:
    return _ratio(_count(rows, *columns), _count(rows, "is_delivered"))


def _converted(group: str, rows: list[Row]) -> float | None:
    return _ratio(_count(_members(group, rows), "converted_at"), len(_members(group, rows)))


def _awaited(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["channel"] in ("chat", "wecom") and row["started_by"] == "customer"]


def _in_time(rows: list[Row]) -> int:
    return sum(row["first_reply_at"] is not None and row["first_reply_at"] - row["opened_at"] <= HOUR for row in _awaited(rows))


def _seconds(rows: list[Row], until: str) -> list[float]:
    return [(row[until] - row["opened_at"]).total_seconds() for row in rows if row[until] is not None]


def _mean(values: list[float]) -> float | None:
    return _ratio(sum(values), len(values))


def _felt(rows: list[Row], *sentiments: str) -> int:
    return sum(row["sentiment"] in sentiments for row in rows)


def _customers(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["traffic"] == "customer"]


def _named(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["customer_id"] is not None]


def _answers(rows: list[Row], question: str, least: int, most: int) -> int:
    return sum(
        row["question"].lower() == question and row["score"] is not None and least <= row["score"] <= most for row in rows
    )


def _last(rows: list[Row], metric: str, part: str) -> Any:
    counted = [r for r in rows if r["metric"].split(":")[0] == metric and (r["identifier_type"] != "*" or ":" in r["metric"])]
    latest = max((row["measured_at"] for row in counted), default=None)
    return _sum([row for row in counted if row["measured_at"] == latest], lambda row: row[part])


def _margin(rows: list[Row]) -> Any:
    return _sum(rows, lambda r: r["margin_base"]) if _complete(rows, "margin_base") else None


def _buyers(rows: list[Row]) -> int:
    return len({row["customer_id"] for row in _named(rows)})


# By metric: its table, the time and the dimension to split by, rows that count, and the figure of some rows.
_CUSTOMER = ("customers", "first_seen_at", "customer__country", None)
_BUYER = ("customers", "first_order_at", "customer__country", lambda r: r["order_count"] > 0)
_SALE = ("conversions", "converted_at", "customer__city", None)
_EVENT = ("events", "occurred_at", "event__channel", None)
_SESSION = ("sessions", "started_at", "session__device_class", None)
_CHANNEL = ("channels", "event_date", "channel_day__channel_group", None)
_ANSWER = ("answers", "answered_at", "survey_answer__survey", None)
_CONVERSATION = ("conversations", "opened_at", "conversation__channel", None)
_MEMBER = ("members", "started_at", "campaign_member__channel", None)
_OPENABLE = ("members", "started_at", "campaign_member__channel", lambda r: r["has_opens"])
_MENTION = ("mentions", "occurred_at", "mention__platform", None)
_ACTIVE = ("months", "month", "customer__city", None)
_RECORD = ("measurements", "measured_at", "measurement__channel", lambda r: r["identifier_type"] != "*")
_TAG = ("measurements", "measured_at", "measurement__tag", lambda r: r["metric"].startswith("tag_coverage:"))
EXPECTED: dict[str, tuple[tuple, Callable[[list[Row]], Any]]] = {
    "customers": (_CUSTOMER, lambda rows: len(_customers(rows))),
    "known_customers": (_CUSTOMER, lambda rows: sum(r["is_known"] for r in _customers(rows))),
    "known_customer_rate": (
        _CUSTOMER,
        lambda rows: _ratio(sum(r["is_known"] for r in _customers(rows)), len(_customers(rows))),
    ),
    "first_time_buyers": (_BUYER, len),
    "repeat_buyers": (_BUYER, lambda rows: sum(r["order_count"] > 1 for r in rows)),
    "repeat_purchase_rate": (_BUYER, lambda rows: _ratio(sum(r["order_count"] > 1 for r in rows), len(rows))),
    "orders": (_SALE, len),
    "revenue": (_SALE, lambda rows: _sum(rows, lambda r: r["revenue_base"])),
    "average_order_value": (_SALE, lambda rows: _ratio(sum(r["revenue_base"] for r in rows), len(rows))),
    "buyers": (_SALE, _buyers),
    "margin_where_known": (_SALE, lambda rows: _sum(rows, lambda r: r["margin_base"])),
    "orders_without_margin": (_SALE, lambda rows: sum(r["margin_base"] is None for r in rows)),
    "margin": (_SALE, _margin),
    "margin_rate": (_SALE, lambda rows: _ratio(_margin(rows), sum(r["revenue_base"] for r in rows))),
    "customer_margin_where_known": (_SALE, lambda rows: _sum(_named(rows), lambda r: r["margin_base"])),
    "customer_orders_without_margin": (_SALE, lambda rows: sum(r["margin_base"] is None for r in _named(rows))),
    "customer_lifetime_value": (_SALE, lambda rows: _ratio(_margin(_named(rows)), _buyers(rows))),
    "active_customers": (_EVENT, lambda rows: len({r["customer_id"] for r in rows if _is_own(r)})),
    "refunded": (
        _EVENT,
        lambda rows: sum(r["amount_base"] or 0 for r in rows if r["event_name"] in ("order_refunded", "store_return")),
    ),
    "campaign_sent": (_MEMBER, lambda rows: len(_members("treated", rows))),
    "campaign_controls": (_MEMBER, lambda rows: len(_members("control", rows))),
    "campaign_delivered": (_MEMBER, lambda rows: _count(rows, "is_delivered")),
    "campaign_delivered_with_opens": (_OPENABLE, lambda rows: _count(rows, "is_delivered")),
    "campaign_opened": (_OPENABLE, lambda rows: _count(rows, "opened_at", "clicked_at")),
    "campaign_clicked": (_MEMBER, lambda rows: _count(rows, "clicked_at")),
    "campaign_unsubscribed": (_MEMBER, lambda rows: _count(rows, "unsubscribed_at")),
    "campaign_complained": (_MEMBER, lambda rows: _count(rows, "complained_at")),
    "campaign_converted": (_MEMBER, lambda rows: _count(_members("treated", rows), "converted_at")),
    "campaign_controls_converted": (_MEMBER, lambda rows: _count(_members("control", rows), "converted_at")),
    "open_rate": (_OPENABLE, lambda rows: _rate(rows, "opened_at", "clicked_at")),
    "click_rate": (_MEMBER, lambda rows: _rate(rows, "clicked_at")),
    "unsubscribe_rate": (_MEMBER, lambda rows: _rate(rows, "unsubscribed_at")),
    "complaint_rate": (_MEMBER, lambda rows: _rate(rows, "complained_at")),
    "campaign_conversion_rate": (_MEMBER, lambda rows: _converted("treated", rows)),
    "control_conversion_rate": (_MEMBER, lambda rows: _converted("control", rows)),
    "uplift": (
        _MEMBER,
        lambda rows: (
            _converted("treated", rows) - _converted("control", rows)
            if _members("treated", rows) and _members("control", rows)
            else None
        ),
    ),
    "sessions": (_SESSION, lambda rows: len(_customers(rows))),
    "converted_sessions": (_SESSION, lambda rows: sum(r["is_converted"] for r in _customers(rows))),
    "bounced_sessions": (_SESSION, lambda rows: sum(r["is_bounce"] for r in _customers(rows))),
    "page_views": (_SESSION, lambda rows: _sum(_customers(rows), lambda r: r["page_views"])),
    "session_seconds": (_SESSION, lambda rows: _sum(_customers(rows), lambda r: r["duration_seconds"])),
    "conversion_rate": (_SESSION, lambda rows: _ratio(sum(r["is_converted"] for r in _customers(rows)), len(_customers(rows)))),
    "bounce_rate": (_SESSION, lambda rows: _ratio(sum(r["is_bounce"] for r in _customers(rows)), len(_customers(rows)))),
    "average_session_seconds": (
        _SESSION,
        lambda rows: _ratio(_sum(_customers(rows), lambda r: r["duration_seconds"]), len(_customers(rows))),
    ),
    "pages_per_session": (
        _SESSION,
        lambda rows: _ratio(_sum(_customers(rows), lambda r: r["page_views"]), len(_customers(rows))),
    ),
    "touchpoints": (_CHANNEL, lambda rows: sum(r["touchpoint_count"] for r in rows if r["model"] == "first")),
    "ad_spend": (_CHANNEL, lambda rows: _sum([r for r in rows if r["model"] == "first"], lambda r: r["cost_base"])),
    "attributed_conversions": (_CHANNEL, lambda rows: _sum(rows, lambda r: r["conversions"])),
    "attributed_revenue": (_CHANNEL, lambda rows: _sum(rows, lambda r: r["revenue_base"])),
    "attributed_margin_where_known": (_CHANNEL, lambda rows: _sum(rows, lambda r: r["margin_base"])),
    "attributions_without_margin": (_CHANNEL, lambda rows: sum(r["margin_base"] is None for r in rows)),
    "attributed_cost": (_CHANNEL, lambda rows: _sum(rows, lambda r: r["cost_base"])),
    "roas": (_CHANNEL, lambda rows: _ratio(_sum(rows, lambda r: r["revenue_base"]), _sum(rows, lambda r: r["cost_base"]))),
    "roi": (
        _CHANNEL,
        lambda rows: (
            _ratio(_margin(rows) - _sum(rows, lambda r: r["cost_base"]), _sum(rows, lambda r: r["cost_base"]))
            if _margin(rows) is not None and _sum(rows, lambda r: r["cost_base"]) is not None
            else None
        ),
    ),
    "nps_answers": (_ANSWER, lambda rows: _answers(rows, "nps", 0, 10)),
    "promoters": (_ANSWER, lambda rows: _answers(rows, "nps", 9, 10)),
    "detractors": (_ANSWER, lambda rows: _answers(rows, "nps", 0, 6)),
    "nps": (
        _ANSWER,
        lambda rows: _ratio(_answers(rows, "nps", 9, 10) - _answers(rows, "nps", 0, 6), _answers(rows, "nps", 0, 10)),
    ),
    "csat_answers": (_ANSWER, lambda rows: _answers(rows, "csat", 1, 5)),
    "satisfied_answers": (_ANSWER, lambda rows: _answers(rows, "csat", 4, 5)),
    "csat": (_ANSWER, lambda rows: _ratio(_answers(rows, "csat", 4, 5), _answers(rows, "csat", 1, 5))),
    "conversations": (_CONVERSATION, len),
    "complaints": (_CONVERSATION, lambda rows: _count(rows, "is_complaint")),
    "awaited_conversations": (_CONVERSATION, lambda rows: len(_awaited(rows))),
    "conversations_answered_in_time": (_CONVERSATION, _in_time),
    "answered_conversations": (_CONVERSATION, lambda rows: _count(_awaited(rows), "first_reply_at")),
    "first_response_seconds": (_CONVERSATION, lambda rows: sum(_seconds(_awaited(rows), "first_reply_at")) or None),
    "resolved_conversations": (_CONVERSATION, lambda rows: _count(rows, "resolved_at")),
    "resolution_seconds": (_CONVERSATION, lambda rows: sum(_seconds(rows, "resolved_at")) or None),
    "answered_in_time": (_CONVERSATION, lambda rows: _ratio(_in_time(rows), len(_awaited(rows)))),
    "average_first_response_seconds": (_CONVERSATION, lambda rows: _mean(_seconds(_awaited(rows), "first_reply_at"))),
    "average_resolution_seconds": (_CONVERSATION, lambda rows: _mean(_seconds(rows, "resolved_at"))),
    "mentions": (_MENTION, len),
    "mentions_with_sentiment": (_MENTION, lambda rows: _count(rows, "sentiment")),
    "positive_mentions": (_MENTION, lambda rows: _felt(rows, "positive")),
    "negative_mentions": (_MENTION, lambda rows: _felt(rows, "negative")),
    "net_sentiment": (
        _MENTION,
        lambda rows: _ratio(_felt(rows, "positive") - _felt(rows, "negative"), _count(rows, "sentiment")),
    ),
    "monthly_customers": (_ACTIVE, lambda rows: len({row["customer_id"] for row in rows})),
    "new_customers": (_ACTIVE, lambda rows: sum(row["gap"] is None for row in rows)),
    "retained_customers": (_ACTIVE, lambda rows: sum(row["gap"] == 1 for row in rows)),
    "reactivated_customers": (_ACTIVE, lambda rows: sum((row["gap"] or 0) > 1 for row in rows)),
    "named_records": (_RECORD, lambda rows: _last(rows, "integration_rate", "denominator")),
    "integrated_records": (_RECORD, lambda rows: _last(rows, "integration_rate", "numerator")),
    "integration_rate": (
        _RECORD,
        lambda rows: _ratio(_last(rows, "integration_rate", "numerator"), _last(rows, "integration_rate", "denominator")),
    ),
    "matchable_records": (_RECORD, lambda rows: _last(rows, "match_rate", "denominator")),
    "matched_records": (_RECORD, lambda rows: _last(rows, "match_rate", "numerator")),
    "match_rate": (
        _RECORD,
        lambda rows: _ratio(_last(rows, "match_rate", "numerator"), _last(rows, "match_rate", "denominator")),
    ),
    "customers_with_tag": (_TAG, lambda rows: _last(rows, "tag_coverage", "numerator")),
    "customers_to_tag": (_TAG, lambda rows: _last(rows, "tag_coverage", "denominator")),
    "tag_coverage": (
        _TAG,
        lambda rows: _ratio(_last(rows, "tag_coverage", "numerator"), _last(rows, "tag_coverage", "denominator")),
    ),
}
_TWO_TABLES = {"net_revenue", "refund_rate"}
_TWO_MONTHS = {"retention_rate"}
_COLUMNS = {"survey": "survey_id"}


def _month(moment: date | None) -> date | None:
    return None if moment is None else date(moment.year, moment.month, 1)


def _key(row: Row, time: str, dimensions: list[str]) -> tuple:
    return (_month(row[time]), *[_value(row, dimension.rsplit("__", 1)[1]) for dimension in dimensions])


def _value(row: Row, column: str) -> Any:
    return row["metric"].split(":")[1] if column == "tag" else row[_COLUMNS.get(column, column)]


def _asked(home: Home, name: str, dimensions: list[str]) -> dict[tuple, Any]:
    found = metrics.ask(home, Question((name,), tuple(dimensions[:1]), grain="month"))
    return {(row["month"], *[row[dimension] for dimension in dimensions]): row[name] for row in found}


def _same(asked: dict[tuple, Any], wanted: dict[tuple, Any]) -> None:
    assert asked.keys() == wanted.keys()
    for key, value in wanted.items():
        assert (asked[key] is None) == (value is None), key
        assert value is None or float(asked[key]) == pytest.approx(float(value), rel=1e-9, abs=1e-9), key


@pytest.mark.parametrize("name", EXPECTED)
def test_a_metric_by_month_and_dimension_is_what_its_rows_add_up_to(company: Home, tables: dict, name: str) -> None:
    (table, time, dimension, counts), figure = EXPECTED[name]
    always_by = next(m for m in metrics.catalogue(company) if m.name == name).always_by
    dimensions = list(dict.fromkeys([dimension, *always_by]))
    groups = defaultdict(list)
    for row in tables[table]:
        if counts is None or counts(row):
            groups[_key(row, time, dimensions)].append(row)
    wanted = {key: figure(rows) for key, rows in groups.items()}
    if table == "measurements":  # other metrics of the same channels make no rows
        wanted = {key: value for key, value in wanted.items() if value is not None}
    assert len({key[1] for key in wanted}) > 1 or counts is _OPENABLE[3], "nothing is told apart"
    _same(_asked(company, name, dimensions), wanted)


@pytest.mark.parametrize("name", sorted(_TWO_TABLES))
def test_what_two_tables_hold_is_brought_together_by_month_and_dimension(company: Home, tables: dict, name: str) -> None:
    sold, given_back = defaultdict(float), defaultdict(float)
    for row in tables["conversions"]:
        sold[_month(row["converted_at"]), row["city"]] += float(row["revenue_base"])
    for row in tables["events"]:
        back = float(row["amount_base"] or 0) if row["event_name"] in ("order_refunded", "store_return") else 0
        given_back[_month(row["occurred_at"]), row["city"]] += back
    keys = sold.keys() | given_back.keys()
    assert any(given_back.values())
    if name == "net_revenue":
        wanted = {key: sold.get(key, 0) - given_back.get(key, 0) for key in keys}
    else:
        wanted = {key: _ratio(given_back.get(key, 0), sold.get(key)) for key in keys}
    _same(_asked(company, name, ["customer__city"]), wanted)


# By metric: the column of analytics.campaigns.
_OF_CAMPAIGNS = {f"campaign_{count}": f"{count}_count" for count in ("sent", "delivered", "opened", "clicked")} | {
    **{f"campaign_{count}": f"{count}_count" for count in ("unsubscribed", "complained", "converted")},
    **{name: name for name in ("open_rate", "click_rate", "unsubscribe_rate", "complaint_rate")},
    **{"campaign_conversion_rate": "conversion_rate", "control_conversion_rate": "control_conversion_rate", "uplift": "uplift"},
    **{"campaign_controls": "control_count", "campaign_controls_converted": "control_converted_count"},
}


def test_campaigns_are_as_the_report_of_campaigns_has_them(company: Home) -> None:
    asked = metrics.ask(company, Question(tuple(_OF_CAMPAIGNS), ("campaign_id", "campaign_member__channel")))
    with company.connect("test") as connection:
        reported = _rows(
            connection, "select * from analytics.campaigns where channel in ('email', 'sms') and sent_count is not null"
        )
    named = {(row["campaign_member__campaign_id"], row["campaign_member__channel"]): row for row in asked}
    for name, column in _OF_CAMPAIGNS.items():
        wanted = {(row["campaign_id"], row["channel"]): row[column] for row in reported}
        assert any(wanted.values()), f"{column} is always nothing"
        _same({key: row[name] for key, row in named.items()}, wanted)
    assert {row["channel"] for row in reported} == {"email", "sms"}


def test_service_is_as_the_report_of_satisfaction_has_it(company: Home) -> None:
    names = ("conversations", "complaints", "answered_in_time")
    asked = metrics.ask(company, Question(names, ("channel",), grain="day"))
    with company.connect("test") as connection:
        reported = _rows(connection, "select * from analytics.satisfaction where channel <> 'survey'")
    for name, column in zip(names, ("conversation_count", "complaint_count", "answered_in_time"), strict=True):
        wanted = {(row["event_date"], row["channel"]): row[column] for row in reported}
        _same({(row["day"], row["conversation__channel"]): row[name] for row in asked}, wanted)
        assert any(wanted.values())


def test_growth_and_mentions_are_as_their_reports_have_them(company: Home) -> None:
    names = ("monthly_customers", "new_customers", "retained_customers", "reactivated_customers")
    asked = {row["month"]: row for row in metrics.ask(company, Question(names, grain="month"))}
    of_platforms = ("mentions", "positive_mentions", "negative_mentions", "net_sentiment")
    heard = metrics.ask(company, Question(of_platforms, ("platform",), grain="day"))
    with company.connect("test") as connection:
        grown = _rows(connection, "select * from analytics.growth where population = 'everybody' and customer_count > 0")
        listened = _rows(connection, "select * from analytics.listening where topic = '(all)' and platform <> '(all)'")
    for name, column in zip(names, ("customer_count", "new_count", "retained_count", "reactivated_count"), strict=True):
        _same({month: row[name] for month, row in asked.items()}, {row["month"]: row[column] for row in grown})
    for name, column in zip(of_platforms, ("mention_count", "positive_count", "negative_count", "net_sentiment"), strict=True):
        wanted = {(row["event_date"], row["platform"]): row[column] for row in listened}
        _same({(row["day"], row["mention__platform"]): row[name] for row in heard}, wanted)
    assert len(grown) > 2 and len(listened) > 10


def test_the_retention_rate_is_of_those_who_were_there_in_the_month_before(company: Home, tables: dict) -> None:
    there = defaultdict(set)
    for row in tables["months"]:
        there[row["city"], _number(row["month"])].add(row["customer_id"])
    now = _number(metrics.ask(company, Question(("monthly_customers",), grain="month"))[-1]["month"])
    wanted = {}
    for city, month in there.keys() | {(city, month + 1) for city, month in there if month < now}:
        before = there.get((city, month - 1), set())
        day = date((month - 1) // 12, (month - 1) % 12 + 1, 1)
        wanted[day, city] = _ratio(len(before & there.get((city, month), set())), len(before))
    assert any(0 < (rate or 0) < 1 for rate in wanted.values())
    _same(_asked(company, "retention_rate", ["customer__city"]), wanted)
    with company.connect("test") as connection:
        grown = _rows(
            connection, "select * from analytics.growth where population = 'everybody' and retention_rate is not null"
        )
    found = {row["month"]: row["retention_rate"] for row in metrics.ask(company, Question(("retention_rate",), grain="month"))}
    _same({row["month"]: found[row["month"]] for row in grown}, {row["month"]: row["retention_rate"] for row in grown})
    assert grown


def test_every_metric_is_compared_and_tells_its_reader_what_it_is(company: Home) -> None:
    found = metrics.catalogue(company)
    assert {metric.name for metric in found} == EXPECTED.keys() | _TWO_TABLES | _TWO_MONTHS
    for metric in found:
        assert metric.label and metric.label_zh and metric.description.endswith(".") and metric.owner.startswith("team:")
        assert metric.unit in metrics.UNITS and metric.dimensions
    assert len({metric.label for metric in found}) == len({metric.label_zh for metric in found}) == len(found)
    assert metrics.require_described(company) == len(found)


DAY = datetime(2026, 3, 1)


def _survey(measure: str, *groups: str | None) -> tuple[str, list[Row]]:
    return "analytics.survey_answers", [
        {"measure": measure, "rating": None if group is None else 1.0, "rating_group": group, "answered_at": DAY}
        for group in groups
    ]


def _sent(*rows: tuple[str, str, str]) -> tuple[str, list[Row]]:
    """Members of campaigns: campaign, channel, and what was reported of the message."""
    steps = ("sent", "held_out", "delivered", "bounced", "opened", "clicked", "unsubscribed", "complained", "converted")
    return "analytics.campaign_members", [
        {"campaign_id": campaign, "channel": channel, "started_at": DAY - timedelta("early" in reported.split())}
        | {"member_group": "control" if "held_out" in reported.split() else "treated"}
        | {f"{step}_at": DAY if step in reported.split() else pandas.NaT for step in steps}
        for campaign, channel, reported in rows
    ]


def _talked(*rows: tuple[str, str, float | None]) -> tuple[str, list[Row]]:
    names = ("channel", "started_by", "first_response_seconds")
    return "analytics.conversations", [
        dict(zip(names, row, strict=True)) | {"opened_at": DAY, "first_reply_at": pandas.NaT if row[2] is None else DAY}
        for row in rows
    ]


def _sales(*rows: tuple[str | None, float, float | None]) -> tuple[str, list[Row]]:
    names = ("customer_id", "revenue_base", "margin_base")
    return "analytics.conversions", [
        {"conversion_id": str(n), "channel": "orders", "converted_at": DAY} | dict(zip(names, row, strict=True))
        for n, row in enumerate(rows)
    ]


def _credited(*rows: tuple[str, float, float | None, float | None]) -> tuple[str, list[Row]]:
    names = ("channel_group", "revenue_base", "margin_base", "cost_base")
    days = [dict(zip(names, row, strict=True)) for row in rows]
    return "analytics.channels", [
        {"channel_day_id": f"{n}{model}", "model": model, "event_date": DAY, "conversions": 1, "touchpoint_count": 1} | day
        for model in ("first", "last")
        for n, day in enumerate(days)
    ]


def _measured(*rows: tuple[int, str, str, str, int, int]) -> tuple[str, list[Row]]:
    names = ("refresh", "metric", "channel", "identifier_type", "numerator", "denominator")
    return "quality.metrics", [
        dict(zip(names, row, strict=True)) | {"measured_at": datetime(2026, 3, 1, row[0])} for row in rows
    ]


# All by hand, from the formulas of the measures.
BY_HAND = {
    "nps: three promoters less one detractor of five": (
        *("nps", None, _survey("nps", "promoter", "promoter", "promoter", "passive", "detractor")),
        (3 - 1) / 5,
    ),
    "nps: a passive is neither, a score outside no answer": ("nps", None, _survey("nps", "passive", "passive", None), 0.0),
    "nps: without answers there is none": ("nps", None, _survey("csat", "satisfied"), None),
    "csat: two of four are satisfied": (
        *("csat", None, _survey("csat", "satisfied", "satisfied", "not satisfied", "not satisfied", None)),
        2 / 4,
    ),
    "answered in time: one of three; who calls, or was written to, waits for nothing": (
        *("answered_in_time", None),
        _talked(*(("chat", "customer", s) for s in (3600, 3600.5, None)), ("call", "customer", None), ("wecom", "company", 9)),
        1 / 3,
    ),
    "first response: 3600 and 100 seconds": (
        *("average_first_response_seconds", None),
        _talked(*(("chat", "customer", s) for s in (3600, 100, None)), ("wecom", "company", 9)),
        (3600 + 100) / 2,
    ),
    "delivered: a click shows it, and a bounce before counts no more": (
        *("campaign_delivered", None),
        _sent(*(("a", "email", f"sent {s}") for s in ("delivered", "delivered opened", "bounced clicked", "", "bounced"))),
        3,
    ),
    "delivered: what is reported of other days says that deliveries are reported": (
        *("campaign_delivered", "started_at >= '2026-03-01'"),
        _sent(("a", "email", "early sent delivered"), ("a", "email", "sent"), ("b", "email", "sent")),
        1,
    ),
    "open rate: without reports of delivery three of four came; one opened and one clicked": (
        *("open_rate", None),
        _sent(*(("a", "email", f"sent {s}") for s in ("", "opened", "clicked", "bounced")), ("a", "email", "held_out")),
        2 / 3,
    ),
    "open rate: nobody sees text messages opened": ("open_rate", None, _sent(("a", "sms", "sent clicked")), None),
    "open rate: of text messages in the campaign that reports one, in whatever capitals": (
        *("open_rate", None, _sent(("a", "sms", "sent opened"), ("A", "sms", "sent"), ("b", "sms", "sent clicked"))),
        1 / 2,
    ),
    "click rate: of those whom it reached": (
        *("click_rate", None, _sent(("a", "sms", "sent clicked"), ("a", "sms", "sent"), ("a", "sms", "sent bounced"))),
        1 / 2,
    ),
    "uplift: two of five less one of four": (
        *("uplift", None),
        _sent(
            *[("a", "email", "sent converted")] * 2,
            *[("A", "email", "sent")] * 3,
            *[("a", "email", "held_out converted"), *[("a", "email", "held_out")] * 3],
        ),
        2 / 5 - 1 / 4,
    ),
    "uplift: without a control group there is none": ("uplift", None, _sent(("a", "email", "sent converted")), None),
    "net sentiment: three good less one bad of five": (
        *("net_sentiment", None),
        (
            "analytics.mentions",
            [{"sentiment": s, "occurred_at": DAY} for s in (*["positive"] * 3, "negative", "neutral", None)],
        ),
        (3 - 1) / 5,
    ),
    "roas: 300 for 100": ("roas", "model = 'last'", _credited(("Paid Search", 300, 150, 100)), 300 / 100),
    "roi: a margin of 150 for 100": ("roi", "model = 'last'", _credited(("Paid Search", 300, 150, 100)), (150 - 100) / 100),
    "roi: nothing is guessed": (
        *("roi", "model = 'last'", _credited(("Paid Search", 300, 150, 100), ("Paid Search", 10, None, None))),
        None,
    ),
    "roas: without cost there is none": ("roas", "model = 'last'", _credited(("Email", 300, 150, None)), None),
    "clv: 30 + 10 + 20 of two customers, a stranger's apart": (
        *("customer_lifetime_value", None, _sales(("Li", 100, 30), ("Li", 50, 10), ("Wang", 90, 20), (None, 70, None))),
        (30 + 10 + 20) / 2,
    ),
    "clv: nothing is guessed": ("customer_lifetime_value", None, _sales(("Li", 100, 30), ("Wang", 50, None)), None),
    "average order value: 240 in three orders": (
        *("average_order_value", None, _sales(("Li", 100, 1), ("Li", 50, 1), (None, 90, 1))),
        240 / 3,
    ),
    "margin rate: 40 of 200": ("margin_rate", None, _sales(("Li", 150, 30), ("Li", 50, 10)), 40 / 200),
    "match rate: two of three and one of two, of the last refresh, totals apart": (
        "match_rate",
        None,
        _measured(
            *((1, "match_rate", "web", "email", 0, 9), (2, "match_rate", "*", "*", 3, 5), (2, "match_rate", "web", "*", 2, 3)),
            *((2, "match_rate", "web", "email", 2, 3), (2, "match_rate", "crm", "email", 1, 2)),
            (2, "integration_rate", "web", "email", 3, 3),
        ),
        (2 + 1) / (3 + 2),
    ),
    "integration rate: nine of ten": (
        "integration_rate",
        None,
        _measured((1, "integration_rate", "web", "email", 9, 10)),
        9 / 10,
    ),
    "tag coverage: three of four": (
        *(
            "tag_coverage",
            "tag = 'rfm'",
            _measured((1, "tag_coverage:rfm", "*", "*", 3, 4), (1, "tag_coverage:city", "*", "*", 0, 4)),
        ),
        3 / 4,
    ),
}


@pytest.mark.parametrize("example", BY_HAND)
def test_a_formula_gives_what_it_gives_by_hand(company: Home, example: str) -> None:
    name, where, (table, rows), wanted = BY_HAND[example]
    frame = pandas.DataFrame(rows)
    with duckdb.connect() as connection:
        connection.execute(f"create schema {table.split('.')[0]}; create table {table} as select * from frame")
        found = _rows(connection, metrics.sql(company, Question((name,), where=where)))
    value = found[0][name]
    assert len(frame) == len(rows) and len(found) == 1
    assert (None if value is None or value != value else float(value)) == (None if wanted is None else pytest.approx(wanted))


def test_the_match_and_integration_rate_of_the_gates_are_the_metrics(company: Home, tables: dict) -> None:
    last = max(row["refresh"] for row in tables["measurements"])
    for name in ("match_rate", "integration_rate"):
        judged = {
            row["channel"]: row["value"]
            for row in tables["measurements"]
            if row["metric"] == name and row["refresh"] == last and row["identifier_type"] == "*"
        }
        [over_all] = metrics.ask(company, Question((name,)))
        assert over_all[name] == pytest.approx(judged.pop("*"))
        by_channel = metrics.ask(company, Question((name,), ("channel",)))
        assert {row["measurement__channel"]: row[name] for row in by_channel} == pytest.approx(judged)
    [known] = metrics.ask(company, Question(("known_customer_rate",)))
    [gate] = [r["value"] for r in tables["measurements"] if r["metric"] == "known_customers" and r["refresh"] == last]
    assert known["known_customer_rate"] == pytest.approx(gate)


def test_every_attribution_model_stands_for_itself_and_shares_out_all_revenue(company: Home) -> None:
    [sold] = metrics.ask(company, Question(("revenue", "orders")))
    credited = metrics.ask(company, Question(("attributed_revenue", "attributed_conversions")))
    assert len(credited) == 8
    for row in credited:
        assert row["attributed_revenue"] == sold["revenue"] and row["attributed_conversions"] == sold["orders"]
    [one] = metrics.ask(company, Question(("attributed_revenue",), where="model = 'shapley'"))
    assert one == {"attributed_revenue": sold["revenue"]}


def test_days_and_conditions_limit_what_is_counted(company: Home, tables: dict) -> None:
    asked = Question(("sessions",), ("channel",), "device_class = 'mobile'", date(2026, 9, 10), date(2026, 9, 20))
    counted: dict[str, int] = defaultdict(int)
    for row in tables["sessions"]:
        if row["device_class"] == "mobile" and date(2026, 9, 10) <= row["started_at"].date() <= date(2026, 9, 20):
            counted[row["channel"]] += row["traffic"] == "customer"
    assert {row["session__channel"]: row["sessions"] for row in metrics.ask(company, asked)} == counted and counted


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(("revenu",)), "there is no metric revenu; did you mean revenue"),
        (Question(()), "name at least one metric"),
        (Question(("revenue",), ("citi",)), "citi is no dimension of revenue; did you mean city?; it has conversion__channel"),
        (Question(("revenue", "sessions"), ("channel",)), "channel is no dimension of all of revenue, sessions"),
        (Question(("revenue", "roas")), "channel_day__model is no dimension of all of revenue, roas"),
        (Question(("revenue",), where="town = 'Shanghai'"), "town is no dimension of revenue"),
        (Question(("revenue",), where="city = 'a'; drop table b"), "has ';'; give a condition over dimensions"),
        (Question(("revenue",), where="city in (select city from unified.customers)"), "select is no dimension"),
        (Question(("revenue",), where="city > 5"), "--where 'city > 5': Binder Error"),
        (Question(("revenue",), where="city >"), "--where 'city >': Parser Error"),
        (Question(("retention_rate",)), "retention_rate compares a period with an earlier one; give a grain, as month"),
        (Question(("revenue",), grain="fortnight"), "a grain is one of day, week"),
        (Question(("revenue",), since=date(2026, 2, 1), until=date(2026, 1, 1)), "since 2026-02-01 is after until 2026-01-01"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_to_ask_instead(company: Home, question: Question, said: str) -> None:
    with pytest.raises(OnefoldError) as error:
        metrics.ask(company, question)
    assert said in str(error.value)


def test_text_in_a_condition_is_no_name(company: Home) -> None:
    assert metrics.ask(company, Question(("orders",), where="city = 'citi; it''s' or city is not null and channel <> 'pos'"))


def test_nothing_served_says_how_to_serve(new_home: Callable[[], Home], company: Home) -> None:
    home = new_home()
    shutil.copytree(dbt.target_folder(company), dbt.target_folder(home))  # so that dbt need not parse again
    with pytest.raises(OnefoldError, match="has not served anything yet; run `onefold refresh`"):
        metrics.ask(home, Question(("revenue",)))


def test_saved_queries_are_views_of_both_served_files(company: Home) -> None:
    saved = metrics.saved_queries(company)
    assert {query.name for query in saved} >= {"customers", "campaigns", "satisfaction_by_month", "matching"}
    with company.connect("test") as connection:
        computed = {query.name: connection.execute(f"from ({query.sql}) order by all").fetchall() for query in saved}
    for file in ("onefold.duckdb", "onefold_private.duckdb"):
        with duckdb.connect() as connection:  # under another name, as BI tools attach it
            connection.execute(f"attach '{(company.serving / 'current' / file).resolve()}' as company (read_only)")
            for name, rows in computed.items():
                assert connection.execute(f"from company.metrics.{name} order by all").fetchall() == rows
                assert rows


def test_the_status_counts_customers_as_the_metrics_do(company: Home) -> None:
    [asked] = metrics.ask(company, Question(("customers", "known_customers")))
    [shown] = answers.customers(company)
    assert shown["known_customers"] == asked["known_customers"]
    assert shown["known_customers"] + shown["anonymous_customers"] == asked["customers"]


def test_the_suite_of_figures_warns_when_a_model_gives_away_more_than_was_sold(company: Home) -> None:
    [suite] = [suite for suite in quality.suites() if suite.name == "figures"]
    with company.connect("test") as connection:
        before = quality.judge(company, connection, suite, 6)
        assert before.success and len(before.numbers) > 20
        connection.execute("begin")
        connection.execute(
            "update analytics.channels set revenue_base = revenue_base + 5 where channel_day_id = "
            "(select min(channel_day_id) from analytics.channels where model = 'linear')"
        )
        connection.execute("commit")
        after = quality.judge(company, connection, suite, 6)
        connection.execute(
            "update analytics.channels set revenue_base = revenue_base - 5 where channel_day_id = "
            "(select min(channel_day_id) from analytics.channels where model = 'linear')"
        )
    assert not after.success
    assert after.changed == ['revenue_too_much is 5, expected revenue_too_much {"min_value": -0.0001, "max_value": 0.0001}']


def test_a_suite_that_reads_an_unknown_saved_query_is_told_the_known_ones(company: Home) -> None:
    with pytest.raises(OnefoldError, match="no saved query sales_by_year; did you mean sales_by_mon"):
        metrics.filled_in(company, "select * from metrics.sales_by_year")
    assert metrics.filled_in(company, "select value from quality.metrics") == "select value from quality.metrics"


def test_the_commands_show_definitions_figures_and_sql(company: Home) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["--home", str(company.path), "metric", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "Orders that were not cancelled" in run("list")
    listed = {metric["name"]: metric for metric in json.loads(run("list", "--json"))}
    assert listed["match_rate"]["label_zh"] == "匹配率" and "measurement__channel" in listed["match_rate"]["dimensions"]
    shown = json.loads(run("query", "revenue,orders", "--by", "channel", "--grain", "month", "--since", "2026-09-01", "--json"))
    assert {"month", "conversion__channel", "revenue", "orders"} == set(shown[0])
    assert isinstance(shown[0]["revenue"], float) and shown[0]["month"] == "2026-09-01"
    assert "channel group" in run("query", "roas", "--by", "channel_group")
    statement = run("query", "revenue", "--by", "city", "--sql")
    with duckdb.connect(str((company.serving / "current" / "onefold.duckdb").resolve()), read_only=True) as connection:
        assert connection.execute(statement).fetchall()
    refused = CliRunner().invoke(main, ["--home", str(company.path), "metric", "query", "revenu"])
    assert refused.exit_code == 1 and "did you mean revenue" in refused.output
