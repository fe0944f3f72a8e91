"""Attribution against plain Python over each customer's path, a Markov chain by dense linear algebra and Shapley values over
all orders of arrival; every model conserved; and the same for whatever batches the data comes in."""

import itertools
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from rows import Row, build, land_lines, present_rows, query

from dagster_project.lib.home import Home

START = datetime(2025, 3, 1, 8, tzinfo=UTC)
AS_OF = datetime(2026, 1, 1)
LOOKBACK = 60
PEOPLE = 40
SOURCES = [
    {},
    {},
    {"utm_source": "email", "utm_medium": "email", "utm_campaign": "spring"},
    {"utm_source": "google_ads", "utm_medium": "cpc", "utm_campaign": "always"},
    {"utm_source": "weibo", "utm_medium": "cpc", "utm_campaign": "always"},
    {"referrer": "https://www.baidu.com/s?wd=shoes"},
]


# A visit on a family's tablet is whose log-in was last; what only its first user did before, later known, makes it another
# visit, although nothing of its owner's changed.
TABLET = {"anonymous_id": "tablet", "event_name": "page_viewed"}
FAMILY = [
    ("web/events", TABLET | {"event_id": "e2", "user_id": "father", "occurred_at": "2025-04-01T10:00:00+00:00"}),
    ("web/events", TABLET | {"event_id": "e3", "user_id": "mother", "occurred_at": "2025-04-01T10:10:00+00:00"}),
]
BEFORE = [("web/events", TABLET | {"event_id": "e1", "occurred_at": "2025-04-01T09:50:00+00:00"})]


def _rows(chance: random.Random) -> list[Row]:
    """Visits, clicks and purchases of a few people over 200 days, some on the browser of another."""
    rows: list[Row] = []
    for person in range(PEOPLE):
        known = {"user_id": f"u{person}"}
        rows.append(
            (
                "crm/contacts",
                {"contact_id": f"c{person}", "user_id": f"u{person}", "email": _email(person), "updated_at": _at(0)},
            )
        )
        for visit in range(chance.randrange(0, 9)):
            day, browser = chance.uniform(0, 200), person if chance.random() < 0.8 else person // 2
            event = {"event_id": f"w{person}-{visit}", "anonymous_id": f"b{browser}", "event_name": "page_viewed"}
            rows.append(("web/events", event | known | {"occurred_at": _at(day)} | chance.choice(SOURCES)))
            if chance.random() < 0.3:
                click = {
                    "event_id": f"m{person}-{visit}",
                    "event_name": "clicked",
                    "email": _email(person),
                    "campaign_id": "spring",
                }
                rows.append(("email/events", click | {"occurred_at": _at(day - chance.choice([0.001, 0.01, 3]))}))
            if chance.random() < 0.2:
                click = {"event_id": f"s{person}-{visit}", "event_name": "clicked", "phone": f"1381234{person:04}"}
                rows.append(("sms/events", click | {"occurred_at": _at(day)}))
            if chance.random() < 0.4:
                order = {"order_id": f"o{person}-{visit}", "status": "paid", "currency": "CNY"} | known
                order |= {"phone": f"1381234{person:04}", "amount": chance.randrange(100, 100_000) / 100}
                order |= {"ordered_at": _at(day + chance.choice([0, 0.01, 2, 40])), "updated_at": _at(201)}
                line = {
                    "order_id": order["order_id"],
                    "line_number": 1,
                    "product_id": f"p{visit}",
                    "quantity": 1,
                    "unit_price": 10,
                }
                rows += [("orders/orders", order), ("orders/order_items", line)]
    for number in range(6):  # of people who name nobody
        receipt = {"receipt_id": f"r{number}", "store_id": "s", "sold_at": _at(10 * number), "amount": 7.77, "currency": "CNY"}
        rows.append(("pos/receipts", receipt))
    rows += [("catalog/products", _product(number, 5)) for number in range(7)]  # two products have no cost
    rows += [
        (
            "ads/spend",
            {"date": f"2025-03-{day:02}", "platform": platform, "campaign_id": "always", "cost": day / 3, "currency": "CNY"},
        )
        for day in range(1, 29)
        for platform in ("google_ads", "weibo")
    ]
    return rows


def _corrections(rows: list[Row], chance: random.Random) -> list[Row]:
    """What comes later: log-ins that take over sessions, orders that are another's or cancelled, other costs."""
    visits = [event for place, event in rows if place == "web/events"]
    orders = [order for place, order in rows if place == "orders/orders"]
    taken = [
        event
        | {"event_id": f"{event['event_id']}-late", "user_id": f"u{chance.randrange(PEOPLE)}", "occurred_at": _later(event, 5)}
        for event in chance.sample(visits, 12)
    ]
    given = [order | {"user_id": "u0", "phone": None, "updated_at": _at(202)} for order in chance.sample(orders, 4)]
    cancelled = [order | {"status": "cancelled", "updated_at": _at(203)} for order in chance.sample(orders, 4)]
    costs = [_product(number, 6) | {"updated_at": _at(204)} for number in range(3)]
    named = [("pos/receipts", {**row, "phone": "13812340001"}) for place, row in rows if place == "pos/receipts"][:2]
    return (
        [("web/events", event) for event in taken]
        + [("orders/orders", order) for order in given + cancelled]
        + [("catalog/products", product) for product in costs]
        + named
    )


def _product(number: int, cost: float) -> dict:
    return {"product_id": f"p{number}", "name": "Shoe", "price": 10, "cost": cost, "currency": "CNY", "updated_at": _at(0)}


def _email(person: int) -> str:
    return f"person{person}@onefold-sample.com"


def _at(day: float) -> str:
    return (START + timedelta(days=day)).isoformat()


def _later(event: dict, minutes: int) -> str:
    return (datetime.fromisoformat(event["occurred_at"]) + timedelta(minutes=minutes)).isoformat()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home]:
    """The same data built at once, and in two batches, the later with what corrects the former."""
    chance = random.Random(20261122)
    rows = _rows(chance)
    corrections = _corrections(rows, chance) + BEFORE
    shuffled = FAMILY + sorted(rows, key=lambda row: chance.random())
    once, batches = (Home(tmp_path_factory.mktemp(name) / "home").prepare() for name in ("once", "batches"))
    for home in (once, batches):
        (home.path / "onefold.yaml").write_text(f"attribution_lookback_days: {LOOKBACK}\n")
    land_lines(once, "all", FAMILY + rows + corrections)
    build(once, "+path:models/analytics", as_of=AS_OF)
    for number, part in enumerate([shuffled[: len(rows) * 2 // 3], shuffled[len(rows) * 2 // 3 :] + corrections]):
        land_lines(batches, str(number), part)
        build(batches, "+path:models/analytics", as_of=AS_OF)
    return once, batches


class _Paths:
    """What each conversion's customer did in the window before it, and what led to no conversion; (time, id, channel group)."""

    def __init__(self, home: Home) -> None:
        touched = defaultdict(list)
        for customer, *touchpoint in query(
            home, "select customer_id, occurred_at, touchpoint_id, channel_group from analytics.touchpoints order by all"
        ):
            touched[customer].append(tuple(touchpoint))
        self.converted: dict[str, list[tuple]] = {}
        self.revenue: dict[str, Decimal] = {}
        self.times: dict[str, datetime] = {}
        bought = defaultdict(list)
        for conversion, customer, at, revenue in query(
            home, "select conversion_id, customer_id, converted_at, revenue_base from analytics.conversions"
        ):
            since = at - timedelta(days=LOOKBACK)
            self.converted[conversion] = [touch for touch in touched.get(customer, []) if since <= touch[0] <= at]
            self.revenue[conversion], self.times[conversion] = revenue, at
            if customer:
                bought[customer].append(at)
        used = {touch[1] for path in self.converted.values() for touch in path}
        self.unconverted: list[list[tuple]] = []
        for customer, touches in touched.items():
            stretches = defaultdict(list)
            for touch in touches:
                if touch[1] not in used:
                    stretches[sum(at < touch[0] for at in bought[customer])].append(touch)
            self.unconverted += stretches.values()


def _weights(path: list[tuple], model: str, converted_at: datetime) -> list[float]:
    groups, last = [touch[2] for touch in path], len(path) - 1
    if model in ("first", "last", "last_non_direct"):
        others = [place for place, group in enumerate(groups) if group != "Direct"]
        place = {"first": 0, "last": last, "last_non_direct": others[-1] if others else last}[model]
        return [float(place == at) for at in range(len(path))]
    if model == "linear":
        return [1 / len(path)] * len(path)
    if model == "position":
        if len(path) <= 2:
            return [1 / len(path)] * len(path)
        return [0.4] + [0.2 / (len(path) - 2)] * (len(path) - 2) + [0.4]
    ages = [(converted_at - touch[0]) / timedelta(days=7) for touch in path]
    total = sum(2**-age for age in ages)
    return [2**-age / total for age in ages]


def test_models_by_rule_credit_what_a_plain_loop_does(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    paths = _Paths(once)
    found = defaultdict(dict)
    for model, conversion, touchpoint, credit, revenue in query(
        once, "select model, conversion_id, touchpoint_id, conversions, revenue_base from analytics.attribution"
    ):
        found[model, conversion][touchpoint] = (float(credit), float(revenue))
    assert sum(len(path) > 3 for path in paths.converted.values()) > 10
    assert sum(not path for path in paths.converted.values()) > 4
    for model in ("first", "last", "last_non_direct", "linear", "position", "time_decay"):
        for conversion, path in paths.converted.items():
            weights = _weights(path, model, paths.times[conversion]) if path else [1.0]
            names = [touch[1] for touch in path] or [None]
            wanted = {name: (w, w * float(paths.revenue[conversion])) for name, w in zip(names, weights, strict=True) if w}
            got = found[model, conversion]
            assert got.keys() == wanted.keys(), (model, conversion)
            for name, (credit, revenue) in wanted.items():
                assert got[name] == (pytest.approx(credit, abs=1e-6), pytest.approx(revenue, abs=1e-3)), (model, conversion)


def test_the_shapley_value_is_that_of_all_orders_in_which_channel_groups_may_join(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    paths = _Paths(once)
    needed = [(frozenset(touch[2] for touch in path), float(paths.revenue[c])) for c, path in paths.converted.items() if path]
    players = sorted(set().union(*(groups for groups, _ in needed)))
    assert len(players) == 6, players
    orders = list(itertools.permutations(players))
    worth = {}
    for size in range(len(players) + 1):
        for members in map(frozenset, itertools.combinations(players, size)):
            met = [revenue for groups, revenue in needed if groups <= members]
            worth[members] = np.array([len(met), sum(met)])
    value = {player: np.zeros(2) for player in players}
    for order in orders:
        for place, player in enumerate(order):
            value[player] += worth[frozenset(order[: place + 1])] - worth[frozenset(order[:place])]
    rows = query(
        once,
        "select channel_group, sum(conversions), sum(revenue_base) from analytics.attribution "
        "where model = 'shapley' and touchpoint_id is not null group by channel_group",
    )
    assert {group for group, *_ in rows} == set(players)
    for group, conversions, revenue in rows:
        wanted = value[group] / len(orders)
        assert float(conversions) == pytest.approx(wanted[0], abs=1e-5), group
        assert float(revenue) == pytest.approx(wanted[1], abs=0.01), group


def test_removal_effects_are_those_of_the_chain_solved_by_linear_algebra(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    paths = _Paths(once)
    walks = [(path, "conversion") for path in paths.converted.values() if path] + [(path, "none") for path in paths.unconverted]
    counts = defaultdict(float)
    for path, ending in walks:
        states = ["start", *(touch[2] for touch in path), ending]
        for step in itertools.pairwise(states):
            counts[step] += 1
    states = sorted({origin for origin, _ in counts})
    groups = [state for state in states if state != "start"]

    def conversion_rate(removed: str | None) -> float:
        left = {origin: sum(n for (a, _), n in counts.items() if a == origin) for origin in states}
        among = np.array([[0 if removed in (a, b) else counts[a, b] / left[a] for b in states] for a in states])
        out = np.array([0 if a == removed else counts[a, "conversion"] / left[a] for a in states])
        return float(np.linalg.solve(np.eye(len(states)) - among, out)[states.index("start")])

    effects = {group: 1 - conversion_rate(group) / conversion_rate(None) for group in groups}
    met = {touch[2] for path in paths.converted.values() for touch in path}
    attributed = sum(bool(path) for path in paths.converted.values())
    revenue = float(sum(paths.revenue[c] for c, path in paths.converted.items() if path))
    rows = query(once, "select channel_group, removal_effect, conversions, revenue_base from analytics.removal_effects")
    assert {group for group, *_ in rows} == set(groups)
    for group, effect, conversions, revenue_base in rows:
        share = effects[group] / sum(effects[known] for known in met) if group in met else 0
        assert effect == pytest.approx(effects[group], abs=1e-9), group
        assert float(conversions) == pytest.approx(attributed * share, abs=1e-6), group
        assert float(revenue_base) == pytest.approx(revenue * share, abs=1e-3), group
    by_channels = query(
        once,
        "select channel_group, sum(conversions), sum(revenue_base) from analytics.channels where model = 'markov' group by 1",
    )
    given = {group: (conversions, revenue_base) for group, _, conversions, revenue_base in rows}
    assert {group: rest for group, *rest in by_channels if group in given} == {g: list(v) for g, v in given.items()}


def test_every_model_conserves_conversions_and_revenue_exactly(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    lost = query(
        once,
        """
        select credited.model, conversion_id from (
            select
                model, conversion_id, sum(conversions) as conversions, sum(revenue_base) as revenue, sum(margin_base) as margin
            from analytics.attribution group by all
        ) as credited join analytics.conversions as bought using (conversion_id)
        where credited.conversions <> 1 or revenue <> revenue_base or margin is distinct from margin_base
        """,
    )
    assert lost == []
    (wanted,) = query(once, "select count(*), sum(revenue_base) from analytics.conversions")
    for table, models in (("attribution", 7), ("channels", 8)):
        sums = query(once, f"select model, sum(conversions), sum(revenue_base) from analytics.{table} group by model")
        assert len(sums) == models
        assert {tuple(rest) for _, *rest in sums} == {wanted}
    costs = query(once, "select model, sum(cost_base) from analytics.channels group by model")
    assert {cost for _, cost in costs} == {query(once, "select sum(cost_base) from cleaned.ads_spend")[0][0]}


def test_any_batches_give_the_same_credits(homes: tuple[Home, Home]) -> None:
    once, batches = homes
    for table in ("touchpoints", "conversions", "attribution", "transitions", "removal_effects", "channels"):
        assert present_rows(batches, table) == present_rows(once, table), table


def test_rows_of_touched_customers_that_say_the_same_keep_their_stamp(homes: tuple[Home, Home]) -> None:
    newest = "select max(_seq) from analytics.touched_customers"
    touched = f"select customer_id from analytics.touched_customers where _seq = ({newest})"
    for table in ("touchpoints", "conversions", "attribution"):
        kept, stamped = query(
            homes[1],
            f"select count(*) filter (_seq < last), count(*) filter (_seq = last) "
            f"from analytics.{table}, (select max(_seq) as last from analytics.{table}) where customer_id in ({touched})",
        )[0]
        assert kept > 0 and stamped > 0, table
