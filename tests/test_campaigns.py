"""Campaigns and journeys against plain Python over each customer's events; lifecycle stages against the tag, also of customers
for whom only time passes; and the same for whatever batches the data comes in."""

import itertools
import math
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
from rows import Row, build, land_lines, query

from dagster_project.lib.home import Home

START = datetime(2025, 1, 1, 8, tzinfo=UTC)
AS_OF = datetime(2026, 2, 10, 12)
EARLIER = datetime(2025, 11, 15, 12)
QUIET = 30  # so many people of whom nothing comes in after that
WINDOW = timedelta(days=5)
PEOPLE = 60
CAMPAIGNS = [
    ("spring", "email", 60),
    ("summer", "email", 180),
    ("Late", "email", 398),
    ("spring", "sms", 61),
    ("code", "sms", 250),
]
STEPS = ["delivered", "opened", "clicked", "unsubscribed", "complained", "bounced"]
TABLES = [
    "campaign_members",
    "campaigns",
    "customer_stages",
    "stage_transitions",
    "journeys",
    "customer_contacts",
    "key_customers",
]


def _at(day: float) -> str:
    return (START + timedelta(days=day)).replace(microsecond=0).isoformat()


def _email(person: int) -> str:
    return f"person{person}@onefold-sample.com"


def _phone(person: int) -> str:
    return f"1381234{person:04}"


def _product(number: int, cost: float | None, day: int) -> Row:
    product = {"product_id": f"p{number}", "name": "Shoe", "price": 10, "cost": cost, "currency": "CNY", "updated_at": _at(day)}
    return ("catalog/products", product)


def _rows(chance: random.Random, people: range) -> list[Row]:
    """Messages, hold-outs, visits, orders and chats of a few people over 400 days, with pauses in which they lapse."""
    rows: list[Row] = []
    for person in people:
        known = {"user_id": f"u{person}"}
        contact = {"contact_id": f"c{person}", "email": _email(person), "phone": _phone(person), "updated_at": _at(0)}
        rows.append(("crm/contacts", contact | known))
        for campaign, channel, day in CAMPAIGNS:
            who = {"email": _email(person)} if channel == "email" else {"phone": _phone(person)}
            message = {"campaign_id": campaign, "event_name": "held_out", "occurred_at": _at(day), **who}
            key = f"{campaign}-{channel}-{person}"
            if chance.random() < 0.2:
                rows.append((f"{channel}/events", message | {"event_id": f"{key}-held"}))
                if chance.random() < 0.9:
                    if chance.random() < 0.3:
                        rows += _order(chance, person, f"{campaign}-{channel}", day + chance.choice([2, 5, 6]))
                    continue
            for step in ["sent", *(step for step in STEPS if chance.random() < 0.4)]:
                if (step == "sent" and chance.random() < 0.1) or (campaign == "code" and step == "delivered"):
                    continue  # a sender of few words
                at = day + (0 if step == "sent" else chance.choice([0.01, 1, 4]))
                event = message | {"event_id": f"{key}-{step}", "event_name": step, "occurred_at": _at(at)}
                rows.append((f"{channel}/events", event))
            if chance.random() < 0.2:
                rows += _order(chance, person, f"{campaign}-{channel}", day + chance.choice([0.02, 2, 5, 5.01, 6]))
        at = chance.choice([0, 60, 180, 250, 390]) + chance.choice([0, 1, 7, 8])
        for number in range(chance.choice([0, 1, 2, 3, 6])):
            at += chance.choice([0, 0.5, 2, 4, 5, 29.5, 60, 90, 95, 120, 150, 185, 200])
            if at > 404:
                break
            rows += _order(chance, person, str(number), at)
            for visit in range(chance.randrange(0, 16)):
                source = chance.choice([{}, {"utm_source": "google_ads", "utm_medium": "cpc", "utm_campaign": "Spring"}])
                source = source or chance.choice([{}, {"utm_source": "email", "utm_medium": "email", "utm_campaign": "SPRING"}])
                event = {"event_id": f"w{person}-{number}-{visit}", "event_name": "page_viewed", "anonymous_id": f"b{person}"}
                rows.append(
                    ("web/events", event | known | source | {"occurred_at": _at(at - chance.choice([0.1, 0.2, 1, 3, 9]))})
                )
        for number in range(chance.choice([0, 0, 1, 3])):
            at = chance.choice([100, 380, 395, 403])
            for place, side in enumerate(chance.choice([["in"], ["in", "out"], ["in", "out", "in"]])):
                said = {
                    "message_id": f"h{person}-{number}-{place}",
                    "conversation_id": f"v{person}-{number}",
                    "direction": side,
                }
                said |= {
                    "text": chance.choice(["hello", "it is broken"]),
                    "status": chance.choice(["open", "waiting", "closed"]),
                }
                rows.append(("chat/messages", said | known | {"occurred_at": _at(at + place / 24)}))
    return rows


def _order(chance: random.Random, person: int, key: str, at: float) -> list[Row]:
    order = {"order_id": f"o{person}-{key}", "user_id": f"u{person}", "status": "paid", "currency": "CNY"}
    order |= {"amount": chance.randrange(100, 90_000) / 100, "ordered_at": _at(at), "updated_at": _at(405)}
    line = {"order_id": order["order_id"], "line_number": 1, "product_id": f"p{chance.randrange(6)}", "quantity": 1}
    return [("orders/orders", order), ("orders/order_items", line | {"unit_price": 10})]


def _reference() -> list[Row]:
    rows = [_product(number, [5, 6.5, None][number % 3], 0) for number in range(6)]
    # Of one campaign only the platform knows, of another a part of the cost has no rate; a text message costs, too.
    for platform, campaign, currency in [
        ("google_ads", "Spring", "CNY"),
        ("weibo", "other", "CNY"),
        ("weibo", "late", "JPY"),
        ("sms", "spring", "CNY"),
    ]:
        for day in range(3):
            spend = {
                "date": f"2025-03-{day + 1:02}",
                "platform": platform,
                "campaign_id": campaign,
                "cost": 7 + day,
                "currency": currency,
            }
            rows.append(("ads/spend", spend | {"impressions": 1000, "clicks": 9}))
    # Somebody bought within the window after a click, but not after the message.
    mail = {"email": "slow@onefold-sample.com", "campaign_id": "spring"}
    rows += [
        ("email/events", mail | {"event_id": "slow-1", "event_name": "sent", "occurred_at": _at(60)}),
        ("email/events", mail | {"event_id": "slow-2", "event_name": "clicked", "occurred_at": _at(64)}),
    ]
    order = {"order_id": "slow", "status": "paid", "currency": "CNY", "amount": 50, "email": mail["email"]}
    rows.append(("orders/orders", order | {"ordered_at": _at(68), "updated_at": _at(68)}))
    return rows


def _corrections(rows: list[Row], chance: random.Random) -> list[Row]:
    """What comes later: orders that are another's or cancelled, messages of another campaign or person, two people who are one,
    other costs of products, and a till whose clock runs ahead."""
    orders = [order for place, order in rows if place == "orders/orders"]
    mails = [event for place, event in rows if place == "email/events"]
    given = [order | {"user_id": f"u{QUIET}", "updated_at": _at(406)} for order in chance.sample(orders, 5)]
    cancelled = [order | {"status": "cancelled", "updated_at": _at(407)} for order in chance.sample(orders, 5)]
    moved = [event | {"campaign_id": "mistaken"} for event in chance.sample(mails, 3)]
    moved += [event | {"email": _email(QUIET + 1)} for event in chance.sample(mails, 3)]
    merged = [
        ("crm/merges", {"contact_id": f"c{person}", "merged_contact_id": f"c{person + 1}", "merged_at": _at(390)})
        for person in (40, 50)
    ]
    ahead = {"receipt_id": "r1", "store_id": "s", "sold_at": "2026-02-12T00:00:00+00:00", "amount": 7.77, "currency": "CNY"}
    return (
        [("orders/orders", order) for order in given + cancelled]
        + [("email/events", event) for event in moved]
        + merged
        + [_product(1, 2, 1), _product(2, 3, 1)]
        + [
            ("pos/receipts", ahead | {"phone": _phone(35)}),
            ("pos/receipts", ahead | {"receipt_id": "r2", "phone": _phone(PEOPLE + 1)}),
        ]
    )


def _named(home: Home, sql: str) -> list[dict]:
    with home.connect("test") as connection:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home, list[list[tuple]]]:
    """The same data built at once, and in two batches on two days; and whom stage and tag placed otherwise after each build."""
    chance = random.Random(20261122)
    quiet, others = _rows(chance, range(QUIET)), _rows(chance, range(QUIET, PEOPLE))
    corrections = _corrections(others, chance)
    chance.shuffle(others)
    first, then = _reference() + quiet + others[: len(others) // 2], others[len(others) // 2 :] + corrections
    once, batches = (Home(tmp_path_factory.mktemp(name) / "home").prepare() for name in ("once", "batches"))
    for home in (once, batches):
        (home.path / "onefold.yaml").write_text(f"campaign_window_days: {WINDOW.days}\n")
    stages = []
    for home, rows, as_of in ((once, first + then, AS_OF), (batches, first, EARLIER), (batches, then, AS_OF)):
        land_lines(home, as_of.isoformat(), rows)
        build(home, *(f"+analytics_{table}" for table in TABLES), "+tags_lifecycle", as_of=as_of)
        stages.append(_disagreeing(home))
    return once, batches, stages


def _disagreeing(home: Home) -> list[tuple]:
    """Customers whose present stage is not what the tag says."""
    return query(
        home,
        "select customer_id, stages.stage, tag.value "
        "from (select * from analytics.customer_stages where left_at is null) as stages "
        "full join tags.lifecycle as tag using (customer_id) where stages.stage is distinct from tag.value",
    )


# Campaigns -----------------------------------------------------------------------------------------------------------


def _members(home: Home) -> dict[tuple, dict]:
    """Times of what happened to each (campaign, channel, customer), and the purchases in its window."""
    happened: dict[tuple, dict[str, datetime]] = defaultdict(dict)
    for campaign, channel, customer, name, at in query(
        home,
        "select trim(campaign_id), channel, customer_id, split_part(event_name, '_', 2), occurred_at "
        "from unified.customer_events "
        "where channel in ('email', 'sms') and customer_id is not null and campaign_id is not null",
    ):
        name = "held_out" if name == "held" else name
        times = happened[campaign, channel, customer]
        times[name] = min(at, times.get(name, at))
    bought = defaultdict(list)
    for customer, *purchase in query(
        home, "select customer_id, converted_at, revenue_base, margin_base from analytics.conversions order by converted_at"
    ):
        bought[customer].append(purchase)
    members = {}
    for key, times in happened.items():
        sent = times.get("sent", min((at for name, at in times.items() if name != "held_out"), default=None))
        begun = sent or times["held_out"]
        within = [p for p in bought[key[2]] if begun <= p[0] <= begun + WINDOW]
        click = times.get("clicked")
        members[key] = {
            "member_group": "treated" if sent else "control",
            "started_at": begun,
            "sent_at": sent,
            **{f"{name}_at": times.get(name) for name in [*STEPS, "held_out"]},
            "converted_at": within[0][0] if within else None,
            "conversion_count": len(within),
            "revenue_base": sum(p[1] for p in within),
            "margin_base": None if any(p[2] is None for p in within) else sum(p[2] for p in within),
            "is_converted_after_click": any(click <= p[0] <= click + WINDOW for p in bought[key[2]] if p[0] >= begun)
            if click
            else False,
        }
    return members


def test_members_are_what_a_plain_loop_over_their_events_finds(homes) -> None:
    once, *_ = homes
    wanted = _members(once)
    found = {
        (row["campaign_id"], row["channel"], row["customer_id"]): row
        for row in _named(once, "select * from analytics.campaign_members")
    }
    assert found.keys() == wanted.keys()
    for key, member in wanted.items():
        assert {name: found[key][name] for name in member} == member, key
    kinds = Counter((m["member_group"], m["converted_at"] is not None) for m in wanted.values())
    assert len(kinds) == 4 and min(kinds.values()) >= 3, kinds
    assert any(m["margin_base"] is None for m in wanted.values())
    assert any(m["sent_at"] and m["held_out_at"] for m in wanted.values())
    assert any(m["is_converted_after_click"] and not m["conversion_count"] for m in wanted.values())


def _wilson(count: int, total: int) -> tuple[float, float]:
    """Both rates that are just 1.96 of their own standard errors away from what was seen, by bisection."""
    z, seen = 1.959963984540054, count / total

    def is_far(rate: float) -> bool:
        return abs(rate - seen) > z * math.sqrt(rate * (1 - rate) / total)

    limits = []
    for near, far in ((seen, 0.0), (seen, 1.0)):
        for _ in range(200):
            middle = (near + far) / 2
            near, far = (near, middle) if is_far(middle) else (middle, far)
        limits.append(near)
    return limits[0], limits[1]


def _newcombe(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    (lower_1, upper_1), (lower_2, upper_2) = _wilson(*first), _wilson(*second)
    rate_1, rate_2 = first[0] / first[1], second[0] / second[1]
    return (
        rate_1 - rate_2 - math.hypot(rate_1 - lower_1, upper_2 - rate_2),
        rate_1 - rate_2 + math.hypot(upper_1 - rate_1, rate_2 - lower_2),
    )


# Newcombe 1998, table II, method 10.
PUBLISHED = {
    ((56, 70), (48, 80)): (0.0524, 0.3339),
    ((9, 10), (3, 10)): (0.1705, 0.8090),
    ((6, 7), (2, 7)): (0.0582, 0.8062),
    ((5, 56), (0, 29)): (-0.0381, 0.1926),
    ((0, 10), (0, 20)): (-0.1611, 0.2775),
    ((0, 10), (0, 10)): (-0.2775, 0.2775),
    ((10, 10), (0, 20)): (0.6791, 1.0),
    ((10, 10), (0, 10)): (0.6075, 1.0),
}


def test_the_reference_of_these_tests_gives_the_published_intervals() -> None:
    for (first, second), limits in PUBLISHED.items():
        assert _newcombe(first, second) == pytest.approx(limits, abs=5.1e-5), (first, second)


def test_campaigns_count_members_and_compare_them_with_their_control_group(homes) -> None:
    once, *_ = homes
    groups = defaultdict(list)
    for (campaign, channel, _), member in _members(once).items():
        groups[campaign.lower(), channel].append(member)
    found = {
        (row["campaign_id"].lower(), row["channel"]): row
        for row in _named(once, "select * from analytics.campaigns where channel <> 'ads'")
    }
    assert found.keys() - {("spring", "sms")} == groups.keys() - {("spring", "sms")}
    compared = 0
    for key, members in groups.items():
        row = found[key]
        sent = [m for m in members if m["sent_at"]]
        control = [m for m in members if not m["sent_at"]]
        answered = [m for m in sent if m["opened_at"] or m["clicked_at"] or m["unsubscribed_at"] or m["complained_at"]]
        arrived = [m for m in sent if m["delivered_at"] or m in answered]
        lost = [m for m in sent if m["bounced_at"] and not m["delivered_at"] and m not in answered]
        delivered = len(arrived) if any(m["delivered_at"] for m in sent) else len(sent) - len(lost)
        opened = sum(bool(m["opened_at"] or m["clicked_at"]) for m in sent)
        bought, others = (sum(bool(m["converted_at"]) for m in group) for group in (sent, control))
        counts = {
            "sent_count": len(sent),
            "control_count": len(control),
            "delivered_count": delivered,
            "bounced_count": len(lost),
            "opened_count": opened,
            "converted_count": bought,
            "control_converted_count": others,
            "converted_after_click_count": sum(m["is_converted_after_click"] for m in sent),
            "revenue_base": sum(m["revenue_base"] for m in sent),
            **{f"{name}_count": sum(bool(m[f"{name}_at"]) for m in sent) for name in ("clicked", "unsubscribed", "complained")},
            "is_window_over": max(m["started_at"] for m in members) + WINDOW < AS_OF,
        }
        assert {name: row[name] for name in counts} == counts, key
        assert row["delivery_rate"] == (pytest.approx(delivered / len(sent)) if sent else None)
        assert row["click_to_open_rate"] == pytest.approx(counts["clicked_count"] / opened if opened else None)
        if sent and control:
            compared += 1
            limits = _newcombe((bought, len(sent)), (others, len(control)))
            assert (row["uplift_lower"], row["uplift_upper"]) == pytest.approx(limits, abs=1e-9), key
            assert row["uplift"] == pytest.approx(bought / len(sent) - others / len(control))
            assert row["is_significant"] == (limits[0] > 0 or limits[1] < 0)
            spent = [float(sum(m["revenue_base"] for m in group)) / len(group) for group in (sent, control)]
            assert float(row["incremental_revenue_base"]) == pytest.approx((spent[0] - spent[1]) * len(sent), abs=1e-3)
        else:
            assert (row["uplift"], row["uplift_lower"], row["is_significant"]) == (None, None, None)
    assert compared >= 5 and ("mistaken", "email") in groups


def test_spend_meets_what_links_of_its_campaign_and_platform_are_credited_with(homes) -> None:
    once, *_ = homes
    rows = _named(once, "select * from analytics.campaigns where cost_base is not null or channel = 'ads'")
    found = {(row["campaign_id"].lower(), row["channel"], row["platform"]): row for row in rows}
    assert found.keys() == {
        ("spring", "ads", "google_ads"),
        ("spring", "sms", None),
        ("other", "ads", "weibo"),
        ("late", "ads", "weibo"),
    }
    credited = {
        source: (conversions, revenue, margin)
        for source, *(conversions, revenue, margin) in query(
            once,
            "select source, sum(conversions), sum(revenue_base), "
            "case when count(*) = count(margin_base) then sum(margin_base) end from analytics.attribution "
            "where model = 'last_non_direct' and lower(campaign) = 'spring' group by all",
        )
    }
    google, mails = (
        found["spring", "ads", "google_ads"],
        _named(once, "select * from analytics.campaigns where channel = 'email'"),
    )
    spring = next(row for row in mails if row["campaign_id"] == "spring")
    for row, source in ((google, "google_ads"), (spring, "email")):
        assert row["credited_conversions"] > 0
        assert tuple(row[f"credited_{name}"] for name in ("conversions", "revenue_base", "margin_base")) == credited[source]
    assert (google["cost_base"], google["impression_count"], google["ad_click_count"]) == (24, 3000, 27)
    assert google["roas"] == pytest.approx(float(google["credited_revenue_base"]) / 24)
    assert (spring["cost_base"], spring["roas"], spring["roi"]) == (None, None, None)
    other, late = found["other", "ads", "weibo"], found["late", "ads", "weibo"]
    assert (other["roas"], other["roi"]) == (0, -1)
    assert (late["cost_base"], late["roas"]) == (None, None)


# Journeys ------------------------------------------------------------------------------------------------------------


def _orders(home: Home) -> dict[str, list[datetime]]:
    orders = defaultdict(list)
    for customer, at in query(
        home,
        "select customer_id, occurred_at from unified.customer_events "
        "where event_name in ('order_placed', 'store_purchase') and customer_id is not null order by occurred_at",
    ):
        orders[customer].append(at)
    return orders


def _stage(orders: list[datetime], at: datetime) -> str:
    """The tag's rule, as of any moment."""
    made = [order for order in orders if order <= at]
    if not made:
        return "prospect"
    days = timedelta(days=1)
    if made[0] > at - 30 * days:
        return "new"
    return "active" if made[-1] > at - 90 * days else "at_risk" if made[-1] > at - 180 * days else "lapsed"


def test_stages_are_at_every_moment_what_the_tag_would_have_said(homes) -> None:
    once, *_ = homes
    orders = _orders(once)
    stays = defaultdict(list)
    for row in _named(once, "select * from analytics.customer_stages order by customer_id, stage_number"):
        stays[row["customer_id"]].append(row)
    seen: Counter = Counter()
    for customer, rows in stays.items():
        assert [row["left_at"] for row in rows[:-1]] == [row["entered_at"] for row in rows[1:]]
        assert [row["next_stage"] for row in rows] == [*(row["stage"] for row in rows[1:]), None]
        if any(order > AS_OF for order in orders[customer]):
            continue
        for row in rows:
            end = row["left_at"] or AS_OF + timedelta(microseconds=1)
            for at in (row["entered_at"], row["entered_at"] + (end - row["entered_at"]) / 2, end - timedelta(microseconds=1)):
                assert _stage(orders[customer], at) == row["stage"], (customer, at)
            if row["left_at"]:
                assert row["days"] == pytest.approx((row["left_at"] - row["entered_at"]) / timedelta(days=1))
                seen[row["stage"], row["next_stage"]] += 1
            elif row["due_at"]:
                assert row["due_at"] > AS_OF
                assert _stage(orders[customer], row["due_at"] - timedelta(microseconds=1)) == row["stage"]
                assert _stage(orders[customer], row["due_at"]) != row["stage"]
    moves = [
        ("prospect", "new"),
        ("new", "active"),
        ("active", "at_risk"),
        ("at_risk", "lapsed"),
        ("at_risk", "active"),
        ("lapsed", "active"),
    ]
    assert all(seen[move] >= 3 for move in moves), seen


def test_present_stages_are_those_of_the_tag_also_where_only_time_has_passed(homes) -> None:
    once, batches, disagreeing = homes
    assert disagreeing == [[], [], []]
    ahead = [customer for customer, orders in _orders(once).items() if orders[-1] > AS_OF]
    assert len(ahead) == 2
    members = "from analytics.campaign_members"
    untouched = f"select customer_id {members} group by 1 having max(_seq) < (select max(_seq) {members})"
    quiet = {customer for (customer,) in query(batches, untouched)}
    orders = {customer: made for customer, made in _orders(batches).items() if customer in quiet}
    assert sum(_stage(made, EARLIER) != _stage(made, AS_OF) for made in orders.values()) > 5


def test_transitions_are_the_months_of_the_stays(homes) -> None:
    once, *_ = homes
    days = defaultdict(list)
    for row in _named(once, "select * from analytics.customer_stages"):
        if row["stage_number"] == 1:
            days[row["entered_at"].date().replace(day=1), "(start)", row["stage"]].append(None)
        if row["left_at"]:
            days[row["left_at"].date().replace(day=1), row["stage"], row["next_stage"]].append(row["days"])
    rows = _named(once, "select * from analytics.stage_transitions")
    assert {(row["month"], row["from_stage"], row["to_stage"]) for row in rows} == days.keys()
    for row in rows:
        key = (row["month"], row["from_stage"], row["to_stage"])
        assert row["customer_count"] == len(days[key])
        assert row["share"] == pytest.approx(len(days[key]) / sum(len(d) for k, d in days.items() if k[:2] == key[:2]))
        if row["from_stage"] != "(start)":
            assert row["median_days"] == pytest.approx(median(days[key]))
            assert row["mean_days"] == pytest.approx(sum(days[key]) / len(days[key]), abs=1e-4)


def test_a_journey_has_the_touchpoints_of_its_lookback_in_order(homes) -> None:
    once, *_ = homes
    touched = defaultdict(list)
    for customer, *touch in query(
        once, "select customer_id, occurred_at, channel_group from analytics.touchpoints order by occurred_at, touchpoint_id"
    ):
        touched[customer].append(touch)
    bought = defaultdict(list)
    for customer, conversion, at in query(
        once,
        "select customer_id, conversion_id, converted_at from analytics.conversions where customer_id is not null order by all",
    ):
        bought[customer].append((at, conversion))
    found = {row["conversion_id"]: row for row in _named(once, "select * from analytics.journeys")}
    assert found.keys() == {conversion for purchases in bought.values() for _, conversion in purchases}
    longest = 0
    for customer, purchases in bought.items():
        for number, (at, conversion) in enumerate(sorted(purchases), 1):
            path = [touch for touch in touched[customer] if at - timedelta(days=90) <= touch[0] <= at]
            turns = [group for group, _ in itertools.groupby(touch[1] for touch in path)]
            longest = max(longest, len(turns))
            row = found[conversion]
            wanted = {
                "purchase_number": number,
                "purchase_kind": "first" if number == 1 else "repeat",
                "touchpoint_count": len(path),
                "channel_group_count": len(set(turns)),
                "first_group": turns[0] if turns else None,
                "last_group": turns[-1] if turns else None,
                "channel_groups": " > ".join(["…", *turns[-10:]] if len(turns) > 10 else turns) or None,
                "first_touch_at": path[0][0] if path else None,
            }
            assert {name: row[name] for name in wanted} == wanted, conversion
    assert longest > 3


def test_key_customers_are_the_top_tier_with_the_first_reason_that_fits(homes) -> None:
    once, *_ = homes
    days = timedelta(days=1)
    vips = [c for (c,) in query(once, "select customer_id from tags.value_tier where value = 'vip'")]
    bought, said = defaultdict(list), defaultdict(list)
    for customer, *purchase in query(once, "select customer_id, converted_at, revenue_base from analytics.conversions"):
        bought[customer].append(purchase)
    for customer, *message in query(
        once,
        "select e.customer_id, e.occurred_at, e.event_name, e.text, m.conversation_id, m.status "
        "from unified.customer_events as e join cleaned.chat_messages as m on m.record_id = e.record_id "
        "where e.source_table = 'chat_messages' order by e.occurred_at",
    ):
        said[customer].append(message)
    orders = _orders(once)
    found = {row["customer_id"]: row for row in _named(once, "select * from analytics.key_customers")}
    assert found.keys() == set(vips) and len(vips) >= 2
    for customer, row in found.items():
        recent = sum(r for at, r in bought[customer] if AS_OF - 90 * days < at <= AS_OF)
        before = sum(r for at, r in bought[customer] if AS_OF - 180 * days < at <= AS_OF - 90 * days)
        assert (row["spend_90_days_base"], row["spend_before_base"]) == (recent, before)
        answers = [m[0] for m in said[customer] if m[1] == "message_sent"]
        complaints = [m[0] for m in said[customer] if m[1] == "message_received" and "broken" in m[2]]
        last = {m[3]: m for m in said[customer]}  # the latest of each conversation
        waiting = [m[0] for m in last.values() if m[4] != "closed"]
        complaint = max(complaints, default=None)
        is_open = complaint and (not answers or complaint > max(answers))
        assert row["open_complaint_at"] == (complaint if is_open else None), customer
        assert row["open_conversation_at"] == max(waiting, default=None), customer
        stage = _stage([min(order, AS_OF) for order in orders[customer]], AS_OF)
        assert row["stage"] == stage
        reasons = [
            (is_open and complaint > AS_OF - 30 * days, "complaint"),
            (waiting and max(waiting) > AS_OF - 30 * days, "open_conversation"),
            (stage == "lapsed", "lapsed"),
            (stage == "at_risk", "at_risk"),
            (recent * 2 < before, "spending_less"),
            (row["last_contact_at"] <= AS_OF - 60 * days, "silent"),
            (True, "none"),
        ]
        assert row["reason"] == next(reason for fits, reason in reasons if fits), customer


def test_nobody_acts_by_being_held_out(homes) -> None:
    once, *_ = homes
    names = "event_name in ('email_held_out', 'sms_held_out')"
    ((held_out,),) = query(once, f"select count(*) from unified.customer_events where {names}")
    assert held_out > 30
    assert query(once, f"select count(*) from analytics.customer_contacts where last_{names}") == [(0,)]


def test_any_batches_and_days_give_the_same_rows(homes) -> None:
    """Customers by their oldest identifier: their ids depend on what was known before, and hashes of them, too."""
    once, batches, _ = homes

    def of(home: Home, table: str) -> list[tuple]:
        names = [name for name, *_ in query(home, f"describe analytics.{table}")]
        columns = ", ".join(f"t.{name}" for name in names if name not in ("customer_id", "_seq", "member_id", "stage_id"))
        who = ", (select min(node_id) from identity.assignments as a where a.customer_id = t.customer_id)"
        return query(home, f"select {columns}{who if 'customer_id' in names else ''} from analytics.{table} as t order by all")

    for table in TABLES:
        assert of(batches, table) == of(once, table), table
