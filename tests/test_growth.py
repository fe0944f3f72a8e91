"""Growth, cohorts, conversion, preferences and profiles against plain Python over each customer's events, and the same for
whatever batches the data comes in."""

import itertools
import random
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import median

import pytest
from rows import Row, build, land_lines, query

from dagster_project.lib.home import Home

START = datetime(2025, 3, 1, tzinfo=UTC)
AS_OF = datetime(2025, 10, 20, 12)
PRESENT = date(2025, 10, 1)
PEOPLE = 80
LOOKS = {"product_viewed", "product_added", "product_liked", "product_shared"}
INTERESTS = LOOKS | {"searched", "cart_viewed", "checkout_started"}
PURCHASES = {"order_placed", "store_purchase"}
NO_ACTS = {"email_sent", "email_delivered", "order_cancelled", "order_refunded"}
TERMS = ["shoes", " Ying ", "Bags", "once", "13800138000"]
RESTRICTED = {"expectant_mother", "sensitive_skin", "health_concern", "financial_concern"}
MODELS = ["growth", "cohorts", "conversion", "preferences", "profile"]
SELECTED = [f"+analytics_{model}" for model in MODELS]
SOURCES = [{}, {}, {"utm_source": "email", "utm_medium": "email"}, {"utm_source": "baidu", "utm_medium": "cpc"}]


def _rows(chance: random.Random) -> list[Row]:
    """People who come in bursts months apart, many of them anonymous until late or for ever; some clocks run ahead."""
    rows: list[Row] = [("catalog/products", _product(number)) for number in range(9)]
    for person in range(PEOPLE):
        known = {"user_id": f"u{person}"} if chance.random() < 0.7 else {}
        if known:
            contact = {"contact_id": f"c{person}", "email": _email(person), "updated_at": _at(0)} | known
            contact |= chance.choice([{}, {"gender": "female"}, {"gender": "male"}])
            contact |= chance.choice([{}, {"birth_date": f"{chance.randrange(1930, 2012)}-10-{chance.randrange(15, 25)}"}])
            rows.append(("crm/contacts", contact))
        at = chance.choice([0, chance.uniform(0, 120), chance.uniform(0, 240)])
        for number in range(chance.randrange(1, 25)):
            at += chance.choice([0, 0.001, 0.02, 0.02, 0.5, 5, 20, 50, 90])
            key = f"{person}-{number}"
            if at > 300:  # later than the test's now, but for a few
                if chance.random() < 0.8:
                    continue
                at = 310
            if chance.random() < 0.2 and known:
                rows += _order(key, at, known, chance)
            elif chance.random() < 0.1 and known:
                mail = {"event_id": f"m{key}", "event_name": chance.choice(["sent", "clicked"]), "email": _email(person)}
                rows.append(("email/events", mail | {"occurred_at": _at(at), "campaign_id": "spring"}))
            else:
                name = chance.choice(["page_viewed", "product_viewed", "product_viewed", "product_added", "searched", "login"])
                event = {"event_id": f"e{key}", "event_name": name, "occurred_at": _at(at), "anonymous_id": f"b{person}"}
                event |= {"product_id": f"p{chance.randrange(9)}"} if name in LOOKS else {}
                event |= {"search_term": chance.choices(TERMS, [9, 9, 9, 1, 1])[0]} if name == "searched" else {}
                event |= known if chance.random() < 0.5 else {}
                rows.append(("web/events", event | chance.choice(SOURCES)))
    worry = {"event_name": "searched", "search_term": "sensitive skin", "anonymous_id": "b-worry", "user_id": "u0"}
    rows += [("web/events", worry | {"event_id": f"worry-{day}", "occurred_at": _at(day)}) for day in (10, 90, 170, 171)]
    return rows


def _order(key: str, at: float, known: dict, chance: random.Random) -> list[Row]:
    order = {"order_id": f"o{key}", "status": "paid", "currency": "CNY", "amount": chance.randrange(100, 90_000) / 100} | known
    lines = [
        {"order_id": f"o{key}", "line_number": line, "product_id": f"p{product}", "quantity": 1 + product % 2, "unit_price": 10}
        for line, product in enumerate(chance.choices(range(9), k=chance.choice([1, 2, 3])))
    ]
    return [
        ("orders/orders", order | {"ordered_at": _at(at), "updated_at": _at(400)}),
        *(("orders/order_items", line) for line in lines),
    ]


def _corrections(rows: list[Row], chance: random.Random) -> list[Row]:
    """What comes later: log-ins that make browsers people's own and people one, orders that are another's or cancelled, late
    events, and what the catalogue says now."""
    orders = [order for place, order in rows if place == "orders/orders"]
    visits = [event for place, event in rows if place == "web/events"]
    taken, cancelled = chance.sample(orders, 5), chance.sample(orders, 6)
    late = [
        event | {"event_id": f"{event['event_id']}-late", "occurred_at": _at(chance.uniform(0, 230))}
        for event in chance.sample(visits, 12)
    ]
    named = [
        event | {"event_id": f"{event['event_id']}-login", "event_name": "login", "user_id": f"v{number}"}
        for number, event in enumerate(chance.sample([event for event in visits if "user_id" not in event], 8))
    ]
    changes = {"cost": 7, "category": "Boots", "updated_at": _at(403)}
    one = [
        ("crm/contacts", {"contact_id": f"c{person}", "email": _email(person + 1), "updated_at": _at(401)})
        for person in range(0, 12, 3)
    ]
    return (
        [("orders/orders", order | {"user_id": "u0", "updated_at": _at(401)}) for order in taken]
        + [("orders/orders", order | {"status": "cancelled", "updated_at": _at(402)}) for order in cancelled]
        + [("web/events", event) for event in late + named]
        + [("catalog/products", _product(number) | changes) for number in (1, 2)]
        + one
    )


def _product(number: int) -> dict:
    product = {"product_id": f"p{number}", "name": "Shoe", "price": 10, "currency": "CNY", "updated_at": _at(0)}
    product |= {"category": ["Shoes", "Socks", "Bags"][number % 3]} | ({"cost": 4} if number != 8 else {})
    return product | ({"brand": ["Ying", "Hong"][number % 2]} if number < 7 else {})


def _email(person: int) -> str:
    return f"person{person}@onefold-sample.com"


def _at(day: float) -> str:
    return (START + timedelta(days=day)).isoformat()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home]:
    """The same data built at once, and in three batches on three days, the last only with what corrects the others."""
    chance = random.Random(20261122)
    rows = _rows(chance)
    corrections = _corrections(rows, chance)
    shuffled = sorted(rows, key=lambda row: chance.random())
    half = len(rows) // 2
    once, batches = (Home(tmp_path_factory.mktemp(name) / "home").prepare() for name in ("once", "batches"))
    land_lines(once, "all", rows + corrections)
    build(once, *SELECTED, as_of=AS_OF)
    for number, part in enumerate([shuffled[:half], shuffled[half:], corrections]):
        land_lines(batches, str(number), part)
        build(batches, *SELECTED, as_of=AS_OF - timedelta(days=20 * (2 - number)))
    return once, batches


def _month(moment: datetime) -> date:
    return date(moment.year, moment.month, 1)


def _next(month: date, count: int = 1) -> date:
    number = month.year * 12 + month.month - 1 + count
    return date(number // 12, number % 12 + 1, 1)


def _months_until_now(first: date) -> list[date]:
    months = [first]
    while months[-1] < PRESENT:
        months.append(_next(months[-1]))
    return months


class _Customers:
    """What each customer did by month, as a plain loop over events, visits and purchases sees it."""

    def __init__(self, home: Home) -> None:
        self.known = dict(query(home, "select customer_id, is_known from unified.customers"))
        self.acts: dict[str, Counter[date]] = defaultdict(Counter)
        self.sessions: dict[str, Counter[date]] = defaultdict(Counter)
        self.orders: dict[str, dict[date, list[tuple[Decimal, Decimal | None]]]] = defaultdict(lambda: defaultdict(list))
        for customer, name, at in query(
            home, "select customer_id, event_name, occurred_at from unified.customer_events where customer_id is not null"
        ):
            if name not in NO_ACTS:
                self.acts[customer][_month(at)] += 1
        for customer, at in query(
            home, "select customer_id, started_at from unified.sessions where customer_id is not null and traffic = 'customer'"
        ):
            self.sessions[customer][_month(at)] += 1
        for customer, at, revenue, margin in query(
            home, "select customer_id, converted_at, revenue_base, margin_base from analytics.conversions"
        ):
            if customer:
                self.orders[customer][_month(at)].append((revenue, margin))

    def months(self, customer: str) -> set[date]:
        return set(self.acts.get(customer, ())) | set(self.sessions.get(customer, ()))

    def purchases(self, customer: str, month: date) -> list[tuple[Decimal, Decimal | None]]:
        return self.orders.get(customer, {}).get(month, [])

    def population(self, name: str) -> dict[str, set[date]]:
        """The months in which each customer belonged to it."""
        of = {customer: self.months(customer) for customer in self.known if name != "known" or self.known[customer]}
        if name == "buyers":
            of = {customer: set(months) for customer, months in self.orders.items()}
        return {customer: months for customer, months in of.items() if months}


def _total(amounts: list[Decimal | None]) -> Decimal | None:
    return None if None in amounts else sum(amounts, Decimal(0))


def _rate(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else pytest.approx(float(part) / float(whole))


def test_customer_months_are_those_of_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    customers = _Customers(once)
    wanted = {}
    for customer, known in customers.known.items():
        for month in customers.months(customer):
            bought = customers.purchases(customer, month)
            wanted[customer, month] = (
                known,
                customers.acts[customer][month],
                customers.sessions[customer][month],
                len(bought),
                sum((revenue for revenue, _ in bought), Decimal(0)),
                _total([margin for _, margin in bought]),
            )
    rows = query(
        once,
        "select customer_id, month, is_known, act_count, session_count, order_count, revenue_base, margin_base "
        "from analytics.customer_months",
    )
    assert {row[:2]: row[2:] for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert {known for known, *_ in wanted.values()} == {True, False}
    assert any(margin is None for *_, margin in wanted.values())
    assert any(month > PRESENT for _, month in wanted)


def test_growth_is_that_of_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    customers = _Customers(once)
    calendar = _months_until_now(min(min(months) for months in customers.population("everybody").values()))
    wanted = {}
    for name in ("everybody", "known", "buyers"):
        population = customers.population(name)
        for month in calendar:
            now = {customer for customer, months in population.items() if month in months}
            before = {customer for customer, months in population.items() if _next(month, -1) in months}
            ever = {customer for customer, months in population.items() if min(months) < month}
            partial = month == PRESENT
            bought = [amounts for customer in now for amounts in customers.purchases(customer, month)]
            lost = None if partial else len(before - now)
            wanted[name, month] = (
                partial,
                len(now),
                len(now - ever),
                len(now & before),
                len((now & ever) - before),
                lost,
                None if partial else _rate(len(now & before), len(before)),
                _rate(lost, len(before)),
                None if partial else _rate(len(now) - len(before), len(before)),
                _rate(len(now - before), lost),
                len(bought),
                sum((revenue for revenue, _ in bought), Decimal(0)),
                _total([margin for _, margin in bought]),
            )
    rows = query(
        once,
        "select population, month, is_partial, customer_count, new_count, retained_count, reactivated_count, lost_count, "
        "retention_rate, churn_rate, growth_rate, quick_ratio, order_count, revenue_base, margin_base from analytics.growth",
    )
    assert {row[:2]: row[2:] for row in rows} == wanted
    assert len(rows) == len(wanted) == 3 * 8
    assert sum(row[6] for row in rows) > 20  # reactivated
    for name in ("everybody", "known", "buyers"):  # who is there now was there before, or came
        counts = [row[3:8] for row in sorted(rows) if row[0] == name]
        for (before, *_), (now, new, _, reactivated, lost) in itertools.pairwise(counts):
            assert lost is None or now == before + new + reactivated - lost


def test_cohorts_are_those_of_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    customers = _Customers(once)
    wanted = {}
    for kind, name in {"acquired": "everybody", "acquired_known": "known", "purchased": "buyers"}.items():
        population = customers.population(name)
        for cohort in {min(months) for months in population.values() if min(months) <= PRESENT}:
            members = [customer for customer, months in population.items() if min(months) == cohort]
            so_far: list[tuple[Decimal, Decimal | None]] = []
            for since, month in enumerate(_months_until_now(cohort)):
                bought = [amounts for customer in members for amounts in customers.purchases(customer, month)]
                so_far += bought
                active, partial = sum(month in population[customer] for customer in members), month == PRESENT
                revenue = sum((revenue for revenue, _ in so_far), Decimal(0))
                wanted[kind, cohort, since] = (
                    month,
                    partial,
                    len(members),
                    active,
                    None if partial else _rate(active, len(members)),
                    len(bought),
                    sum((revenue for revenue, _ in bought), Decimal(0)),
                    revenue,
                    None if partial else _rate(revenue, len(members)),
                    None if partial else _rate(_total([margin for _, margin in so_far]), len(members)),
                )
    rows = query(
        once,
        "select cohort_kind, cohort_month, months_since, month, is_partial, cohort_size, active_count, retention_rate, "
        "order_count, revenue_base, cumulative_revenue_base, cumulative_revenue_per_customer, cumulative_margin_per_customer "
        "from analytics.cohorts",
    )
    assert {row[:3]: row[3:] for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert any(active == 0 and not partial for _, partial, _, active, *_ in wanted.values())


def test_visitors_are_converted_as_a_plain_loop_says(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    known = dict(query(once, "select customer_id, is_known from unified.customers"))
    first: dict[str, tuple] = {}
    for customer, *touchpoint in query(
        once, "select customer_id, occurred_at, touchpoint_id, channel_group from analytics.touchpoints order by all"
    ):
        first.setdefault(customer, tuple(touchpoint))
    acts = defaultdict(list)
    for customer, name, at in query(
        once, "select customer_id, event_name, occurred_at from unified.customer_events order by occurred_at"
    ):
        if customer in first and at >= first[customer][0]:
            acts[customer].append((at, name))
    views = defaultdict(list)
    for customer, (at, _, group) in first.items():
        if at <= AS_OF:
            engaged = any(name in INTERESTS for _, name in acts[customer])
            bought = [when - at for when, name in acts[customer] if name in PURCHASES]
            for view in ("(all)", group):
                views[_month(at), view].append((known[customer], engaged, bought))
    wanted = {}
    for (month, group), inside in views.items():
        waits = [bought[0] / timedelta(days=1) for _, _, bought in inside if bought]
        due = datetime.combine(_next(month), datetime.min.time()) + timedelta(days=30) <= AS_OF
        soon = sum(wait <= 30 for wait in waits)
        again = sum(len(bought) > 1 for _, _, bought in inside)
        wanted[month, group] = (
            month == PRESENT,
            len(inside),
            sum(is_known for is_known, _, _ in inside),
            sum(engaged for _, engaged, _ in inside),
            len(waits),
            again,
            _rate(sum(is_known for is_known, _, _ in inside), len(inside)),
            _rate(sum(engaged for _, engaged, _ in inside), len(inside)),
            _rate(len(waits), len(inside)),
            _rate(again, len(waits)),
            soon if due else None,
            _rate(soon, len(inside)) if due else None,
            pytest.approx(median(waits)) if waits else None,
        )
    rows = query(
        once,
        "select month, channel_group, is_partial, visitor_count, known_count, engaged_count, buyer_count, repeat_buyer_count, "
        "known_rate, engaged_rate, buyer_rate, repeat_rate, buyer_30_day_count, buyer_30_day_rate, median_days_to_purchase "
        "from analytics.conversion",
    )
    assert {row[:2]: row[2:] for row in rows} == wanted
    assert len(rows) == len(wanted)
    total = {row[0]: row[3] for row in rows if row[1] == "(all)"}
    assert total == dict(Counter(_month(at) for at, _, _ in first.values() if at <= AS_OF))
    assert sum(row[7] for row in rows) > 5 and any(0 < row[4] < row[3] for row in rows)


def test_preferences_are_those_of_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    catalogue = {
        product: {"category": category, "brand": brand}
        for product, category, brand in query(once, "select product_id, category, brand from cleaned.catalog_products")
    }
    named = {(kind, value.lower()): value for product in catalogue.values() for kind, value in product.items() if value}
    looks, searches, buys = Counter(), Counter(), defaultdict(list)
    shopped = set()
    for customer, name, at, product, term in query(
        once, "select customer_id, event_name, occurred_at, product_id, search_term from unified.customer_events"
    ):
        if customer and name in LOOKS and product:
            for kind, value in catalogue[product].items():
                looks[_month(at), kind, value, customer] += 1
        if customer and name in PURCHASES:
            shopped.add((_month(at), customer))
        if customer and name == "searched":
            text = term.strip().lower()
            searches[_month(at), "search_term", text, customer] += 1
            for kind in ("category", "brand"):
                if (kind, text) in named:
                    searches[_month(at), kind, named[kind, text], customer] += 1
    for customer, name, at, product, quantity, amount in query(
        once, "select customer_id, event_name, occurred_at, product_id, quantity, amount_base from unified.purchases"
    ):
        if customer and name in PURCHASES:
            for kind, value in catalogue[product].items():
                buys[_month(at), kind, value, customer].append((quantity, amount))
    wanted = {}
    for month, kind, value in {key[:3] for key in (*looks, *searches, *buys)}:
        here = [{key[3] for key in keys if key[:3] == (month, kind, value)} for keys in (looks, searches, buys)]
        viewers, searchers, buyers = here
        if kind == "search_term":
            buyers = {customer for customer in searchers if (month, customer) in shopped}
        lines = [line for customer in buyers for line in buys.get((month, kind, value, customer), [])]
        if month > PRESENT or value is None or (kind == "search_term" and len(searchers) < 5):
            continue
        wanted[month, kind, value] = (
            month == PRESENT,
            len(viewers),
            len(searchers),
            len(buyers),
            sum(looks[month, kind, value, customer] for customer in viewers),
            sum(searches[month, kind, value, customer] for customer in searchers),
            None if kind == "search_term" else sum(quantity for quantity, _ in lines),
            None if kind == "search_term" else sum(amount for _, amount in lines),
            _rate(len(viewers & buyers), len(viewers)),
            _rate(len(searchers & buyers), len(searchers)),
        )
    rows = query(
        once,
        "select month, kind, value, is_partial, viewer_count, searcher_count, buyer_count, view_count, search_count, units, "
        "revenue_base, viewer_conversion_rate, searcher_conversion_rate from analytics.preferences",
    )
    assert {row[:3]: row[3:] for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert Counter(kind for _, kind, _ in wanted).keys() == {"category", "brand", "search_term"}
    assert {value for _, _, value in wanted} >= {"Boots", "Ying"}
    assert any(searchers and kind == "brand" for (_, kind, _), (_, _, searchers, *_) in wanted.items())


def _age_band(born: date | None) -> str:
    if born is None:
        return "(none)"
    today = AS_OF.date()
    age = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    bands = [(17, "under 18"), (24, "18-24"), (34, "25-34"), (44, "35-44"), (54, "45-54"), (64, "55-64"), (120, "65+")]
    return next(name for most, name in bands if age <= most)


def test_profiles_are_those_of_a_plain_loop(homes: tuple[Home, Home]) -> None:
    once, _ = homes
    people = {
        customer: (orders > 0, revenue, {"gender": gender or "(none)", "age_band": _age_band(born), "loyalty_tier": "(none)"})
        for customer, gender, born, orders, revenue in query(
            once, "select customer_id, gender, birth_date, order_count, revenue_base from unified.customers where is_known"
        )
    }
    for customer, tag, value in query(once, "select customer_id, tag, value from tags.customer_tags"):
        if customer in people:
            people[customer][2][tag] = value
    assert any("sensitive_skin" in values for *_, values in people.values())
    buyers, revenue = sum(bought for bought, *_ in people.values()), sum(spent for _, spent, _ in people.values())
    wanted = {}
    for dimension in {name for *_, values in people.values() for name in values} - RESTRICTED - {"loyalty_tier"}:
        groups = defaultdict(list)
        for bought, spent, values in people.values():
            groups[values.get(dimension, "(none)")].append((bought, spent))
        common = sorted(set(groups) - {"(none)"}, key=lambda value: (-len(groups[value]), value))
        for value in common[30:]:
            groups["(other)"] += groups.pop(value)
        for value, group in groups.items():
            bought, spent = sum(bought for bought, _ in group), sum(spent for _, spent in group)
            wanted[dimension, value] = (
                len(group),
                _rate(len(group), len(people)),
                bought,
                _rate(bought, len(group)),
                _rate(100 * bought * len(people), len(group) * buyers),
                spent,
                _rate(spent, revenue),
                _rate(spent, len(group)),
                _rate(100 * spent * len(people), len(group) * revenue),
            )
    rows = query(
        once,
        "select dimension, value, customer_count, share, buyer_count, buyer_rate, buyer_index, revenue_base, revenue_share, "
        "revenue_per_customer, revenue_index from analytics.profile where measured_on = "
        f"'{AS_OF.date()}' and dimension <> 'loyalty_tier'",
    )
    assert {row[:2]: row[2:] for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert {dimension for dimension, _ in wanted} >= {"gender", "age_band", "value_tier", "lifecycle", "preferred_channel"}
    assert len({value for dimension, value in wanted if dimension == "age_band"}) > 5


def test_any_batches_give_the_same_tables(homes: tuple[Home, Home]) -> None:
    """Customers by their oldest identifier: their ids depend on what was known before."""

    def of(home: Home, table: str) -> list[tuple]:
        names = [name for name, *_ in query(home, f"describe analytics.{table}")]
        ours = ("customer_id", "customer_month_id", "interest_id", "_seq")
        columns = [f"t.{name}" for name in names if name not in ours]
        source = f"analytics.{table} as t"
        if "customer_id" in names:
            columns.append("who")
            source += " join (select customer_id, min(node_id) as who from identity.assignments group by 1) using (customer_id)"
        if "measured_on" in names:
            source += f" where measured_on = '{AS_OF.date()}'"
        return query(home, f"select {', '.join(columns)} from {source} order by all")

    once, batches = homes
    per_customer = ("customer_months", "customer_interests", "visitors")
    for table in (*per_customer, *MODELS):
        assert of(batches, table) == of(once, table), table
        assert of(once, table)


def test_a_profile_of_each_day_is_kept(homes: tuple[Home, Home]) -> None:
    _, batches = homes
    days = [AS_OF.date() - timedelta(days=40), AS_OF.date() - timedelta(days=20), AS_OF.date()]
    measured = "select measured_on, sum(customer_count) from analytics.profile where dimension = 'lifecycle' group by 1"
    counts = dict(query(batches, measured))
    assert sorted(counts) == days
    assert (
        [(counts[days[2]],)] == query(batches, "select count(*) from unified.customers where is_known") != [(counts[days[1]],)]
    )
