"""Why customers enter and leave audiences and who is left out, through the real publication on hand-made tables."""

import csv
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dagster_project.lib import dbt, publish
from dagster_project.lib.audiences import definitions, form, project, sql, tables, uplift
from dagster_project.lib.audiences.exclusions import forget_exclusions, write_exclusions
from dagster_project.lib.audiences.preview import Asker
from dagster_project.lib.audiences.reasons import Explainer
from dagster_project.lib.audiences.sql import Condition
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import next_sequence, prepare_warehouse
from dagster_project.lib.publish import Audience, Publication
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refresh, State

NOW = datetime(2026, 1, 31)
OWNER = {"name": "marketing", "email": "marketing@example.com"}
TABLES = """
create schema unified; create schema tags; create schema analytics; create schema cleaned; create schema audiences;
create schema identity; create schema if not exists quality;
create table quality.metrics (metric varchar, channel varchar, identifier_type varchar, value double, numerator double,
    denominator double, refresh bigint, usual double, lower double, upper double, deviation double, is_anomaly boolean,
    anomalous_since timestamp);
create table unified.customers (customer_id varchar, is_known boolean default true, city varchar, region varchar,
    country varchar, birth_date date, order_count bigint default 0);
create table unified.customer_events (customer_id varchar, event_name varchar, occurred_at timestamp, channel varchar,
    product_id varchar, amount_base decimal(18, 4), traffic varchar, _seq bigint);
create table unified.contact_permissions (customer_id varchar, identifier_type varchar, purpose varchar,
    channel varchar default 'any', is_allowed boolean default true, reason varchar default 'granted', as_of timestamp,
    _seq bigint);
create table tags.customer_tags (customer_id varchar, tag varchar, value varchar, number_value double, confidence double);
create table tags.history (customer_id varchar, tag varchar, value varchar, previous_value varchar, valid_from timestamp,
    valid_to timestamp);
create table identity.changes (kind varchar, from_customer_id varchar, to_customer_id varchar, _seq bigint);
create table identity.redirects (from_customer_id varchar, to_customer_id varchar, _seq bigint);
create table analytics.conversions (conversion_id varchar, customer_id varchar, converted_at timestamp,
    revenue_base decimal(18, 4));
create table staging._built (refresh bigint, settings varchar);
insert into staging._built values (0, '');
"""


class Company:
    """A warehouse with the tables that audiences read, whose audiences are rebuilt and published at will."""

    def __init__(self, home: Home, dbt_project: Path) -> None:
        self.home, self.project = home, dbt_project
        self.now, self.refreshed = NOW, Refresh(0, NOW.replace(tzinfo=UTC), 0)
        with home.connect("test") as connection:
            prepare_warehouse(connection, {})
            connection.execute(TABLES)

    def run(self, statement: str, *values: Any) -> list[tuple]:
        with self.home.connect("test") as connection:
            return connection.execute(statement, list(values)).fetchall()

    def people(self, *names: str, consent: str | None = "granted", **traits: Any) -> None:
        for name in names:
            self.fill("unified.customers", customer_id=name, **traits)
            if consent:
                self.state(name, consent)

    def state(self, name: str, status: str) -> None:
        self.run("delete from unified.contact_permissions where customer_id = ?", name)
        self.permit(name, "marketing", is_allowed=status == "granted", reason=status)

    def permit(self, name: str, purpose: str, **verdict: Any) -> None:
        """A verdict on the person as such."""
        with self.home.connect("test") as connection:
            seq = next_sequence(connection)
        self.fill("unified.contact_permissions", customer_id=name, purpose=purpose, as_of=self.now, _seq=seq, **verdict)

    def fill(self, table: str, **row: Any) -> None:
        self.run(f"insert into {table} ({', '.join(row)}) values ({', '.join('?' for _ in row)})", *row.values())

    def event(self, name: str, event_name: str, days: float = 1, **others: Any) -> None:
        """Something that comes with the next refresh."""
        with self.home.connect("test") as connection:
            seq = next_sequence(connection)
        at = self.now - timedelta(days=days)
        self.fill("unified.customer_events", customer_id=name, event_name=event_name, occurred_at=at, _seq=seq, **others)

    def tag(self, name: str, tag: str, value: str) -> None:
        """What a tag is from now on."""
        self.run("delete from tags.customer_tags where customer_id = ? and tag = ?", name, tag)
        self.run(
            "update tags.history set valid_to = ? where customer_id = ? and tag = ? and valid_to is null", self.now, name, tag
        )
        self.fill("tags.customer_tags", customer_id=name, tag=tag, value=value)
        self.fill("tags.history", customer_id=name, tag=tag, value=value, valid_from=self.now)

    def declare(self, name: str, who: str, **others: Any) -> None:
        content = {"label": name, "owner": OWNER, "purpose": "marketing", "who": yaml.safe_load(who), **others}
        (self.project / "audiences" / f"{name}.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))

    def later(self, days: float = 1) -> None:
        self.now += timedelta(days=days)

    def refresh(self) -> dict[str, Audience]:
        """Build all declared audiences, as dbt does, and say what they are."""
        known = dbt.names_for_audiences(self.home)
        forms = project.load(dbt.PROJECT, known)
        self.refreshed = State(self.home).refresh(str(self.now), self.now.replace(tzinfo=UTC))
        texts = {name: self._text(name, forms, known) for name in forms}
        with self.home.connect("test") as connection:
            variables = {**dbt.project_variables(self.home), "as_of": str(self.now)}
            for name in sorted(forms, key=lambda n: (bool(project.reads(n, forms)), n)):
                asker = Asker(connection, dbt.PROJECT, known, forms, variables, is_built=True)
                connection.execute(f"create or replace table audiences.{name} as {asker.query(name)}")
            nodes = [SimpleNamespace(alias=n, raw_code=t, resource_type="model", schema="audiences") for n, t in texts.items()]
            definitions.note(connection, nodes)
            connection.execute("update staging._built set refresh = ?", [self.refreshed.number])
        return self.audiences()

    def audiences(self) -> dict[str, Audience]:
        """What the files say now."""
        known = dbt.names_for_audiences(self.home)
        forms = project.load(dbt.PROJECT, known)
        return {
            name: Audience(
                name,
                name,
                "",
                OWNER["email"],
                forms[name].purpose,
                frozenset(),
                ignores_cap=forms[name].ignores_cap,
                is_declared=True,
                definitions=tuple(
                    (n, definitions.fingerprint(self._text(n, forms, known))) for n in (name, *project.reads(name, forms))
                ),
            )
            for name in forms
        }

    def _text(self, name: str, forms: dict[str, form.Form], known: Any) -> str:
        return sql.model(name, forms[name], sql.conditions(forms[name], known, project.above(name, forms)))

    def publish(self, name: str = "a", audience: Audience | None = None) -> Publication:
        """Refresh, and publish all; gives what was done with one."""
        found = self.refresh() if audience is None else {name: audience}
        return {n: publish.publish(self.home, a, self.refreshed) for n, a in found.items()}[name]

    def changes(self, name: str = "a") -> list[tuple]:
        """What the last version did, and why."""
        return self.run(
            "select operation, customer_id, kind, reason from audiences.changes where audience = ? and version = "
            "(select max(version) from audiences.publications where audience = ?) order by all",
            name,
            name,
        )

    def exclusions(self, name: str = "a") -> list[tuple]:
        return self.run(
            "select customer_id, reason, destination, since from audiences.exclusions where audience = ? order by all", name
        )

    def model(self, *customers: str) -> Audience:
        """Build the audience `b` as an analyst's model that selects these."""
        self.refreshed = State(self.home).refresh(str(self.now), self.now.replace(tzinfo=UTC))
        self.run("create or replace table audiences.b as select unnest(?::varchar[]) as customer_id", list(customers))
        self.run("update staging._built set refresh = ?", self.refreshed.number)
        return Audience("b", "B", "", OWNER["email"], "marketing", frozenset())


@pytest.fixture
def company(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Company]:
    folder = tmp_path / "project" / "dbt"
    (folder / "audiences").mkdir(parents=True)
    for path in dbt.PROJECT.iterdir():
        if path.name != "audiences":
            (folder / path.name).symlink_to(path)
    monkeypatch.setattr(dbt, "PROJECT", folder)
    with home.keep_open("test"):
        yield Company(home, folder)


WHO = """
all:
  - any:
      - tag: {name: lifecycle, is: at_risk}
      - event: {name: searched, at_least: 2, within_days: 30}
  - event: {name: order_placed, never: true, within_days: 60}
  - not: {place: {city: 深圳}}
"""


# Conditions


def test_the_first_version_says_which_conditions_hold(company: Company) -> None:
    company.people("risky", "seeker", "buyer")
    company.tag("risky", "lifecycle", "at_risk")
    for name in ("seeker", "seeker", "buyer", "buyer"):
        company.event(name, "searched")
    company.event("buyer", "order_placed")
    company.declare("a", WHO)
    assert company.publish().members == 2
    never = "no order_placed in the last 60 days; not (lives in city 深圳)"
    assert company.changes() == [
        ("add", "risky", "first", f"first version: Lifecycle stage is at_risk; {never}"),
        ("add", "seeker", "first", f"first version: searched at least 2 times in the last 30 days; {never}"),
    ]
    rows = company.run(
        "select customer_id, conditions, entered_kind, entered_reason, left_kind, left_reason, left_reason_zh "
        "from audiences.memberships order by 1"
    )
    assert [row[:3] for row in rows] == [("risky", "1,3", "first"), ("seeker", "2,3", "first")]
    assert [row[3] for row in rows] == [row[3] for row in company.changes()]
    assert {row[4:] for row in rows} == {(None, None, None)}


def test_who_leaves_is_told_which_condition_holds_no_longer_in_both_languages(company: Company) -> None:
    company.people("seeker", "buyer", "mover", "stays")
    for name in ("seeker", "buyer", "mover"):
        company.event(name, "searched", days=25)
        company.event(name, "searched", days=2)
    company.tag("stays", "lifecycle", "at_risk")
    company.declare("a", WHO)
    company.publish()
    company.later(10)  # one search is 35 days ago by now
    company.run("update unified.customers set city = '深圳市' where customer_id = 'mover'")
    for name in ("buyer", "mover"):
        company.event(name, "searched")
    company.event("buyer", "order_placed")
    assert company.publish().removed == 3
    assert company.changes() == [
        ("remove", "buyer", "conditions", "no longer: no order_placed in the last 60 days"),
        ("remove", "mover", "conditions", "now: lives in city 深圳"),
        ("remove", "seeker", "conditions", "no longer: searched at least 2 times in the last 30 days"),
    ]
    left = dict(company.run("select customer_id, left_reason_zh from audiences.memberships where left_at is not null"))
    assert left["mover"] == "现在：居住地城市为 深圳"
    assert left["seeker"].startswith("不再满足：") and "30 天" in left["seeker"]
    assert company.run("select left_kind, left_reason, left_at from audiences.memberships where customer_id = 'seeker'") == [
        ("conditions", "no longer: searched at least 2 times in the last 30 days", company.now)
    ]


def test_what_held_is_kept_up_to_date_so_that_only_what_changed_last_is_named(company: Company) -> None:
    company.people("b", "other")
    company.tag("b", "lifecycle", "at_risk")
    company.tag("other", "lifecycle", "at_risk")
    company.declare("a", WHO)
    company.publish()
    company.later()
    company.event("b", "searched")
    company.event("b", "searched")
    company.tag("b", "lifecycle", "active")  # the other half of `any` holds in its place
    assert company.publish().version == 1
    assert company.run("select conditions from audiences.memberships where customer_id = 'b'") == [("2,3",)]
    company.later(31)
    company.publish()
    assert company.changes() == [
        ("remove", "b", "conditions", "no longer: searched at least 2 times in the last 30 days")  # and nothing of lifecycle
    ]


def test_who_enters_later_is_told_what_is_new(company: Company) -> None:
    company.people("first", "seeker", "risky", "unasked", "moved", city="北京")
    company.people("late", consent=None)
    company.tag("first", "lifecycle", "at_risk")
    for name in ("seeker", "risky", "unasked", "moved"):
        company.tag(name, "lifecycle", "active")
    company.tag("moved", "lifecycle", "at_risk")
    company.run("update unified.customers set city = '深圳' where customer_id = 'moved'")
    company.event("seeker", "searched", days=3)
    company.event("unasked", "order_placed", days=59.5)
    company.event("unasked", "searched")
    company.event("unasked", "searched")
    company.declare("a", WHO)
    assert company.publish().members == 1
    company.later()
    company.event("seeker", "searched")
    company.tag("risky", "lifecycle", "at_risk")
    company.run("update unified.customers set city = '上海' where customer_id = 'moved'")
    assert company.publish().added == 4
    assert company.changes() == [
        # Of where somebody lived before nothing is known: all that holds is named.
        (
            "add",
            "moved",
            "conditions",
            "now: Lifecycle stage is at_risk; no order_placed in the last 60 days; not (lives in city 深圳)",
        ),
        ("add", "risky", "conditions", "now: Lifecycle stage is at_risk"),
        ("add", "seeker", "conditions", "now: searched at least 2 times in the last 30 days"),
        ("add", "unasked", "conditions", "now: no order_placed in the last 60 days"),
    ]


def test_a_higher_audience_of_the_group_takes_and_gives_back(company: Company) -> None:
    company.people("x", "y", "z")
    company.event("x", "searched")
    company.event("y", "searched")
    company.event("z", "order_placed")
    company.declare("a", "event: {name: searched, within_days: 365}", exclusive_group="news", priority=1)
    company.declare("top", "event: {name: order_placed, within_days: 10}", exclusive_group="news", priority=2)
    company.publish()
    first = "first version: searched in the last 365 days; not in the audience top"
    assert company.changes() == [("add", "x", "first", first), ("add", "y", "first", first)]
    company.later()
    company.event("x", "order_placed")
    company.publish()
    assert company.changes() == [("remove", "x", "higher_audience", "now in the audience top, which comes first in the group")]
    company.later(15)
    company.event("z", "order_placed")
    company.publish()
    assert company.changes() == [("add", "x", "higher_audience", "now: not in the audience top")]


def test_a_changed_definition_is_named_and_asks_for_a_refresh(company: Company) -> None:
    company.people("x", "y")
    company.event("x", "searched")
    company.event("y", "order_placed")
    company.declare("a", "event: {name: searched, within_days: 30}")
    company.publish()
    company.declare("a", "event: {name: order_placed, within_days: 30}")
    stop = publish.publish(company.home, company.audiences()["a"], company.refreshed).stop
    assert stop.findings[0].sentence.startswith(
        "the definition of a changed since refresh 1 built the table; run `onefold refresh`"
    )
    company.later()
    company.publish()
    assert company.changes() == [
        ("add", "y", "definition", "by the new definition: order_placed in the last 30 days"),
        ("remove", "x", "definition", "does not meet the new definition: order_placed in the last 30 days"),
    ]
    company.later()
    company.event("x", "order_placed", days=0.5)
    company.publish()
    assert company.changes() == [("add", "x", "conditions", "now: order_placed in the last 30 days")]


def test_a_table_that_was_built_with_a_restricted_tag_is_not_published_for_advertising_by_a_new_file(company: Company) -> None:
    company.people("x")
    company.tag("x", "sensitive_skin", "yes")
    company.permit("x", "care")
    company.declare("a", "tag: {name: sensitive_skin, is: yes}", purpose="care")
    company.declare("reader", "audience: {in: a}", purpose="care")
    company.publish()
    company.declare("a", "trait: {name: order_count, at_least: 0}", purpose="marketing")
    company.declare("reader", "audience: {in: a}")
    for name in ("a", "reader"):
        stop = publish.publish(company.home, company.audiences()[name], company.refreshed).stop
        assert stop.findings[0].sentence.startswith("the definition of a changed since refresh 1")
    assert company.run("select max(version) from audiences.publications") == [(1,)]


def test_another_label_or_owner_is_no_other_definition(company: Company) -> None:
    company.people("x", "y")
    company.event("x", "searched")
    company.declare("a", "event: {name: searched, within_days: 30}", label_zh="搜索")
    company.publish()
    company.declare("a", "event: {name: searched, within_days: 30}", label_zh="搜索过", control={"share": 1e-9})
    publish.publish(company.home, company.audiences()["a"], company.refreshed)  # not refused
    company.event("y", "searched")
    company.later()
    company.publish()
    assert [change[:3] for change in company.changes()] == [("add", "y", "conditions")]


@pytest.mark.parametrize("seed", range(200))
def test_the_conditions_that_are_named_suffice(seed: int) -> None:
    """Whatever the others may be, a rule is what it is by those conditions alone."""
    chance = random.Random(seed)
    count = 0

    def rule(depth: int) -> dict[str, Any]:
        nonlocal count
        kind = chance.choice(["leaf", "leaf", "all", "any", "not"] if depth else ["all", "any", "not"])
        if kind == "leaf" or depth > 3 or count > 5:
            count += 1
            return {"trait": {"name": "order_count", "at_least": count}}
        if kind == "not":
            return {"not": rule(depth + 1)}
        return {kind: [rule(depth + 1) for _ in range(chance.randint(1, 3))]}

    content = rule(0)

    def holds(given: dict[str, Any], held: set[int]) -> bool:
        [(key, inner)] = given.items()
        if key == "trait":
            return inner["at_least"] in held
        if key == "not":
            return not holds(inner, held)
        return (all if key == "all" else any)(holds(one, held) for one in inner)

    who = form.parse({"label": "A", "owner": OWNER, "purpose": "marketing", "who": content}, "a").who
    names = [f"condition {n}" for n in range(1, count + 1)]
    asked = [Condition(n, "who", name, name, expression="true") for n, name in enumerate(names, 1)]
    explainer = Explainer(who, asked)
    for held in (set(h) for size in range(count + 1) for h in itertools.combinations(range(1, count + 1), size)):
        found = explainer.entered(held) if holds(content, held) else explainer.left(held)
        assert found is not None
        named = {n for n, name in enumerate(names, 1) if name in re.findall(r"condition \d+", found.sentence)}
        others = sorted(set(range(1, count + 1)) - named)
        assert named
        for _ in range(8):
            flipped = (held & named) | {n for n in others if chance.random() < 0.5}
            assert holds(content, flipped) == holds(content, held), found.sentence


# An analyst's model


def test_of_an_analysts_model_it_is_said_that_it_selects(company: Company) -> None:
    company.people("x", "y", "z")
    company.publish("b", company.model("x", "y"))
    assert {row[2:] for row in company.changes("b")} == {("first", "first version: selected by the model")}
    company.later()
    company.publish("b", company.model("x", "z"))
    assert company.changes("b") == [
        ("add", "z", "model", "selected by the model"),
        ("remove", "y", "model", "no longer selected by the model"),
    ]


# Consent, suppression, control group, cap


def test_consent_that_comes_and_goes_is_the_reason(company: Company) -> None:
    company.people("x", "w")
    company.people("y", consent=None)
    company.people("z", consent="denied")
    company.publish("b", company.model("w", "x", "y", "z"))
    first = company.now
    assert company.exclusions("b") == [
        ("y", "no consent", None, first),
        ("z", "consent denied or withdrawn", None, first),
    ]
    company.later()
    company.state("x", "withdrawn")
    company.state("y", "granted")
    company.publish("b", company.model("w", "x", "y", "z"))
    assert company.changes("b") == [
        ("add", "y", "consent", "consent was given"),
        ("remove", "x", "consent", "consent denied or withdrawn"),
    ]
    assert company.exclusions("b") == [
        ("x", "consent denied or withdrawn", None, company.now),
        ("z", "consent denied or withdrawn", None, first),  # since then, whatever was published in between
    ]


def test_the_control_group_is_kept_apart_with_its_times_and_is_no_member(company: Company) -> None:
    names = [f"c{n}" for n in range(60)]
    company.people(*names)
    company.people("unasked", consent=None)
    for name in (*names, "unasked"):
        company.event(name, "searched")
    who = "event: {name: searched, within_days: 30}"
    company.declare("a", who, control={"share": 0.2})
    company.publish()
    start = company.now
    held = {name for (name,) in company.run("select customer_id from audiences.a where is_control")} - {"unasked"}
    assert 3 < len(held) < 30

    def controls(condition: str = "left_at is null") -> set[str]:
        return {n for (n,) in company.run(f"select customer_id from audiences.control_memberships where {condition}")}

    members = {n for (n,) in company.run("select customer_id from audiences.memberships")}
    assert controls() == held and members == set(names) - held
    assert {r for c, r, *_ in company.exclusions() if c in held} == {"control group"}

    company.later()
    one = min(held)
    company.state(one, "withdrawn")  # who may not be sent to is no comparison
    company.declare("a", who, control={"share": 0.5})
    company.publish()
    moved = {
        c
        for operation, c, kind, reason in company.changes()
        if (operation, kind, reason) == ("remove", "control", "control group")
    }
    assert moved and moved == controls() - held
    assert controls("left_at is not null") == {one}
    assert controls(f"entered_at = timestamp '{start}'") == held

    company.later()
    company.declare("a", who, control={"share": 0.2})
    company.publish()
    back = {c for operation, c, kind, _ in company.changes() if (operation, kind) == ("add", "control")}
    assert back == moved and controls() == held - {one}
    assert company.run("select distinct reason from audiences.changes where version = 3") == [
        ("no longer in the control group",)
    ]


def stays(company: Company, table: str, names: Iterable[str], entered_at: datetime) -> None:
    with company.home.connect("test") as connection:
        tables.prepare_audiences(connection)
        connection.execute(
            f"insert into audiences.{table} (audience, customer_id, entered_at, version) "
            "select 'b', unnest(?::varchar[]), ?, 1",
            [list(names), entered_at],
        )


def measured(company: Company) -> dict[str, Any]:
    with company.home.connect("test") as connection:
        assert uplift.is_due(connection, "b", company.now)
        uplift.measure(connection, "b", company.now)
        assert not uplift.is_due(connection, "b", company.now + timedelta(hours=23))
        assert uplift.is_due(connection, "b", company.now + timedelta(days=1))
        cursor = connection.execute("from audiences.uplift")
        [row] = cursor.fetchall()
        return dict(zip([column[0] for column in cursor.description], row, strict=True))


def test_uplift_has_the_published_interval_of_newcombe(company: Company) -> None:
    """56 of 70 against 48 of 80, example (a) of Newcombe 1998: 0.2 (0.0524, 0.3339)."""
    start = NOW - timedelta(days=40)
    stays(company, "memberships", (f"m{n}" for n in range(70)), start)
    stays(company, "control_memberships", (f"c{n}" for n in range(80)), start)
    for name in (*(f"m{n}" for n in range(56)), *(f"c{n}" for n in range(48))):
        company.fill(
            "analytics.conversions",
            conversion_id=name,
            customer_id=name,
            converted_at=NOW - timedelta(days=20),
            revenue_base=10,
        )
    found = measured(company)
    assert (found["member_count"], found["control_count"]) == (70, 80)
    assert (found["converted_count"], found["control_converted_count"]) == (56, 48)
    assert found["uplift"] == pytest.approx(0.2)
    assert (round(found["uplift_lower"], 4), round(found["uplift_upper"], 4)) == (0.0524, 0.3339)
    assert found["is_significant"] and found["incremental_conversions"] == pytest.approx(14)
    assert (found["revenue_per_customer"], found["control_revenue_per_customer"]) == (8, 6)
    assert found["incremental_revenue_base"] == 140


def test_uplift_counts_whose_days_are_over_and_who_was_on_one_side(company: Company) -> None:
    start = NOW - timedelta(days=40)
    stays(company, "memberships", ["buyer", "before", "too late", "twice", "both"], start)
    stays(company, "memberships", ["twice"], NOW - timedelta(days=1))
    stays(company, "memberships", ["young"], NOW - timedelta(days=29))
    stays(company, "control_memberships", ["held", "held too"], start)
    stays(company, "control_memberships", ["both"], NOW - timedelta(days=35))
    for name, days in (
        ("buyer", 30),
        ("before", -0.1),
        ("too late", 30.1),
        ("both", 39),
        ("young", 39),
        ("held", 10),
        ("held", 35),
    ):
        at = start + timedelta(days=days)
        company.fill("analytics.conversions", conversion_id=name, customer_id=name, converted_at=at, revenue_base=7)
    found = measured(company)
    assert (found["member_count"], found["control_count"]) == (4, 2)
    assert (found["converted_count"], found["control_converted_count"]) == (1, 1)
    assert (found["revenue_per_customer"], found["control_revenue_per_customer"]) == (1.75, 3.5)


def test_a_control_group_that_came_later_is_compared_with_who_came_in_after_it(company: Company) -> None:
    stays(company, "memberships", ["old"], NOW - timedelta(days=90))
    stays(company, "control_memberships", ["stock"], NOW - timedelta(days=60))
    stays(company, "memberships", ["new", "newer"], NOW - timedelta(days=50))
    stays(company, "control_memberships", ["held"], NOW - timedelta(days=50))
    found = measured(company)
    assert (found["member_count"], found["control_count"]) == (2, 1)


def test_a_cap_leaves_out_who_got_so_many_messages_until_the_count_falls(company: Company) -> None:
    (company.home.path / "onefold.yaml").write_text("caps: {marketing: {messages: 3, within_days: 7}}")
    company.people("few", "many", "came back", "long ago", "held out")
    for name, sent, days in (("few", 2, 1), ("many", 3, 1), ("came back", 3, 1), ("long ago", 3, 7), ("held out", 2, 1)):
        for _ in range(sent):
            company.event(name, "email_sent" if sent == 2 else "sms_sent", days=days)
    company.event("came back", "sms_bounced")
    for _ in range(5):
        company.event("held out", "email_held_out")
        company.event("few", "email_opened")
    everybody = ("few", "many", "came back", "long ago", "held out")
    assert company.publish("b", company.model(*everybody)).members == 4
    assert company.exclusions("b") == [("many", "cap", None, NOW)]
    company.later(0.5)
    company.event("few", "email_sent", days=0)  # the third
    company.publish("b", company.model(*everybody))
    assert company.changes("b") == [("remove", "few", "cap", "cap")]
    company.later(5.5)
    company.publish("b", company.model(*everybody))  # those of the first day are a week old
    assert company.changes("b") == [
        ("add", "few", "cap", "under the cap on messages again"),
        ("add", "many", "cap", "under the cap on messages again"),
    ]


def test_a_cap_is_for_its_purpose_and_an_audience_may_ignore_it(company: Company) -> None:
    (company.home.path / "onefold.yaml").write_text("caps: {marketing: {messages: 1, within_days: 7}}")
    company.people("x")
    company.event("x", "searched")
    company.event("x", "email_sent")
    company.permit("x", "service")
    who = "event: {name: searched, within_days: 30}"
    company.declare("a", who)
    company.declare("urgent", who, ignores_cap=True)
    company.declare("visit", who, purpose="service")
    assert company.publish().members == 0
    assert company.run("select distinct audience from audiences.memberships order by 1") == [("urgent",), ("visit",)]


@pytest.mark.parametrize(
    ("caps", "problem"),
    [
        ("{marketing: {messages: 0, within_days: 7}}", "caps.marketing.messages: Input should be greater than or equal to 1"),
        ("{marketing: {messages: 4}}", "caps.marketing.within_days: Field required"),
        ("{marketing: {messages: 4, within_days: 7, members: 10}}", "caps.marketing.members: Extra inputs"),
        ("{Marketing mails: {messages: 4, within_days: 7}}", "'Marketing mails' is no purpose"),
    ],
)
def test_a_wrong_cap_is_refused_with_its_place(home: Home, caps: str, problem: str) -> None:
    (home.path / "onefold.yaml").write_text(f"caps: {caps}")
    with pytest.raises(OnefoldError, match=problem):
        Settings.of(home)


# Identity


def test_a_merge_moves_the_membership_and_says_so(company: Company) -> None:
    company.people("kept", "gone", "erased")
    company.publish("b", company.model("gone", "erased"))
    company.later()
    company.run("delete from unified.customers where customer_id in ('gone', 'erased')")
    with company.home.connect("test") as connection:
        seq = next_sequence(connection)
    company.fill("identity.redirects", from_customer_id="gone", to_customer_id="kept", _seq=seq)
    company.publish("b", company.model("kept"))
    assert company.changes("b") == [
        ("add", "kept", "merged", "merged with gone, who was in"),
        ("remove", "erased", "gone", "there is no record of the customer any more"),
        ("remove", "gone", "merged", "merged into kept"),
    ]
    company.later()
    company.people("erased")
    company.publish("b", company.model("kept", "erased"))
    assert company.changes("b") == [("add", "erased", "restored", "there are records of the customer again")]


def test_a_split_names_the_other_half_on_both_sides(company: Company) -> None:
    company.people("x")
    company.event("x", "searched")
    company.declare("a", "event: {name: searched, within_days: 30}")
    company.publish()
    company.later()
    company.people("half")
    with company.home.connect("test") as connection:
        seq = next_sequence(connection)
    company.fill("identity.changes", kind="split", from_customer_id="x", to_customer_id="half", _seq=seq)
    company.run("update unified.customer_events set customer_id = 'half', _seq = ?", seq)
    company.publish()
    assert company.changes() == [
        ("add", "half", "split", "split off from x, who was in"),
        ("remove", "x", "split", "records went to half; no longer: searched in the last 30 days"),
    ]
    company.later(40)
    company.event("x", "searched")
    company.publish()  # that split is an old story
    assert [(operation, c, kind) for operation, c, kind, _ in company.changes()] == [
        ("add", "x", "conditions"),
        ("remove", "half", "conditions"),
    ]


def test_whoever_is_anonymous_again_is_no_known_customer(company: Company) -> None:
    company.people("x", "y")
    company.event("x", "searched")
    company.event("y", "searched")
    company.declare("a", "event: {name: searched, within_days: 30}")
    company.publish()
    company.run("update unified.customers set is_known = false where customer_id = 'x'")
    company.later()
    company.publish()
    assert company.changes() == [("remove", "x", "gone", "no known customer any more")]


# What must not get lost


def test_an_empty_table_removes_only_who_has_no_consent_and_forgets_nothing(company: Company) -> None:
    company.people("x", "y")
    company.people("z", consent=None)
    company.publish("b", company.model("x", "y", "z"))
    company.state("y", "withdrawn")
    company.later()
    assert [finding.kind for finding in company.publish("b", company.model()).stop.findings] == ["empty"]
    assert company.changes("b") == [("remove", "y", "consent", "no consent")]
    assert company.exclusions("b") == [("z", "no consent", None, NOW)]
    company.state("z", "granted")
    company.later()
    company.publish("b", company.model("x", "y", "z"))
    assert company.changes("b") == [("add", "z", "consent", "consent was given")]


def test_publishing_again_changes_nothing_and_a_failed_commit_leaves_no_half(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    company.people("x", "y")
    company.people("z", consent=None)
    company.publish("b", company.model("x", "z"))
    names = ("memberships", "changes", "exclusions", "control_memberships", "publications", "_published")

    def everything() -> list[list[tuple]]:
        return [company.run(f"from audiences.{name} order by all") for name in names]

    company.later()
    company.state("z", "granted")
    model, before = company.model("y", "z"), everything()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publish, "_keep_present", killed)  # after the version's own rows, within its transaction
        with pytest.raises(KeyboardInterrupt):
            company.publish("b", model)
    assert everything() == before
    company.publish("b", model)
    assert [row[:3] for row in company.changes("b")] == [
        ("add", "y", "model"),
        ("add", "z", "consent"),  # still known who was kept out
        ("remove", "x", "model"),
    ]
    after = everything()
    assert company.publish("b", model).version == 2
    assert everything()[:-1] == after[:-1]


def test_a_home_of_before_goes_on_and_has_nothing_in_the_new_columns(company: Company) -> None:
    company.people("x", "y")
    company.run(
        """
        create table audiences.memberships (audience varchar not null, customer_id varchar not null,
            entered_at timestamp not null, left_at timestamp, version bigint not null);
        create table audiences.changes (audience varchar not null, version bigint not null,
            operation varchar not null check (operation in ('add', 'remove')), customer_id varchar not null,
            changed_at timestamp not null);
        create table audiences.exclusions (audience varchar not null, customer_id varchar not null, reason varchar not null);
        create table audiences.publications (audience varchar not null, version bigint not null, refresh bigint not null,
            members bigint not null, added bigint not null, removed bigint not null, excluded bigint not null,
            published_at timestamp not null, delivered_to varchar, primary key (audience, version));
        insert into audiences.memberships values ('a', 'x', '2026-01-01', null, 1), ('a', 'y', '2026-01-01', null, 1);
        insert into audiences.changes values ('a', 1, 'add', 'x', '2026-01-01'), ('a', 1, 'add', 'y', '2026-01-01');
        insert into audiences.publications values ('a', 1, 1, 2, 2, 0, 1, '2026-01-01', 'deliveries/a/v000001.csv');
        insert into audiences.exclusions values ('a', 'z', 'no consent')
        """
    )
    company.people("z")
    company.event("x", "searched")
    company.event("z", "searched")
    company.declare("a", WHO.replace("at_least: 2, ", ""))
    assert company.publish().version == 2
    assert company.changes() == [
        ("add", "z", "consent", "consent was given"),
        ("remove", "y", "conditions", "no longer: Lifecycle stage is at_risk; searched in the last 30 days"),
    ]
    assert company.run("select customer_id, entered_kind, left_kind, conditions from audiences.memberships order by 1") == [
        ("x", None, None, "2,3"),
        ("y", None, "conditions", None),
        ("z", "consent", None, "2,3"),
    ]
    with (company.home.deliveries / "a" / "v000002.csv").open() as handle:  # receivers get no reasons
        assert handle.readline().strip() == "audience,version,operation,customer_id,changed_at"
        assert [row[2:4] for row in csv.reader(handle)] == [["add", "z"], ["remove", "y"]]


# Exclusions of a destination


def test_exclusions_of_a_destination_are_exchanged_for_those_who_were_looked_at(company: Company) -> None:
    later = NOW + timedelta(days=1)

    def write(destination: str, now: datetime, chosen: list[str], unsent: dict[str, str]) -> None:
        with company.home.connect("test") as connection:
            connection.execute("create or replace temp table chosen as select unnest(?::varchar[]) as customer_id", [chosen])
            connection.execute(
                "create or replace temp table unsent as select unnest(?::varchar[]) as customer_id, unnest(?::varchar[]) as "
                "reason",
                [list(unsent), list(unsent.values())],
            )
            write_exclusions(connection, "a", destination, now)

    write("crm", NOW, ["1", "2", "3", "4"], {"1": "no usable identifier", "2": "no consent", "3": "suppressed"})
    write("ads", NOW, ["1"], {"1": "restricted tag"})
    company.fill("audiences.exclusions", audience="a", customer_id="1", reason="cap", since=NOW)
    write("crm", later, ["1", "2", "4"], {"1": "no usable identifier", "2": "suppressed"})
    assert company.exclusions() == [
        ("1", "cap", None, NOW),
        ("1", "no usable identifier", "crm", NOW),
        ("1", "restricted tag", "ads", NOW),
        ("2", "suppressed", "crm", later),
        ("3", "suppressed", "crm", NOW),  # was not looked at
    ]
    write("crm", later, ["1", "2", "3"], {})
    with company.home.connect("test") as connection:
        forget_exclusions(connection, "a", "ads")
    assert company.exclusions() == [("1", "cap", None, NOW)]
