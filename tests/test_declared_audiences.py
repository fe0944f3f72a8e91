"""Audiences that are declared in YAML: the form, its SQL on hand-made tables, and what stands between them."""

import hashlib
import random
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from judging import judge_permissions

from dagster_project.lib import dbt
from dagster_project.lib.audiences import form, project, sql
from dagster_project.lib.audiences.form import Form
from dagster_project.lib.audiences.known import Known
from dagster_project.lib.audiences.preview import Asker, named, preview
from dagster_project.lib.audiences.rendering import rendered
from dagster_project.lib.audiences.sentences import CHINESE, sentence, whole
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.funnels import SHIPPED, Funnel
from dagster_project.lib.home import Home
from dagster_project.lib.publish import audiences

NOW = datetime(2026, 1, 31)
FUNNELS = {name: Funnel.model_validate(given) for name, given in yaml.safe_load(SHIPPED.read_text(encoding="utf-8")).items()}
VARIABLES = {"as_of": str(NOW), "funnels": {name: funnel.model_dump(mode="json") for name, funnel in FUNNELS.items()}}


@pytest.fixture(scope="module")
def known() -> Known:
    return project.known(dbt.PROJECT, dbt.tag_names(), FUNNELS)


def declared(who: str | dict[str, Any], **others: Any) -> Form:
    content = {
        "label": "An audience",
        "owner": {"name": "marketing", "email": "marketing@example.com"},
        "purpose": "marketing",
        "who": yaml.safe_load(who) if isinstance(who, str) else who,
        **others,
    }
    return form.parse(content, "a.yaml")


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@pytest.fixture
def company() -> duckdb.DuckDBPyConnection:
    """The tables that audiences read, empty."""
    connection = duckdb.connect()
    connection.execute(
        """
        create schema unified; create schema tags; create schema analytics; create schema cleaned; create schema audiences;
        create schema serving;
        create table unified.customers (customer_id varchar, is_known boolean default true, city varchar, region varchar,
            country varchar, birth_date date, email varchar, order_count bigint default 0, loyalty_tier varchar,
            last_order_at timestamp, is_over_merge_suspect boolean);
        create table unified.customer_events (customer_id varchar, event_name varchar, occurred_at timestamp, channel varchar,
            product_id varchar, amount_base decimal(18, 4), traffic varchar);
        create table tags.customer_tags (customer_id varchar, tag varchar, value varchar, number_value double,
            confidence double);
        create table tags.history (customer_id varchar, tag varchar, value varchar, previous_value varchar,
            valid_from timestamp, valid_to timestamp);
        create table analytics.funnel_entries (entry_id varchar, customer_id varchar, funnel varchar, step_1_at timestamp,
            furthest_step bigint);
        create table cleaned.catalog_products (product_id varchar, category varchar, brand varchar);
        create table audiences.memberships (audience varchar, customer_id varchar, left_at timestamp);
        create table serving.version as select timestamp '2026-01-31' as as_of;
        """
    )
    judge_permissions(connection, VARIABLES["as_of"])
    return connection


def fill(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        marks = ", ".join("?" for _ in row)
        connection.execute(f"insert into {table} ({', '.join(row)}) values ({marks})", list(row.values()))


def people(connection: duckdb.DuckDBPyConnection, *names: str) -> None:
    fill(connection, "unified.customers", [{"customer_id": name} for name in names])


def asker(connection: duckdb.DuckDBPyConnection, known: Known, **forms: Form) -> Asker:
    return Asker(connection, dbt.PROJECT, known, forms, VARIABLES)


def members(connection: duckdb.DuckDBPyConnection, known: Known, who: str | dict[str, Any]) -> set[str]:
    """Who is in the audience, by the model's query; a preview has the same."""
    asked = asker(connection, known, a=declared(who))
    found = connection.execute(f"from ({asked.query('a')}) order by all").fetchall()
    assert found == connection.execute(f"from {asked.members('a')} order by all").fetchall()
    assert len(found) == len({row[0] for row in found})
    return {row[0] for row in found}


# What each condition selects


def test_a_tag_is_asked_for_value_number_and_confidence(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    people(company, "vip", "high", "low", "unsure", "none")
    fill(
        company,
        "tags.customer_tags",
        [
            {"customer_id": "vip", "tag": "value_tier", "value": "vip", "number_value": 900},
            {"customer_id": "high", "tag": "value_tier", "value": "high", "number_value": 500},
            {"customer_id": "low", "tag": "value_tier", "value": "low", "number_value": 5},
            {"customer_id": "unsure", "tag": "favourite_category", "value": "tea", "confidence": 0.3},
            {"customer_id": "low", "tag": "favourite_category", "value": "tea", "confidence": 0.6},
            {"customer_id": "none", "tag": "has_children", "value": "yes"},
        ],
    )
    assert members(company, known, "tag: {name: value_tier, is: [vip, high]}") == {"vip", "high"}
    assert members(company, known, "tag: {name: value_tier}") == {"vip", "high", "low"}
    assert members(company, known, "tag: {name: value_tier, at_least: 5.5, at_most: 900}") == {"vip", "high"}
    assert members(company, known, "tag: {name: favourite_category, is: tea, confidence: 0.5}") == {"low"}
    assert members(company, known, "tag: {name: has_children, is: yes}") == {"none"}  # YAML takes a bare yes for true
    assert members(company, known, "not: {tag: {name: value_tier}}") == {"unsure", "none"}


def test_a_tag_became_what_it_is_within_the_days_but_not_by_being_worked_out_first(
    company: duckdb.DuckDBPyConnection, known: Known
) -> None:
    people(company, "today", "from new", "long ago", "at first", "no more", "back")
    row = {"tag": "lifecycle", "value": "at_risk", "previous_value": "active", "valid_to": None}
    first = {"tag": "lifecycle", "valid_from": days_ago(5), "previous_value": None}
    fill(
        company,
        "tags.history",
        [
            first | {"customer_id": "at first", "value": "at_risk", "valid_to": None},
            row | {"customer_id": "today", "valid_from": NOW},
            row | {"customer_id": "from new", "valid_from": days_ago(1), "previous_value": "new"},
            row | {"customer_id": "no more", "valid_from": days_ago(2), "valid_to": days_ago(1)},
            first | {"customer_id": "back", "value": "active", "valid_to": days_ago(4)},
            row | {"customer_id": "back", "value": "at_risk", "valid_from": days_ago(4), "valid_to": days_ago(3)},
            row | {"customer_id": "back", "value": "active", "valid_from": days_ago(3), "previous_value": "at_risk"},
            # Before the window, in another tag's history: it does not move the beginning of this one's.
            row | {"customer_id": "long ago", "tag": "activity", "valid_from": days_ago(400)},
        ],
    )
    assert members(company, known, "tag: {name: lifecycle, became: at_risk, within_days: 7}") == {"today", "from new"}
    assert members(company, known, "tag: {name: lifecycle, became: at_risk, from: active, within_days: 7}") == {"today"}
    assert (
        members(company, known, "tag: {name: lifecycle, became: active, within_days: 3}") == set()
    )  # 3 days ago to the second
    assert members(company, known, "tag: {name: lifecycle, became: active, within_days: 4}") == {"back"}
    assert members(company, known, "tag: {name: lifecycle, was: at_risk, within_days: 4}") == {"no more", "back"}
    assert members(company, known, "tag: {name: lifecycle, was: at_risk, within_days: 2}") == {"no more"}
    assert members(company, known, "tag: {name: lifecycle, was: active, within_days: 30}") == set()  # is so again


def test_events_are_counted_in_their_window_of_customers_alone(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    people(company, "once", "twice", "thrice", "long ago", "test", "never")
    fill(company, "unified.customers", [{"customer_id": "visitor", "is_known": False}])
    event = {"event_name": "searched", "channel": "web"}
    fill(
        company,
        "unified.customer_events",
        [
            *({"customer_id": "once", "occurred_at": days_ago(1)} | event for _ in range(1)),
            *({"customer_id": "twice", "occurred_at": days_ago(n)} | event for n in (1, 2)),
            *({"customer_id": "thrice", "occurred_at": days_ago(n)} | event for n in (1, 2, 29.9)),
            {"customer_id": "long ago", "occurred_at": days_ago(30)} | event,
            {"customer_id": "test", "occurred_at": days_ago(1), "traffic": "test"} | event,
            {"customer_id": "visitor", "occurred_at": days_ago(1)} | event,
            {"customer_id": None, "occurred_at": days_ago(1)} | event,
            {"customer_id": "never", "occurred_at": days_ago(-1)} | event,  # of a clock that is wrong
        ],
    )
    asked = "event: {name: searched, within_days: 30"
    assert members(company, known, asked + "}") == {"once", "twice", "thrice"}
    assert members(company, known, asked + ", at_least: 2}") == {"twice", "thrice"}
    assert members(company, known, asked + ", at_least: 2, at_most: 2}") == {"twice"}
    assert members(company, known, asked + ", at_most: 2}") == {"once", "twice", "long ago", "test", "never"}
    assert members(company, known, asked + ", never: true}") == {"long ago", "test", "never"}
    assert members(company, known, f"not: {{{asked}, never: true}}}}") == {"once", "twice", "thrice"}


def test_events_are_asked_for_columns_products_and_money(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    people(company, "tea", "coffee", "store")
    fill(company, "cleaned.catalog_products", [{"product_id": "t", "category": "tea", "brand": "x"}])
    fill(company, "cleaned.catalog_products", [{"product_id": "c", "category": "coffee", "brand": "x"}])
    order = {"event_name": "order_placed", "channel": "orders", "occurred_at": days_ago(1)}
    fill(
        company,
        "unified.customer_events",
        [
            order | {"customer_id": "tea", "product_id": "t", "amount_base": 60},
            order | {"customer_id": "tea", "product_id": "t", "amount_base": 40},
            order | {"customer_id": "coffee", "product_id": "c", "amount_base": 99},
            order | {"customer_id": "store", "event_name": "store_purchase", "channel": "pos", "amount_base": 500},
        ],
    )
    asked = "event: {name: [order_placed, store_purchase], within_days: 30"
    assert members(company, known, asked + ", where: {category: tea}}") == {"tea"}
    assert members(company, known, asked + ", where: {category: [tea, coffee], brand: x}}") == {"tea", "coffee"}
    assert members(company, known, asked + ", where: {channel: pos}}") == {"store"}
    assert members(company, known, asked + ", amount_at_least: 100}") == {"tea", "store"}
    assert members(company, known, asked + ", where: {category: coffee}, amount_at_least: 99.5}") == set()


def test_what_was_not_followed_counts_since_the_last_time(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    people(company, "left", "bought", "bought before", "same second", "bought tea")
    fill(company, "cleaned.catalog_products", [{"product_id": "t", "category": "tea"}])

    def did(who: str, event: str, days: float, product: str | None = None) -> dict[str, Any]:
        return {"customer_id": who, "event_name": event, "occurred_at": days_ago(days), "product_id": product}

    fill(
        company,
        "unified.customer_events",
        [
            did("left", "searched", 3, "t"),
            did("bought", "searched", 3, "t"),
            did("bought", "order_placed", 2),
            did("bought before", "searched", 3, "t"),
            did("bought before", "order_placed", 2),
            did("bought before", "searched", 1, "t"),
            did("same second", "searched", 1, "t"),
            did("same second", "store_purchase", 1),
            did("bought tea", "searched", 1),
        ],
    )
    asked = "event: {name: searched, within_days: 30, not_followed_by: [order_placed, store_purchase]"
    assert members(company, known, asked + "}") == {"left", "bought before", "bought tea"}
    assert members(company, known, asked + ", where: {category: tea}}") == {"left", "bought before"}
    assert members(company, known, asked + ", where: {category: tea}, at_least: 2}") == {"bought before"}


def test_a_funnel_is_judged_by_its_last_entry(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    people(company, "looked", "cart", "ordered", "ordered, then looked", "long ago")
    entry = {"funnel": "purchase"}
    fill(
        company,
        "analytics.funnel_entries",
        [
            entry | {"entry_id": "1", "customer_id": "looked", "step_1_at": days_ago(1), "furthest_step": 1},
            entry | {"entry_id": "2", "customer_id": "cart", "step_1_at": days_ago(1), "furthest_step": 2},
            entry | {"entry_id": "3", "customer_id": "ordered", "step_1_at": days_ago(1), "furthest_step": 4},
            entry | {"entry_id": "4", "customer_id": "ordered, then looked", "step_1_at": days_ago(2), "furthest_step": 4},
            entry | {"entry_id": "5", "customer_id": "ordered, then looked", "step_1_at": days_ago(1), "furthest_step": 1},
            entry | {"entry_id": "6", "customer_id": "long ago", "step_1_at": days_ago(40), "furthest_step": 2},
        ],
    )
    assert members(company, known, "funnel: {name: purchase, reached: put into the cart, not_reached: ordered}") == {"cart"}
    assert members(company, known, "funnel: {name: purchase, reached: 2}") == {"cart", "ordered"}
    assert members(company, known, "funnel: {name: purchase, not_reached: 2}") == {"looked", "ordered, then looked"}
    assert members(company, known, "funnel: {name: purchase, reached: '2', within_days: 90}") == {"cart", "ordered", "long ago"}


def test_traits_are_compared_by_their_kind(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    fill(
        company,
        "unified.customers",
        [
            {"customer_id": "gold", "loyalty_tier": "gold", "order_count": 5, "last_order_at": days_ago(10), "email": "a@b.cn"},
            {"customer_id": "silver", "loyalty_tier": "silver", "order_count": 2, "last_order_at": days_ago(90)},
            {"customer_id": "18 today", "birth_date": date(2008, 1, 31), "is_over_merge_suspect": True},
            {"customer_id": "18 tomorrow", "birth_date": date(2008, 2, 1), "is_over_merge_suspect": False},
        ],
    )
    assert members(company, known, "trait: {name: loyalty_tier, is: [gold, platinum]}") == {"gold"}
    assert members(company, known, "trait: {name: order_count, at_least: 2, at_most: 4}") == {"silver"}
    assert members(company, known, "trait: {name: order_count, is: [5, 2]}") == {"gold", "silver"}
    assert members(company, known, "trait: {name: last_order_at, within_days: 30}") == {"gold"}
    assert members(company, known, "trait: {name: last_order_at, older_than_days: 90}") == {"silver"}
    assert members(company, known, "trait: {name: email, known: true}") == {"gold"}
    assert members(company, known, "trait: {name: age, at_least: 18}") == {"18 today"}
    assert members(company, known, "trait: {name: age, at_most: 17}") == {"18 tomorrow"}
    assert members(company, known, "trait: {name: is_over_merge_suspect, is: true}") == {"18 today"}
    assert members(company, known, "trait: {name: is_over_merge_suspect, is: false}") == {"18 tomorrow"}
    # What is not known is not so, and not its opposite either; `not` has both.
    assert members(company, known, "not: {trait: {name: age, at_least: 18}}") == {"gold", "silver", "18 tomorrow"}


def test_a_city_is_found_in_either_script_and_however_it_is_spelled(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    fill(
        company,
        "unified.customers",
        [
            {"customer_id": "a", "city": "上海市", "country": "CN"},
            {"customer_id": "b", "city": "SHANGHAI", "country": "CN"},
            {"customer_id": "c", "city": "Xi'an", "country": "CN"},
            {"customer_id": "d", "city": "Springfield City", "country": "US", "region": "Illinois"},
            {"customer_id": "e"},
        ],
    )
    assert members(company, known, "place: {city: 上海}") == {"a", "b"}
    assert members(company, known, {"place": {"city": ["Shanghai", "xian"]}}) == {"a", "b", "c"}
    assert members(company, known, {"place": {"city": "Xi'an"}}) == {"c"}
    assert members(company, known, "place: {city: springfield, region: illinois, country: us}") == {"d"}
    assert members(company, known, "not: {place: {country: CN}}") == {"d", "e"}


def test_consent_is_the_latest_statement_and_a_denial_of_equal_time_wins(
    company: duckdb.DuckDBPyConnection, known: Known
) -> None:
    accounts = (
        "email",
        "any",
        "taken back",
        "given again",
        "tie",
        "own denial",
        "only sms",
        "silent",
        "unsubscribed",
        "two mails",
    )
    people(company, *accounts)
    fill(
        company,
        "unified.customer_identifiers",
        [
            *({"customer_id": who, "identifier_type": "user_id", "identifier_value": who} for who in accounts),
            {"customer_id": "unsubscribed", "identifier_type": "email", "identifier_value": "a@mail.cn"},
            {"customer_id": "two mails", "identifier_type": "email", "identifier_value": "b@mail.cn"},
            {"customer_id": "two mails", "identifier_type": "email", "identifier_value": "c@mail.cn"},
        ],
    )

    def said(who: str, channel: str, status: str, days: float, by: str = "user_id") -> dict[str, Any]:
        row = {"identifier_type": by, "identifier_value": who, "channel": channel, "status": status}
        return row | {"occurred_at": days_ago(days)}

    fill(
        company,
        "unified.consent_statements",
        [
            said("email", "email", "granted", 5),
            said("any", "any", "granted", 5),
            said("taken back", "email", "granted", 5),
            said("taken back", "any", "withdrawn", 4),
            said("given again", "any", "denied", 5),
            said("given again", "email", "granted", 4),
            said("tie", "email", "granted", 5),
            said("tie", "any", "denied", 5),
            said("own denial", "any", "granted", 5),
            said("own denial", "email", "denied", 4),
            said("only sms", "sms", "granted", 5),
            said("silent", "any", "granted", 5) | {"purpose": "analytics"},
            said("unsubscribed", "any", "granted", 4),
            said("a@mail.cn", "email", "withdrawn", 5, by="email"),
            said("two mails", "any", "granted", 4),
            said("b@mail.cn", "any", "denied", 5, by="email"),
        ],
    )
    on_email = {"email", "any", "given again", "two mails"}
    assert members(company, known, "consent: {purpose: marketing, channel: email}") == on_email
    some = {"email", "any", "given again", "own denial", "only sms", "unsubscribed", "two mails"}
    assert members(company, known, "consent: {purpose: marketing}") == some


def test_of_legitimate_interest_is_everybody_who_did_not_object(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    names = ("silent", "objects", "objects to all", "to mail", "mail objects", "one of two mails", "service all the same")
    people(company, *names)
    for who in names:
        fill(
            company,
            "unified.customer_identifiers",
            [{"customer_id": who, "identifier_type": "user_id", "identifier_value": who}],
        )
        if "mail" in who:
            mail = {"customer_id": who, "identifier_type": "email", "identifier_value": f"{who}@mail.cn"}
            fill(company, "unified.customer_identifiers", [mail])
    second = {"customer_id": "one of two mails", "identifier_type": "email", "identifier_value": "second@mail.cn"}
    fill(company, "unified.customer_identifiers", [second])
    denied = {"purpose": "service", "status": "denied", "occurred_at": days_ago(5)}
    fill(
        company,
        "unified.consent_statements",
        [
            denied | {"identifier_type": "user_id", "identifier_value": "objects"},
            denied | {"identifier_type": "user_id", "identifier_value": "objects to all", "purpose": "any"},
            denied | {"identifier_type": "user_id", "identifier_value": "to mail", "channel": "email"},
            denied | {"identifier_type": "email", "identifier_value": "mail objects@mail.cn"},
            denied | {"identifier_type": "email", "identifier_value": "one of two mails@mail.cn"},
            denied | {"identifier_type": "user_id", "identifier_value": "service all the same", "purpose": "any"},
            {
                "identifier_type": "user_id", "identifier_value": "service all the same",
                "purpose": "service", "status": "granted", "occurred_at": days_ago(4),
            },
        ],
    )  # fmt: skip
    variables = VARIABLES | {"legitimate_interest": ["service"]}

    def allowing(**leaf: str) -> set[str]:
        asked = Asker(company, dbt.PROJECT, known, {"a": declared({"consent": leaf})}, variables)
        return {row[0] for row in company.execute(asked.query("a")).fetchall()}

    assert allowing(purpose="service") == set(names) - {"objects", "objects to all"}
    assert allowing(purpose="service", channel="email") == {"silent", "one of two mails", "service all the same"}
    assert allowing(purpose="marketing") == set()


def test_random_rules_select_whom_plain_python_selects(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    """Against an evaluation of the parsed YAML over lists of rows, which shares no line with the compiler."""
    chance = random.Random(6)
    names = [f"c{n}" for n in range(60)]
    events = ["searched", "product_viewed", "order_placed"]
    orders = {name: chance.randrange(5) for name in names}
    tiers = {name: chance.choice(["vip", "low", None]) for name in names}
    acts = [(chance.choice(names), chance.choice(events), chance.randrange(1, 60) + 0.5) for _ in range(150)]
    for name in names:
        fill(company, "unified.customers", [{"customer_id": name, "order_count": orders[name]}])
    fill(company, "tags.customer_tags", [{"customer_id": n, "tag": "value_tier", "value": v} for n, v in tiers.items() if v])
    rows = [{"customer_id": n, "event_name": e, "occurred_at": days_ago(d)} for n, e, d in acts]
    fill(company, "unified.customer_events", rows)

    def leaf() -> dict[str, Any]:
        kind = chance.randrange(4)
        if kind == 0:
            return {"tag": {"name": "value_tier", "is": chance.choice([["vip"], ["vip", "low"]])}}
        if kind == 1:
            return {"trait": {"name": "order_count", "at_least": chance.randrange(5)}}
        event: dict[str, Any] = {"name": chance.choice(events), "within_days": chance.randrange(1, 60)}
        if kind == 2:
            return {"event": event | {"never": True}}
        return {"event": event | {chance.choice(["at_least", "at_most"]): chance.randrange(1, 4)}}

    def rule(depth: int) -> dict[str, Any]:
        key = chance.choice(["all", "any", "not", "leaf"] if depth else ["leaf"])
        if key == "leaf":
            return leaf()
        return {"not": rule(depth - 1)} if key == "not" else {key: [rule(depth - 1) for _ in range(chance.randrange(1, 4))]}

    def holds(given: dict[str, Any], who: str) -> bool:
        ((key, value),) = given.items()
        if key in ("all", "any"):
            return {"all": all, "any": any}[key](holds(part, who) for part in value)
        if key == "not":
            return not holds(value, who)
        if key == "tag":
            return tiers[who] in value["is"]
        if key == "trait":
            return orders[who] >= value["at_least"]
        count = sum(1 for n, e, d in acts if n == who and e == value["name"] and d < value["within_days"])
        if value.get("never"):
            return count == 0
        return count >= value.get("at_least", 0) and count <= value.get("at_most", 1000)

    company.execute("create table chosen as select customer_id from unified.customers where customer_id like '%3'")
    sizes = set()
    for _ in range(60):
        given = rule(3)
        expected = {name for name in names if holds(given, name)}
        assert members(company, known, given) == expected, given
        forms = {"a": declared({"audience": {"in": "b"}}), "b": declared(given)}
        among = Asker(company, dbt.PROJECT, known, forms, VARIABLES, among="chosen").members("a")
        rows = company.execute(f"select customer_id from {among}").fetchall()
        assert {name for (name,) in rows} == {name for name in expected if name.endswith("3")}, given
        sizes.add(len(expected))
    assert len(sizes) > 15  # not all of nobody or everybody


# Between audiences


def test_an_audience_is_in_or_out_of_others_also_of_an_analysts(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    people(company, "a", "b", "c")
    fill(company, "unified.customer_events", [{"customer_id": "a", "event_name": "searched", "occurred_at": days_ago(1)}])
    fill(company, "unified.customers", [{"customer_id": "d", "order_count": 3}])
    forms = {
        "buyers": declared("trait: {name: order_count, at_least: 1}"),
        "neither": declared("all: [{audience: {not_in: buyers}}, {audience: {not_in: searched_not_bought}}]"),
        "both": declared("any: [{audience: {in: buyers}}, {audience: {in: searched_not_bought}}]"),
    }
    asked = asker(company, known, **forms)
    assert company.execute(f"select customer_id from {asked.members('neither')} order by 1").fetchall() == [("b",), ("c",)]
    assert company.execute(f"select customer_id from {asked.members('both')} order by 1").fetchall() == [("a",), ("d",)]


def test_a_customer_is_in_the_audience_of_the_greatest_priority_of_its_group(
    company: duckdb.DuckDBPyConnection, known: Known
) -> None:
    fill(company, "unified.customers", [{"customer_id": f"{n} orders", "order_count": n} for n in range(4)])
    forms = {
        "some": declared("trait: {name: order_count, at_least: 1}", exclusive_group="news", priority=10),
        "many": declared("trait: {name: order_count, at_least: 3}", exclusive_group="news", priority=20),
        "all_of_them": declared("trait: {name: order_count, at_least: 0}", exclusive_group="news", priority=-5),
        "other_group": declared("trait: {name: order_count, at_least: 0}", exclusive_group="offers", priority=0),
    }
    asked = asker(company, known, **forms)
    found = {
        name: {row[0][0] for row in company.execute(f"select customer_id from {asked.members(name)}").fetchall()}
        for name in forms
    }
    assert found == {"many": {"3"}, "some": {"1", "2"}, "all_of_them": {"0"}, "other_group": {"0", "1", "2", "3"}}
    assert asked.judged("some", "3 orders") == (False, {1})  # and not 2: it is in `many`
    assert [c.sentence for c in asked.conditions("some")][1:] == ["not in the audience many"]


def test_the_conditions_that_hold_are_numbered_as_in_the_file(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    fill(company, "unified.customers", [{"customer_id": "a", "order_count": 3}, {"customer_id": "b", "order_count": 1}])
    rule = (
        "any: [{trait: {name: order_count, at_least: 2}}, {not: {place: {country: CN}}}, {trait: {name: order_count, is: 3}}]"
    )
    asked = asker(company, known, a=declared(rule))
    table = asked.members("a")
    # The condition below `not` does not hold, and so it is not listed though the rule asks for that.
    assert company.execute(f"select customer_id, conditions from {table} order by 1").fetchall() == [("a", "1,3"), ("b", "")]
    assert [(c.number, c.path) for c in asked.conditions("a")] == [
        (1, "who.any.1.trait"),
        (2, "who.any.2.not.place"),
        (3, "who.any.3.trait"),
    ]


def test_the_control_group_is_a_share_by_customer_and_the_same_wherever_the_salt_is(
    company: duckdb.DuckDBPyConnection, known: Known
) -> None:
    company.execute("insert into unified.customers (customer_id) select concat('c_', i) from range(20000) as t (i)")
    everybody = "trait: {name: order_count, at_least: 0}"
    forms = {
        "one": declared(everybody, control={"share": 0.1, "salt": "company"}),
        "two": declared(everybody, control={"share": 0.1, "salt": "company"}),
        "more": declared(everybody, control={"share": 0.25, "salt": "company"}),
        "few": declared(everybody, control={"share": 0.01, "salt": "company"}),
        "own": declared(everybody, control={"share": 0.1}),
        "none": declared(everybody),
    }
    asked = asker(company, known, **forms)
    held = {
        name: {row[0] for row in company.execute(f"select customer_id from {asked.members(name)} where is_control").fetchall()}
        for name in forms
    }
    places = {f"c_{n}": int(hashlib.md5(f"c_{n}|company".encode()).hexdigest()[:8], 16) / 2**32 for n in range(20000)}
    assert held["one"] == held["two"] == {name for name, place in places.items() if place < 0.1}
    assert held["few"] == {name for name, place in places.items() if place < 0.01}
    assert held["one"] < held["more"]  # a larger share keeps those that were in
    assert abs(len(held["one"]) / 20000 - 0.1) < 0.01
    assert abs(len(held["own"] & held["one"]) / 20000 - 0.01) < 0.005  # independent of another salt
    assert held["none"] == set()


def documented() -> list[str]:
    """The conditions in the table of docs/audiences.md."""
    text = (dbt.PROJECT.parent / "docs" / "audiences.md").read_text(encoding="utf-8")
    table = text.split("### Conditions")[1].split("###")[0]
    return [
        found.replace("{…,", "{name: searched, within_days: 9,") for found in re.findall(r"^\| `(\w+: [^`]*)`", table, re.M)
    ]


@pytest.mark.parametrize("who", documented())
def test_every_condition_of_the_documentation_is_one(tmp_path: Path, known: Known, who: str) -> None:
    write(tmp_path, "high_value_customers")
    write(tmp_path, "a", who)
    assert "a" in project.load(tmp_path / "dbt", known)


def test_the_documentation_has_every_condition_and_key(tmp_path: Path, known: Known) -> None:
    assert {who.split(":")[0] for who in documented()} == {"tag", "event", "funnel", "trait", "place", "consent", "audience"}
    text = (dbt.PROJECT.parent / "docs" / "audiences.md").read_text(encoding="utf-8")
    for cls in (form.Form, form.Tag, form.Event, form.FunnelStep, form.Trait, form.Place, form.Consent, form.Other, form.Rule):
        for name, field in cls.model_fields.items():
            assert re.search(rf"\b{field.alias or name}\b", text), (cls, name)


# What is refused


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("tags: {name: lifecycle}", "who: unknown key 'tags': did you mean 'tag'?"),
        ("tag: {name: lifecycel, is: new}", "who.tag.name: there is no tag 'lifecycel': did you mean 'lifecycle'?"),
        ("tag: {name: lifecycle, became: new}", "who.tag: became needs within_days"),
        ("tag: {name: lifecycle, is: new, within_days: 7}", "who.tag: within_days goes with was or became"),
        ("tag: {name: lifecycle, is: new, was: active, within_days: 7}", "who.tag: is and was ask for different times"),
        ("event: {name: serached, within_days: 3}", "who.event.name: there is no event 'serached': did you mean 'searched'?"),
        ("event: {name: purchased, never: true, within_days: 3}", "needs a row in dbt/seeds/event_vocabulary.csv"),
        ("event: {name: searched}", "who.event.within_days: Field required"),
        ("event: {name: searched, within_days: 5000}", "who.event.within_days: Input should be less than or equal to 730"),
        ("event: {name: searched, within_days: 3, never: true, at_least: 1}", "who.event: never means not once"),
        ("event: {name: searched, within_days: 3, at_least: 3, at_most: 2}", "cannot both hold"),
        ("event: {name: searched, within_days: 3, where: {url: x}}", "who.event.where: there is no column 'url' to ask"),
        ("event: {name: searched, within_days: 3, not_followed_by: searched}", "would have to come after itself"),
        ("funnel: {name: purchas, reached: 1}", "who.funnel.name: there is no funnel 'purchas': did you mean 'purchase'?"),
        ("funnel: {name: purchase, reached: put in the cart}", "did you mean 'put into the cart'?"),
        ("funnel: {name: purchase, reached: ordered, not_reached: 2}", "does not come after 'ordered'"),
        ("funnel: {name: purchase}", "who.funnel: say which step was reached"),
        (
            "trait: {name: order_cuont, at_least: 1}",
            "who.trait.name: there is no trait 'order_cuont': did you mean 'order_count'?",
        ),
        ("trait: {name: city_tier, is: first}", "it is a tag: write tag: {name: city_tier, …}"),
        ("trait: {name: order_count, within_days: 3}", "within_days: order_count cannot be asked so: it is a number"),
        ("trait: {name: email, is: li@example.com}", "is: email cannot be asked so: it is private"),
        ("trait: {name: order_count, is: many}", "'many' is no number"),
        ("trait: {name: loyalty_tier, is: true}", "is: loyalty_tier is a text"),
        ("trait: {name: age, at_least: 17.5}", "17.5 is no age in whole years"),
        ("trait: {name: order_count}", "who.trait: say what it has to be"),
        ("place: {country: China}", "'China' is no code of two letters"),
        ("place: {}", "who.place: name a country, region or city"),
        ("consent: {purpose: marketing, chanel: email}", "who.consent: unknown key 'chanel': did you mean 'channel'?"),
        (
            "audience: {in: cart_abandoner}",
            "who.audience.in: there is no audience 'cart_abandoner': did you mean 'cart_abandoners'?",
        ),
        ("audience: {in: x, not_in: y}", "who.audience: say in or not_in, and one audience"),
        ("all: []", "who.all: Tuple should have at least 1 item"),
        ("{tag: {name: lifecycle}, place: {country: CN}}", "who: expected one condition, got tag, place"),
        ("all: [{not: {tag: {name: lifecycel}}}]", "who.all.1.not.tag.name: there is no tag"),
        ("[{tag: {name: lifecycle}}]", "who: expected a mapping"),
        ("nobody", "who: expected a mapping"),
        ("event: {name: searched, within_days: true}", "who.event.within_days: Input should be a valid integer"),
        ("trait: {name: order_count, at_least: many}", "who.trait.at_least: Input should be a valid decimal"),
        ("trait: {name: order_count, at_least: .nan}", "who.trait.at_least: Input should be a finite number"),
    ],
)
def test_a_mistake_is_named_with_file_path_and_remedy(tmp_path: Path, known: Known, who: str, said: str) -> None:
    write(tmp_path, "a", who)
    with pytest.raises(OnefoldError) as caught:
        project.load(tmp_path / "dbt", known)
    assert said in str(caught.value)
    assert all(line.startswith("dbt/audiences/a.yaml: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    "value", ["O'Brien", "{{ env_var('HOME') }}", "{% do x %}", "a\nselect 1", "back\\slash", "a\u2028b", "a\n"]
)
def test_a_value_cannot_end_the_text_that_it_is_written_into(known: Known, value: str) -> None:
    for who in (
        {"tag": {"name": "lifecycle", "is": value}},
        {"event": {"name": "searched", "within_days": 3, "where": {"channel": [value]}}},
        {"trait": {"name": "loyalty_tier", "is": value}},
        {"place": {"region": value}},
        {"consent": {"purpose": value}},
    ):
        with pytest.raises(OnefoldError):
            declared(who)
    for key in ("label", "label_zh"):
        with pytest.raises(OnefoldError):
            declared("tag: {name: lifecycle}", **{key: value})
    if "{" in value:
        with pytest.raises(OnefoldError):
            declared("tag: {name: lifecycle}", description=value)


def write(root: Path, name: str, who: str | dict[str, Any] = "tag: {name: lifecycle}", **others: Any) -> Path:
    """A file of a project below `root`."""
    content = {"label": name, "owner": {"name": "us", "email": "us@example.com"}, "purpose": "marketing"}
    content |= {"who": yaml.safe_load(who) if isinstance(who, str) else who, **others}
    file = root / "dbt" / "audiences" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def refusal(root: Path, known: Known) -> str:
    with pytest.raises(OnefoldError) as caught:
        project.load(root / "dbt", known)
    return str(caught.value)


def test_every_mistake_of_every_file_is_told_at_once(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "a", "tag: {name: nothing}", purpose="")
    write(tmp_path, "b", "tags: {}")
    (tmp_path / "dbt/audiences/c.yaml").write_text("label: [")
    (tmp_path / "dbt/audiences/Not A Name.yaml").write_text("")
    told = refusal(tmp_path, known)
    for part in ("a.yaml: purpose: ", "b.yaml: who: unknown key", "c.yaml: not valid YAML", "Not A Name.yaml: name the file"):
        assert part in told


def test_a_condition_that_yaml_would_drop_is_refused(tmp_path: Path, known: Known) -> None:
    file = write(tmp_path, "a", "all: [{tag: {name: lifecycle}}]")
    content = file.read_text()
    file.write_text(content.replace("  - tag:", "  - place: {city: x}\n    place: {city: y}\n  - tag:"))
    assert "not valid YAML: line" in refusal(tmp_path, known) and "'place' stands twice" in refusal(tmp_path, known)


def test_audiences_that_are_made_from_themselves_are_refused(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "a", "audience: {in: b}")
    write(tmp_path, "b", "not: {audience: {not_in: c}}")
    write(tmp_path, "c", "any: [{tag: {name: lifecycle}}, {audience: {in: a}}]")
    write(tmp_path, "on_the_way", "audience: {in: a}")
    told = refusal(tmp_path, known)
    assert "a.yaml: made from itself: a reads b reads c reads a; take a condition out" in told
    assert len(told.splitlines()) == 1


def test_an_audience_cannot_ask_for_one_that_yields_to_it(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "first", "audience: {in: second}", exclusive_group="g", priority=2)
    write(tmp_path, "second", exclusive_group="g", priority=1)
    assert "first.yaml: made from itself: first reads second reads first" in refusal(tmp_path, known)


def test_two_audiences_of_a_group_do_not_have_one_priority(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "a", exclusive_group="g", priority=2)
    write(tmp_path, "b", exclusive_group="g", priority=2)
    assert "a.yaml: priority: b has 2 in the group g, too" in refusal(tmp_path, known)


def test_an_audience_is_a_model_or_a_yaml_and_not_both(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "cart_abandoners")
    assert "cart_abandoners.yaml: there is a model audiences_cart_abandoners.sql" in refusal(tmp_path, known)


def test_restricted_tags_serve_care_and_no_other_purpose_through_whatever_audience(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "mothers", "tag: {name: expectant_mother, is: yes}", purpose="care")
    project.load(tmp_path / "dbt", known)
    write(tmp_path, "others", "audience: {not_in: mothers}", purpose="advertising")
    write(tmp_path, "others_still", "all: [{tag: {name: lifecycle}}, {audience: {in: others}}]", purpose="marketing")
    told = refusal(tmp_path, known)
    assert "others.yaml: purpose: restricted tags are for care and service and never for advertising: expectant_mother" in told
    assert "(through mothers)" in told and "others_still.yaml: purpose" in told
    write(tmp_path, "others", "tag: {name: lifecycle}", purpose="advertising", exclusive_group="g", priority=1)
    write(tmp_path, "mothers", "tag: {name: expectant_mother}", purpose="care", exclusive_group="g", priority=2)
    assert "others.yaml: purpose" in refusal(tmp_path, known)  # who is left out tells of them, too
    write(tmp_path, "mothers", "not: {tag: {name: expectant_mother}}", purpose="advertisement")
    assert "never for advertisement: expectant_mother (its own condition)" in refusal(tmp_path, known)


def test_restricted_tags_are_found_through_an_analysts_model(tmp_path: Path, known: Known) -> None:
    from dataclasses import replace

    text = "select customer_id from {{ ref('tags_customer_tags') }} where tag = 'sensitive_skin'"
    with_model = replace(known, models={**known.models, "skin": text})
    write(tmp_path, "a", "audience: {in: skin}", purpose="advertising")
    assert "sensitive_skin (through skin)" in refusal(tmp_path, with_model)


@pytest.mark.parametrize("raw", ["ref('tags_customer_tags') where tag = 'skin'", "ref('tags_skin')", "ref('audiences_other')"])
def test_an_analysts_audience_with_a_restricted_tag_is_not_exposed_for_advertising(raw: str) -> None:
    def node(layer: str, alias: str, code: str = "", **meta: Any) -> dict[str, Any]:
        return {"schema": layer, "alias": alias, "raw_code": code, "config": {"meta": meta}, "resource_type": "model"}

    def manifest(purpose: str) -> dict[str, Any]:
        model, m = "model.onefold.audiences_ads", "model.onefold."
        reads = [f"{m}{raw.split(chr(39))[1]}"]
        return {
            "nodes": {
                model: node("audiences", "ads", raw),
                f"{m}audiences_other": node("audiences", "other", "ref('tags_skin')"),
                f"{m}tags_customer_tags": node("tags", "customer_tags"),
                f"{m}tags_skin": node("tags", "skin", sensitivity="restricted"),
            },
            "parent_map": {
                model: reads,
                f"{m}audiences_other": [f"{m}tags_skin"],
                f"{m}tags_customer_tags": [f"{m}tags_skin"],
                f"{m}tags_skin": [],
            },
            "exposures": {
                "e": {
                    "name": "ads",
                    "label": "Ads",
                    "description": "",
                    "owner": {"email": "a@b.cn"},
                    "original_file_path": "models/audiences/audiences.yml",
                    "depends_on": {"nodes": [model]},
                    "config": {"meta": {"purpose": purpose}},
                }
            },
        }

    with pytest.raises(
        OnefoldError, match="exposure ads: restricted tags are for care and service and never for advertising: skin"
    ):
        audiences(manifest("advertising"))
    assert [a.name for a in audiences(manifest("service"))] == ["ads"]


# What is written


def test_models_are_written_once_and_go_with_their_file(tmp_path: Path, known: Known) -> None:
    root = tmp_path / "dbt"
    write(tmp_path, "a")
    file = write(tmp_path, "b", "audience: {in: a}", control={"share": 0.1}, label_zh="乙")
    project.write(root, lambda: known)
    made = project.made(root)
    assert {f.name for f in made.iterdir()} == {"audiences_a.sql", "audiences_b.sql", "made.yml"}
    before = {f.name: (f.read_text(), f.stat().st_mtime_ns) for f in made.iterdir()}
    project.write(root, lambda: known)
    assert {f.name: (f.read_text(), f.stat().st_mtime_ns) for f in made.iterdir()} == before
    described = yaml.safe_load((made / "made.yml").read_text(encoding="utf-8"))
    (exposure,) = [e for e in described["exposures"] if e["name"] == "b"]
    assert exposure["depends_on"] == ["ref('audiences_b')"] and exposure["owner"]["email"] == "us@example.com"
    meta = exposure["config"]["meta"]
    assert meta["purpose"] == "marketing" and meta["display_name_zh"] == "乙" and meta["control_share"] == 0.1
    assert meta["conditions"] == [{"number": 1, "path": "who.audience", "en": "in the audience a", "zh": "在人群 a 中"}]
    file.unlink()
    project.write(root, lambda: known)
    assert {f.name for f in made.iterdir()} == {"audiences_a.sql", "made.yml"}
    write(tmp_path, "a", "tag: {name: nothing}")
    with pytest.raises(OnefoldError):
        project.write(root, lambda: known)
    assert {f.name for f in made.iterdir()} == {"audiences_a.sql", "made.yml"}  # nothing is half changed


def test_the_sql_reads_as_an_analyst_would_write_it(known: Known) -> None:
    audience = declared("all: [{tag: {name: value_tier, is: [vip]}}, {trait: {name: order_count, at_least: 2}}]")
    text = sql.model("a", audience, sql.conditions(audience, known))
    assert text == EXPECTED


EXPECTED = """\
-- An audience. Grain: one known customer for whom the conditions hold. Made from
-- dbt/audiences/a.yaml: change it there. `conditions` has the numbers of those that hold.

-- Value tier is vip
with condition_1 as (
    select customer_id
    from {{ ref('tags_customer_tags') }}
    where tag = 'value_tier' and value in ('vip')
),

judged as (
    select
        customers.customer_id,
        condition_1.customer_id is not null as condition_1,
        coalesce(customers.order_count >= 2, false) as condition_2  -- order_count is at least 2
    from {{ ref('unified_customers') }} as customers
    left join condition_1 on condition_1.customer_id = customers.customer_id
    where customers.is_known
)

select
    customer_id,
    concat_ws(',',
        case when condition_1 then '1' end,
        case when condition_2 then '2' end) as conditions,
    false as is_control
from judged
where condition_1 and condition_2
"""


@pytest.mark.parametrize(
    ("who", "english", "chinese"),
    [
        (
            "tag: {name: lifecycle, became: at_risk, from: active, within_days: 7}",
            "Lifecycle stage became at_risk from active in the last 7 days",
            "标签“生命周期阶段”在最近 7 天内由 active 变为 at_risk",
        ),
        (
            "event: {name: searched, at_least: 2, within_days: 30, where: {channel: [web, app]}}",
            "searched (channel web or app) at least 2 times in the last 30 days",
            "最近 30 天内 searched（channel 为 web或app） 至少 2 次",
        ),
        (
            "event: {name: order_placed, never: true, within_days: 9}",
            "no order_placed in the last 9 days",
            "最近 9 天内没有 order_placed",
        ),
        (
            "funnel: {name: purchase, reached: 2, not_reached: ordered}",
            'funnel purchase, last entered within 30 days, reached "put into the cart" but not "ordered"',
            "最近 30 天内最近一次进入漏斗“purchase”时到达“put into the cart”但未到达“ordered”",
        ),
        (
            "trait: {name: order_count, at_least: 1000, at_most: 2000.50}",
            "order_count is 1000 to 2000.5",
            "order_count 1000 至 2000.5",
        ),
        ("place: {city: 上海, country: CN}", "lives in city 上海, country CN", "居住地城市为 上海，国家为 CN"),
        ("consent: {purpose: marketing, channel: sms}", "allows marketing on sms", "同意通过 sms 用于 marketing"),
        ("audience: {not_in: x}", "not in the audience x", "不在人群 x 中"),
    ],
)
def test_each_condition_is_said_in_english_and_chinese(known: Known, who: str, english: str, chinese: str) -> None:
    leaf = declared(who).who.leaf
    assert sentence(leaf, known) == english
    assert sentence(leaf, known, CHINESE) == chinese


def test_a_whole_rule_is_said_with_its_nesting(known: Known) -> None:
    rule = declared(
        "all: [{place: {country: CN}}, {any: [{audience: {in: a}}, {audience: {in: b}}]}, {not: {audience: {in: c}}}]"
    ).who
    assert whole(rule, known) == (
        "lives in country CN and (in the audience a or in the audience b) and not (in the audience c)"
    )
    assert whole(rule, known, CHINESE) == "居住地国家为 CN，且（在人群 a 中，或在人群 b 中），且并非（在人群 c 中）"


# The preview


def test_a_preview_counts_reaches_and_compares(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    fill(company, "unified.customers", [{"customer_id": f"{n}", "order_count": n} for n in range(5)])
    fill(company, "unified.customers", [{"customer_id": "visitor", "is_known": False, "order_count": 9}])
    fill(company, "audiences.memberships", [{"audience": "other", "customer_id": n} for n in ("0", "2", "3")])
    fill(company, "audiences.memberships", [{"audience": "other", "customer_id": "4", "left_at": NOW}])
    fill(company, "audiences.memberships", [{"audience": "a", "customer_id": "4"}])
    for n in ("0", "2", "3", "4"):
        account = {"customer_id": n, "identifier_type": "user_id", "identifier_value": n}
        mail = {"customer_id": n, "identifier_type": "email", "identifier_value": f"{n}@mail.cn"}
        sold = {"valid_to": NOW} if n == "4" else {}  # somebody else's now
        fill(company, "unified.customer_identifiers", [account, mail | sold])
        granted = {"identifier_type": "user_id", "identifier_value": n, "status": "granted", "occurred_at": NOW}
        fill(company, "unified.consent_statements", [granted | {"channel": "email"}])
    denied = {"identifier_type": "email", "identifier_value": "3@mail.cn", "status": "denied", "occurred_at": days_ago(9)}
    fill(company, "unified.consent_statements", [denied])
    tag = {"tag": "lifecycle", "value": "new"}
    fill(company, "tags.customer_tags", [tag | {"customer_id": n} for n in ("0", "2", "3", "visitor")])
    forms = {"a": declared("all: [{trait: {name: order_count, at_least: 2}}, {trait: {name: order_count, at_most: 7}}]")}
    found = preview(company, asker(company, known, **forms), "a", known, forms, "marketing", examples=2)
    assert found.summary == {"members": 3, "control_group": 0, "known_customers": 5, "share": 0.6}
    assert [row["customers"] for row in found.conditions] == [3, 5]
    reach = {row.pop("channel"): row for row in found.reach}
    assert reach["email"] == {"with_identifier": 2, "allowing": 2, "reachable": 1}
    assert reach["sms"] == {"with_identifier": 0, "allowing": 0, "reachable": 0}
    assert list(reach) == ["email", "mini_program", "push", "sms", "wecom", "ads", "call"]
    assert found.overlap == [{"audience": "other", "its_members": 3, "in_both": 2, "share_of_this": 0.6667}]
    assert found.values == [{"tag": "lifecycle", "value": "new", "members": 2, "share": 0.6667, "share_of_all": 0.6}]
    assert len(found.examples) == 2 and {row["customer_id"] for row in found.examples} < {"2", "3", "4"}
    with pytest.raises(OnefoldError, match="restricted tags are for care and service, this audience is for marketing"):
        preview(company, asker(company, known, **forms), "a", known, forms, "marketing", ("health_concern",))


def test_a_draft_is_previewed_from_anywhere_and_stands_for_the_projects_own(tmp_path: Path, known: Known) -> None:
    write(tmp_path, "a", "tag: {name: lifecycle, is: new}")
    write(tmp_path, "b", "audience: {in: a}")
    draft = write(tmp_path / "elsewhere", "a", "tag: {name: lifecycle, is: lapsed}")
    assert named("a", tmp_path / "dbt", known)[1]["a"].who.tag.is_ == ("new",)
    name, forms = named(str(draft), tmp_path / "dbt", known)
    assert name == "a" and forms["a"].who.tag.is_ == ("lapsed",) and "b" in forms
    assert named("audiences_cart_abandoners", tmp_path / "dbt", known)[0] == "cart_abandoners"
    with pytest.raises(OnefoldError, match="there is no audience 'cart_abandoner': did you mean 'cart_abandoners'"):
        named("cart_abandoner", tmp_path / "dbt", known)
    write(tmp_path / "elsewhere", "a", "audience: {in: b}")
    with pytest.raises(OnefoldError, match=f"^{draft}: made from itself: a reads b reads a"):
        named(str(draft), tmp_path / "dbt", known)
    with pytest.raises(OnefoldError, match="name the file as the audience"):
        named(str(tmp_path / "A; drop.yaml"), tmp_path / "dbt", known)
    with pytest.raises(OnefoldError, match="there is no such file"):
        named(str(tmp_path / "none.yaml"), tmp_path / "dbt", known)


def test_a_preview_says_what_is_missing_in_served_tables(company: duckdb.DuckDBPyConnection, known: Known) -> None:
    company.execute("drop table tags.history")
    forms = {"a": declared("tag: {name: lifecycle, became: new, within_days: 3}")}
    with pytest.raises(OnefoldError, match=r"a: .*history.*served after the next `onefold refresh`"):
        preview(company, asker(company, known, **forms), "a", known, forms, "marketing")


def test_a_preview_asks_what_dbt_builds(tmp_path: Path, known: Known) -> None:
    home = Home(tmp_path).prepare()
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    done = dbt.run(home, ["compile", "--select", "path:models/audiences"], as_of=moment)
    assert done.success, dbt.failures(done)
    compiled = {r.node.alias: r.node.compiled_code for r in done.result if r.node.resource_type == "model"}
    forms = project.load(dbt.PROJECT, known)
    assert set(forms) < set(compiled)
    variables = {**dbt.project_variables(home), "as_of": "2026-01-31 12:00:00.000000"}

    def words(text: str) -> str:
        return " ".join(re.sub(r"--.*", "", text.replace('"onefold".', "").replace('"', "")).split())

    for name, text in compiled.items():
        written = known.models.get(name) or sql.model(name, forms[name], sql.conditions(forms[name], known))
        own = rendered(dbt.PROJECT, written, variables, lambda model: model.replace("_", ".", 1))
        assert words(own) == words(text), name
