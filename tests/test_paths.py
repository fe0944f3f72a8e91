"""Funnels, paths and associations against plain Python loops over each customer's events, and the same for whatever batches the
data comes in; and funnels that are declared wrongly."""

import itertools
import random
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
from rows import Row, build, land_lines, present_rows, query

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.funnels import load_funnels
from dagster_project.lib.home import Home

START = datetime(2025, 3, 1, 8, tzinfo=UTC)
AS_OF = datetime(2025, 5, 20)
PEOPLE = 40
WINDOW = timedelta(days=3)
LEAST = 2  # paths that a sequence has to have
FUNNELS = """
purchase: null
loose: &buying
  window_days: 3
  segment: first_channel
  steps:
    - {name: looked, events: product_viewed}
    - {name: put into the cart, events: [product_added]}
    - {name: began to pay, events: checkout_started, where: {channel: web}}
    - {name: bought, events: [order_placed, store_purchase]}
strict: {<<: *buying, order: strict}
again:
  window_days: 3
  steps:
    - {name: bought, events: order_placed}
    - {name: bought again, events: order_placed}
"""
STEPS = {
    "loose": [{"product_viewed"}, {"product_added"}, {"checkout_started"}, {"order_placed", "store_purchase"}],
    "again": [{"order_placed"}, {"order_placed"}],
}
STEPS["strict"] = STEPS["loose"]
NO_ACTS = {"email_sent", "order_cancelled", "order_refunded"}


def _rows(chance: random.Random) -> list[Row]:
    """A few people who look, buy and search in bursts; some at the same second, some on the browser of another."""
    rows: list[Row] = [("catalog/products", _product(number)) for number in range(8)]
    for person in range(PEOPLE):
        known = {"user_id": f"u{person}"}
        contact = {"contact_id": f"c{person}", "email": f"person{person}@onefold-sample.com", "updated_at": _at(0)}
        rows.append(("crm/contacts", contact | known))
        at = chance.uniform(0, 20)
        for number in range(chance.randrange(10, 70)):
            at += chance.choice([0, 0, 0.002, 0.002, 0.002, 0.01, 0.1, 1, 2.5, 4, 9])
            kind, key = chance.random(), f"{person}-{number}"
            if kind < 0.15:
                order = {"order_id": f"o{key}", "status": "paid", "currency": "CNY", "amount": chance.randrange(1, 900)}
                rows.append(("orders/orders", order | known | {"ordered_at": _at(at), "updated_at": _at(100)}))
                rows += [
                    (
                        "orders/order_items",
                        {
                            "order_id": f"o{key}",
                            "line_number": line,
                            "product_id": f"p{product}",
                            "quantity": 1,
                            "unit_price": 10,
                        },
                    )
                    for line, product in enumerate(chance.choices(range(8), k=chance.choice([1, 2, 3, 4])))
                ]
            else:
                names = ["page_viewed", "product_viewed", "product_added", "product_added", "checkout_started", "searched"]
                event = {"event_id": f"e{key}", "event_name": chance.choice(names), "occurred_at": _at(at)} | known
                if chance.random() < 0.85:
                    browser = person if chance.random() < 0.9 else person // 2
                    source = {"utm_source": "email", "utm_medium": "email"} if chance.random() < 0.2 else {}
                    rows.append(("web/events", event | {"anonymous_id": f"b{browser}"} | source))
                else:
                    rows.append(("app/events", event | {"device_id": f"d{person}"}))
    return rows


def _corrections(rows: list[Row], chance: random.Random) -> list[Row]:
    """What comes later: orders that are another's or cancelled, and late events of whoever logs in on a browser."""
    orders = [order for place, order in rows if place == "orders/orders"]
    visits = [event for place, event in rows if place == "web/events"]
    given = [order | {"user_id": "u0", "updated_at": _at(101)} for order in chance.sample(orders, 5)]
    cancelled = [order | {"status": "cancelled", "updated_at": _at(102)} for order in chance.sample(orders, 5)]
    late = [
        event | {"event_id": f"{event['event_id']}-late", "user_id": f"u{chance.randrange(PEOPLE)}"}
        for event in chance.sample(visits, 8)
    ]
    return [("orders/orders", order) for order in given + cancelled] + [("web/events", event) for event in late]


def _product(number: int) -> dict:
    product = {"product_id": f"p{number}", "name": "Shoe", "category": f"kind {number % 3}", "price": 10, "currency": "CNY"}
    return product | {"updated_at": _at(0)}


def _at(day: float) -> str:
    return (START + timedelta(days=day)).replace(microsecond=0).isoformat()


MODELS = ("funnels", "path_steps", "paths", "associations")
SELECTED = [f"+analytics_{model}" for model in MODELS]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home]:
    """The same data built at once, and in two batches, the later with what corrects the former."""
    chance = random.Random(20261122)
    rows = _rows(chance)
    corrections = _corrections(rows, chance)
    shuffled = sorted(rows, key=lambda row: chance.random())
    once, batches = (Home(tmp_path_factory.mktemp(name) / "home").prepare() for name in ("once", "batches"))
    for home in (once, batches):
        (home.path / "funnels.yaml").write_text(FUNNELS)
    land_lines(once, "all", rows + corrections)
    build(once, *SELECTED, as_of=AS_OF, path_least_count=LEAST)
    for number, part in enumerate([shuffled[: len(rows) * 2 // 3], shuffled[len(rows) * 2 // 3 :] + corrections]):
        land_lines(batches, str(number), part)
        build(batches, *SELECTED, as_of=AS_OF, path_least_count=LEAST)
    return once, batches


def _timelines(home: Home) -> dict[str, list[tuple]]:
    """What each customer did, in order: time, id, channel, event."""
    timelines = defaultdict(list)
    for customer, *event in query(
        home,
        "select customer_id, occurred_at, event_id, channel, event_name from unified.customer_events "
        "where customer_id is not null and coalesce(traffic, 'customer') = 'customer' order by occurred_at, event_id",
    ):
        timelines[customer].append(tuple(event))
    return timelines


def _fits(funnel: str, step: int, channel: str, name: str) -> bool:
    return name in STEPS[funnel][step] and (name != "checkout_started" or channel == "web")


def _attempts(funnel: str, timeline: list[tuple]) -> list[list[tuple]]:
    """Stretches of acts (time, id, step); of a moment earlier steps come first, of an event later ones."""
    count = len(STEPS[funnel])
    acts = []
    for at, event, channel, name in timeline:
        first = min((step for step in range(count) if name in STEPS[funnel][step]), default=None)
        acts += [(at, first, event, -step) for step in range(count) if _fits(funnel, step, channel, name)]
    attempts: list[list[tuple]] = []
    for at, _, event, step in sorted(acts):
        before = attempts[-1][-1] if attempts else None
        if before is None or before[2] == count - 1 or at > before[0] + WINDOW:
            attempts.append([])
        attempts[-1].append((at, event, -step))
    return attempts


def _entries(funnel: str, timeline: list[tuple]) -> list[tuple[str, list[datetime]]]:
    """The event that each entry began with, and when each step was reached."""
    entries = []
    for attempt in _attempts(funnel, timeline):
        best: tuple[str, list[datetime]] | None = None
        for start, (begun, event, step) in enumerate(attempt):
            if step != 0:
                continue
            times, last = [begun], 0
            for at, _, next_step in attempt[start + 1 :]:
                if at > begun + WINDOW or last == len(STEPS[funnel]) - 1:
                    break
                if next_step == last + 1:
                    times.append(at)
                    last += 1
                elif funnel != "loose" and next_step != last:
                    break
            if best is None or len(times) > len(best[1]):
                best = event, times
        if best:
            entries.append(best)
    return entries


def test_funnel_entries_are_those_of_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    wanted = {
        (funnel, customer, times[0], tuple(times))
        for customer, timeline in _timelines(once).items()
        for funnel in STEPS
        for _, times in _entries(funnel, timeline)
    }
    rows = query(once, "select funnel, customer_id, step_1_at, step_2_at, step_3_at, step_4_at from analytics.funnel_entries")
    found = [(funnel, customer, times[0], tuple(filter(None, times))) for funnel, customer, *times in rows]
    assert len(found) == sum(len(_entries(funnel, timeline)) for timeline in _timelines(once).values() for funnel in STEPS)
    assert set(found) == wanted
    reached = Counter((funnel, len(times)) for funnel, *_, times in found)
    assert min(reached[funnel, len(steps)] for funnel, steps in STEPS.items()) >= 3, reached
    assert reached["loose", 4] > reached["strict", 4]


def test_funnel_steps_are_counted_as_in_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    groups = dict(
        query(once, "select funnel || customer_id || step_1_at, min(channel_group) from analytics.funnel_entries group by 1")
    )
    segment_of = dict(query(once, "select customer_id, value from tags.customer_tags where tag = 'first_channel'"))
    entries = defaultdict(list)
    for customer, timeline in _timelines(once).items():
        for funnel, (_, times) in ((f, entry) for f in STEPS for entry in _entries(f, timeline)):
            segments = ["(all)"] if funnel == "again" else ["(all)", segment_of.get(customer, "(none)")]
            for group, segment in itertools.product(["(all)", groups[f"{funnel}{customer}{times[0]}"]], segments):
                entries[funnel, group, segment].append((customer, times))
    wanted = {}
    for (funnel, group, segment), inside in entries.items():
        for step in range(1, len(STEPS[funnel]) + 1):
            here = [(customer, times) for customer, times in inside if len(times) >= step]
            before = sum(len(times) >= max(step - 1, 1) for _, times in inside)
            stopped = [times for _, times in here if len(times) == step < len(STEPS[funnel])]
            waits = [(times[step - 1] - times[step - 2]).total_seconds() for _, times in here] if step > 1 else []
            wanted[funnel, group, segment, step] = (
                len(inside),
                len(here),
                len({customer for customer, _ in here}),
                pytest.approx(len(here) / before) if before else None,
                pytest.approx(len(here) / len(inside)),
                sum(times[0] + WINDOW < AS_OF for times in stopped),
                sum(times[0] + WINDOW >= AS_OF for times in stopped),
                pytest.approx(median(waits)) if waits else None,
            )
    rows = query(
        once,
        "select funnel, channel_group, segment_value, step, entry_count, reached_count, customer_count, conversion_rate, "
        "share, abandoned_count, open_count, median_seconds from analytics.funnels",
    )
    assert {tuple(row[:4]): tuple(row[4:]) for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert len({key[1] for key in wanted}) > 3 and len({key[2] for key in wanted}) > 2
    assert any(counts[6] for counts in wanted.values())


def _paths(home: Home, pause: timedelta) -> list[tuple[str, list[str], set[str]]]:
    """Customer, steps with repetitions as one, and names of events of each path."""
    paths: list[tuple[str, list[str], set[str]]] = []
    for customer, timeline in _timelines(home).items():
        last = None
        for at, _, channel, name in timeline:
            if name in NO_ACTS:
                continue
            if last is None or at > last + pause:
                paths.append((customer, [], set()))
            if not paths[-1][1] or paths[-1][1][-1] != f"{channel} {name}":
                paths[-1][1].append(f"{channel} {name}")
            paths[-1][2].add(name)
            last = at
    return paths


SCOPES = {"visit": timedelta(minutes=30), "episode": timedelta(days=7)}


@pytest.mark.parametrize("scope", SCOPES)
def test_edges_and_sequences_are_those_of_a_plain_loop(homes: tuple[Home, Home], scope: str) -> None:
    once, _ = homes
    paths = _paths(once, SCOPES[scope])
    edges, who, sequences, ended = Counter(), defaultdict(set), Counter(), Counter()
    for customer, steps, _ in paths:
        for place, (origin, target) in enumerate(itertools.pairwise([*steps, "(end)"][:6]), start=1):
            edges[place, origin, target] += 1
            who[place, origin, target].add(customer)
        for length in range(1, min(len(steps), 5) + 1):
            sequences[" > ".join(steps[:length])] += 1
            ended[" > ".join(steps[:length])] += length == len(steps)
    at = Counter()
    for (place, origin, _), count in edges.items():
        at[place, origin] += count
    rows = query(
        once,
        "select step_number, from_step, to_step, path_count, customer_count, share "
        f"from analytics.path_steps where scope = '{scope}'",
    )
    assert {row[:3]: row[3:] for row in rows} == {
        edge: (count, len(who[edge]), pytest.approx(count / at[edge[:2]])) for edge, count in edges.items()
    }
    rows = query(
        once,
        f"select sequence, path_count, share, ended_count, drop_off from analytics.paths where scope = '{scope}'",
    )
    assert {row[0]: row[1:] for row in rows} == {
        sequence: (count, pytest.approx(count / len(paths)), ended[sequence], pytest.approx(ended[sequence] / count))
        for sequence, count in sequences.items()
        if count >= LEAST
    }
    assert max(sequence.count(">") for sequence, *_ in rows) >= 2


def test_rules_are_those_of_a_plain_loop_over_all_baskets(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    baskets = defaultdict(list)
    bought = defaultdict(set)
    for event, product, category in query(
        once, "select event_id, product_id, category from unified.purchases where event_name = 'order_placed'"
    ):
        bought["products", event].add(product)
        bought["categories", event].add(category)
    for (kind, _), items in bought.items():
        baskets[kind].append(items)
    for _, _, names in _paths(once, SCOPES["visit"]):
        baskets["behaviours"].append(names if "order_placed" in names else names | {"no purchase"})
    wanted = {}
    for kind, sets in baskets.items():
        counts = Counter(item for items in sets for item in items)
        for one, other in itertools.permutations(counts, 2):
            both = sum({one, other} <= items for items in sets)
            if both >= 5:
                confidence = both / counts[one]
                lift = confidence / (counts[other] / len(sets))
                wanted[kind, one, other] = (both, *map(pytest.approx, (both / len(sets), confidence, lift)))
    rows = query(once, "select kind, antecedent, consequent, pair_count, support, confidence, lift from analytics.associations")
    assert {row[:3]: row[3:] for row in rows} == wanted
    assert Counter(kind for kind, *_ in wanted).keys() == {"products", "categories", "behaviours"}
    assert ("behaviours", "searched", "no purchase") in wanted


def test_any_batches_give_the_same_tables(homes: tuple[Home, Home]) -> None:
    once, batches = homes
    for table in ("funnel_entries", "customer_steps", *MODELS):
        assert present_rows(batches, table) == present_rows(once, table), table


TWO = "steps: [{name: a, events: page_viewed}, {name: b, events: [searched]}]"
WRONG = {
    "one step": ("buy: {steps: [{name: a, events: searched}]}", "buy.steps", "at least 2 items"),
    "no such key": ("buy: {window: 3, " + TWO + "}", "buy.window", "docs/analysis.md shows every key"),
    "no such tag": ("buy: {segment: value_teir, " + TWO + "}", "buy.segment", "there is no tag 'value_teir'; there are "),
    "no such column": (
        "buy: {steps: [{name: a, events: searched, where: {email: x}}, {name: b, events: searched}]}",
        "buy.steps.0.where",
        "there is no column 'email' to ask; there are channel, ",
    ),
    "a quote": (
        'buy: {steps: [{name: a, events: searched, where: {search_term: "men\'s"}}, {name: b, events: searched}]}',
        "buy.steps.0.where",
        "no quotes and no backslashes",
    ),
    "name of a tracker": (
        "buy: {steps: [{name: a, events: Product Viewed}, {name: b, events: x}]}",
        "buy.steps.0",
        "snake case",
    ),
    "twice the same name": (
        "buy: {steps: [{name: a, events: x}, {name: a, events: y}]}",
        "buy.steps",
        "two steps are named 'a'",
    ),
    "name of the funnel": ("Buy it: {" + TWO + "}", "Buy it", "lower case with underscores"),
    "nothing to drop": ("bye: null", "bye", "there is no such funnel to drop; shipped are purchase"),
    "no mapping": ("- buy", "funnels.yaml", "expected one entry a funnel"),
    "bad syntax": ("buy: {", "funnels.yaml", "not valid YAML"),
}


@pytest.mark.parametrize("text, key, remedy", WRONG.values(), ids=WRONG)
def test_a_wrong_funnel_names_file_key_and_remedy(tmp_path, text: str, key: str, remedy: str) -> None:
    home = Home(tmp_path).prepare()
    (home.path / "funnels.yaml").write_text(text)
    with pytest.raises(OnefoldError, match=re.escape(key)) as caught:
        load_funnels(home, {"value_tier"})
    assert str(home.path / "funnels.yaml") in str(caught.value)
    assert remedy in str(caught.value)


def test_a_home_adds_replaces_and_drops_funnels(tmp_path) -> None:
    home = Home(tmp_path).prepare()
    assert list(load_funnels(home, {"value_tier"})) == ["purchase"]
    file = home.path / "funnels.yaml"
    file.write_text("search: {" + TWO + "}")
    assert list(load_funnels(home, {"value_tier"})) == ["purchase", "search"]
    file.write_text("purchase: {window_days: 30, " + TWO + "}")
    assert load_funnels(home, {"value_tier"})["purchase"].window_days == 30
    file.write_text("purchase: null")
    assert load_funnels(home, {"value_tier"}) == {}
