"""Sessions against a plain loop over each visitor's events, and the same for whatever batches they come in."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rows import build, land_lines

from dagster_project.lib.home import Home

START = datetime(2025, 3, 1, 20, tzinfo=UTC)
EARLIER = (START - timedelta(minutes=1)).isoformat()


def _events(chance: random.Random) -> list[dict]:
    """Visits of a few browsers, close enough together for every rule to matter; some log in, two browsers share one person."""
    events = []
    for browser in range(30):
        at = START + timedelta(minutes=chance.randrange(300))
        for number in range(chance.randrange(1, 12)):
            at += timedelta(seconds=chance.choice([0, 5, 60, 600, 1800, 1801, 5400]))
            event = {"event_id": f"b{browser}-{number}", "anonymous_id": f"browser-{browser}", "event_name": "page_viewed"}
            event |= {
                "occurred_at": at.isoformat(),
                "url": f"/{chance.randrange(3)}",
                "utc_offset": chance.choice(["+08:00", None]),
            }
            if chance.random() < 0.2:
                event["utm_source"] = chance.choice(["mail", "ads"])
            if chance.random() < 0.2:
                event["user_id"] = f"u{browser // 2}"
            events.append(event)
    return events


def _orders(events: list[dict], chance: random.Random) -> list[dict]:
    """Each a few minutes after a log-in, most of them within the idle time."""
    log_ins = [event for event in events if event.get("user_id")]
    return [
        {
            "order_id": f"o{number}",
            "ordered_at": (datetime.fromisoformat(log_in["occurred_at"]) + timedelta(minutes=chance.randrange(40))).isoformat(),
            "status": "paid",
            "amount": chance.randrange(1, 100),
            "currency": "CNY",
            "user_id": log_in["user_id"],
            "updated_at": (START - timedelta(days=1)).isoformat(),
        }
        for number, log_in in enumerate(chance.choices(log_ins, k=30))
    ]


def _corrections(events: list[dict], orders: list[dict], chance: random.Random) -> list[tuple[str, dict]]:
    """Records that come again, changed: events that turn out to be earlier and another browser's, orders to be another's."""
    moved = [
        {**event, "anonymous_id": f"browser-{chance.randrange(30)}", "occurred_at": EARLIER, "user_id": None}
        for event in chance.sample(events, len(events) // 10)
    ]
    given = [{**order, "user_id": "u0", "updated_at": EARLIER} for order in chance.sample(orders, 4)]
    return [("web/events", event) for event in moved] + [("orders/orders", order) for order in given]


def _sessions(home: Home) -> list[tuple]:
    """Customers by their oldest identifier: their ids depend on what was known before."""
    with home.connect("test") as connection:
        return connection.execute(
            """
            select sessions.* exclude (customer_id, _seq), min(assignments.node_id) as customer
            from unified.sessions as sessions left join identity.assignments as assignments using (customer_id)
            group by all order by all
            """
        ).fetchall()


def _places(home: Home) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(
            "select * exclude (previous_visitor_id, cut_from, _seq) from unified.session_events order by all"
        ).fetchall()


def _by_a_plain_loop(events: list[dict], at_midnight: bool) -> set[tuple[str, ...]]:
    """Event ids of each session, in order."""
    of_browser = defaultdict(list)
    for event in events:
        of_browser[event["anonymous_id"]].append((datetime.fromisoformat(event["occurred_at"]), event["event_id"], event))
    sessions, current = set(), []
    for visits in of_browser.values():
        last, day, source = None, None, None
        for at, event_id, event in sorted(visits, key=lambda visit: visit[:2]):
            today = (at + timedelta(hours=8 if event.get("utc_offset") else 0)).date()
            given = event.get("utm_source")
            is_cut = last is None or at - last > timedelta(minutes=30) or (at_midnight and today != day)
            if is_cut or (given and given != source):
                sessions.add(tuple(current))
                current, source = [], None
            current.append(f"web_events:{event_id}")
            last, day, source = at, today, given or source
        sessions.add(tuple(current))
        current = []
    return sessions - {()}


@pytest.mark.parametrize("at_midnight", [False, True])
def test_any_batches_give_the_sessions_of_a_plain_loop(at_midnight: bool, tmp_path: Path) -> None:
    chance = random.Random(20261122 + at_midnight)
    events = _events(chance)
    orders = _orders(events, chance)
    corrections = _corrections(events, orders, chance)
    rows = [("web/events", event) for event in events] + [("orders/orders", order) for order in orders[:-8]]
    # A browser loses its only event.
    only = {"event_id": "only", "anonymous_id": "browser-x", "event_name": "page_viewed", "occurred_at": START.isoformat()}
    rows.append(("web/events", only))
    corrections.append(("web/events", {**only, "anonymous_id": "browser-y", "occurred_at": EARLIER}))
    chance.shuffle(rows)
    chance.shuffle(corrections)
    # Two large batches, the first with corrections of what only the second brings; then small ones that touch few visitors,
    # the last with orders of people who did nothing else since.
    last = [("orders/orders", order) for order in orders[-8:]]
    half = len(rows) // 2
    parts = [rows[:half] + corrections[:4], rows[half:], corrections[4:-4], corrections[-4:] + last]

    homes = [Home(tmp_path / name).prepare() for name in ("once", "batches")]
    for home in homes:
        (home.path / "onefold.yaml").write_text(f"session_cut_at_midnight: {str(at_midnight).lower()}\n")
    once, batches = homes
    land_lines(once, "all", rows + corrections + last)
    build(once, "+unified_sessions", as_of=datetime(2026, 1, 1))
    for number, part in enumerate(parts):
        land_lines(batches, str(number), part)
        build(batches, "+unified_sessions", as_of=datetime(2026, 1, 1))

    # Of equal keys the earlier event is kept.
    kept: dict[str, dict] = {}
    sent = [event for to, event in rows + corrections if to == "web/events"]
    for event in sorted(sent, key=lambda event: datetime.fromisoformat(event["occurred_at"])):
        kept.setdefault(event["event_id"], event)
    with once.connect("test") as connection:
        found = connection.execute(
            "select list(event_id order by event_number) from unified.session_events group by session_id"
        ).fetchall()
        credited = connection.execute("select sum(order_count) from unified.sessions").fetchone()[0]
    assert {tuple(members) for (members,) in found} == _by_a_plain_loop(list(kept.values()), at_midnight)
    assert credited > 5
    assert _places(batches) == _places(once)
    assert _sessions(batches) == _sessions(once)
