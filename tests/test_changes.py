"""What changes after it was first built: records, rates, settings. Each step is a load and a build, as a refresh does them."""

from datetime import datetime
from pathlib import Path

import pytest
from rows import land_rows

from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.rejected import replay
from dagster_project.lib.settings import Settings

MODELS = ("--exclude-resource-type", "unit_test", "test")


def _build(home: Home, *arguments: str, **variables: object) -> None:
    for channel in load_channels(home).values():
        ingest_channel(home, channel, Settings.of(home))
    given = arguments or ("build", *MODELS)
    result = dbt.run(home, list(given), as_of=datetime(2026, 1, 1), variables=variables)
    assert result.success, dbt.failures(result)


def _rows(home: Home, query: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(query).fetchall()


def _order(number: str, **fields: object) -> dict:
    return {
        "order_id": number,
        "ordered_at": "2025-03-01T00:00:00Z",
        "status": "paid",
        "amount": 10,
        "currency": "CNY",
        **fields,
    }


def test_an_order_that_loses_its_customer_leaves_the_customer_too(home: Home) -> None:
    land_rows(home, "orders/orders/a.csv", [_order(o, email=f"{o}@example.com", updated_at="2025-03-01") for o in ("o1", "o2")])
    _build(home)
    assert _rows(home, "select count(*) from unified.customers where order_count = 1") == [(2,)]
    land_rows(home, "orders/orders/b.csv", [_order("o1", email="", updated_at="2025-03-02")])
    _build(home)
    assert _rows(home, "select customer_id from unified.customer_events where record_id = 'o1'") == [(None,)]
    assert _rows(home, "select email, order_count from unified.customers") == [("o2@example.com", 1)]
    assert _rows(home, "select kind from identity.changes where identifier_value = 'o1@example.com' order by _seq") == [
        ("created",),
        ("retired",),
    ]


def test_a_customer_left_while_identity_went_ahead_of_the_rest_is_worked_out_anew(home: Home) -> None:
    def corrected(email: str, day: int) -> None:
        row = _order("o1", email=email, updated_at=f"2025-03-{day:02}")
        land_rows(home, f"orders/orders/{day}.csv", [row, _order(f"of {email}", email=email, updated_at="2025-03-01")])

    corrected("one@example.com", 1)
    _build(home)
    for day, email in ((2, "two@example.com"), (3, "three@example.com")):  # as when a suite stops a refresh between its steps
        corrected(email, day)
        _build(home, "build", *MODELS, "--select", "path:models/cleaned", "path:models/identity")
    _build(home)
    orders = "select email, order_count from unified.customers order by email"
    assert _rows(home, orders) == [("one@example.com", 1), ("three@example.com", 2), ("two@example.com", 1)]


def test_a_full_rebuild_parts_what_only_a_corrected_record_had_joined(home: Home) -> None:
    together = {"contact_id": "k1", "user_id": "u1", "email": "one@example.com", "updated_at": "2025-01-01"}
    land_rows(home, "crm/contacts/a.csv", [together])
    land_rows(home, "orders/orders/a.csv", [_order("o1", user_id="u1")])
    _build(home)
    assert _rows(home, "select count(*) from unified.customers") == [(1,)]
    land_rows(home, "crm/contacts/b.csv", [{**together, "user_id": "", "email": "", "updated_at": "2025-02-01"}])
    for channel in load_channels(home).values():
        ingest_channel(home, channel, Settings.of(home))
    _build(home, "build", *MODELS, "--full-refresh")
    members = _rows(home, "select list(node_id order by node_id) from identity.assignments group by customer_id order by 1")
    assert members == [(["contact_id:k1"],), (["user_id:u1"],)]
    assert _rows(home, "select count(*) from unified.customers") == [(2,)]


def test_identifiers_are_as_if_a_withdrawn_version_had_never_been_seen(home: Home, tmp_path: Path) -> None:
    first = {"contact_id": "k1", "email": "old@example.com", "created_at": "2020-01-01", "updated_at": "2025-01-01"}
    second = {**first, "email": "new@example.com", "updated_at": "2025-02-01"}
    mail = {"event_id": "m1", "event_name": "sent", "occurred_at": "2025-01-05T00:00:00Z", "email": "old@example.com"}
    at_once = Home(tmp_path / "at_once").prepare()
    for place in (home, at_once):
        land_rows(place, "email/events/a.csv", [mail])
        land_rows(place, "crm/contacts/a.csv", [first])
    _build(home)
    for place in (home, at_once):
        land_rows(place, "crm/contacts/b.csv", [second])
        _build(place)
    for table in ("nodes where record_count > 0", "edges where is_active"):
        query = f"select columns(c -> c not in ('_seq', '_first_seq')) from identity.{table} order by all"
        assert _rows(home, query) == _rows(at_once, query), table
    customers = "select email, first_seen_at, last_seen_at, event_count from unified.customers order by all"
    assert _rows(home, customers) == _rows(at_once, customers)


def test_a_late_rate_converts_amounts_that_were_built_without_it(home: Home) -> None:
    land_rows(home, "orders/orders/a.csv", [_order("o1", currency="USD", email="a@example.com")])
    _build(home)
    assert _rows(home, "select amount_base from unified.customer_events") == [(None,)]
    land_rows(home, "external/fx_rates/a.csv", [{"date": "2025-02-28", "currency": "usd", "rate_to_base": 7.2}])
    for channel in load_channels(home).values():
        ingest_channel(home, channel, Settings.of(home))
    # Somebody builds the orders by hand in between: the rate must not be forgotten for it.
    _build(home, "run", "--select", "cleaned_orders_orders")
    _build(home)
    assert _rows(home, "select amount_base from unified.customer_events") == [(72,)]
    assert _rows(home, "select revenue_base from unified.customers") == [(72,)]


def test_changed_settings_ask_for_a_full_refresh_and_get_one(home: Home) -> None:
    land_rows(home, "crm/contacts/a.csv", [{"contact_id": "k1", "phone": "07400 123456", "updated_at": "2025-01-01"}])
    _build(home)
    assert _rows(home, "select phone, is_phone_valid from cleaned.crm_contacts") == [(None, False)]
    (home.path / "onefold.yaml").write_text("default_region: GB\n")
    with pytest.raises(OnefoldError, match="onefold refresh --full"):
        _build(home)
    with pytest.raises(OnefoldError, match="onefold refresh --full"):  # one model alone would hide that the others are old
        _build(home, "run", "--full-refresh", "--select", "cleaned_crm_contacts")
    _build(home, "build", *MODELS, "--full-refresh")
    assert _rows(home, "select phone, is_phone_valid from cleaned.crm_contacts") == [("+447400123456", True)]
    _build(home)


def test_rows_that_were_replayed_no_longer_count_as_rejected(home: Home) -> None:
    rows = [_order(f"o{n}", email=f"p{n}@example.com") for n in range(100)]
    for row in rows[:60]:
        row["amount"] = f"{row['amount']} yuan"
    land_rows(home, "orders/orders/a.csv", rows)
    rate = "select value from quality.metrics where metric = 'reject_rate' and channel = 'orders' and refresh = {}"
    _build(home, refresh=1)
    assert _rows(home, rate.format(1)) == [(0.6,)]
    (home.sources / "orders.yaml").write_text(
        "channel: orders\nentities: {orders: [{name: landing, sql: {amount: \"replace(amount, ' yuan', '')\"}}]}\n"
    )
    assert sum(result.accepted for result in replay(home, load_channels(home), Settings.of(home))) == 60
    _build(home, refresh=2)
    assert _rows(home, rate.format(2)) == [(0.0,)]
    assert _rows(home, "select count(*) from cleaned.orders_orders") == [(100,)]


def test_a_merge_of_the_crm_unites_and_a_deleted_contact_names_nobody(home: Home) -> None:
    def contact(number: str, **fields: object) -> dict:
        known = {"contact_id": number, "email": f"{number}@example.com", "full_name": number, "updated_at": "2025-01-01"}
        return {**known, "is_deleted": "false", **fields}

    land_rows(home, "crm/contacts/a.csv", [contact("k1"), contact("k2"), contact("k3")])
    land_rows(home, "orders/orders/a.csv", [_order("o1", email="k2@example.com"), _order("o3", email="k3@example.com")])
    _build(home)
    land_rows(home, "crm/merges/a.csv", [{"contact_id": "k1", "merged_contact_id": "k2", "merged_at": "2025-01-02"}])
    land_rows(home, "crm/contacts/b.csv", [contact("k3", updated_at="2025-01-03", is_deleted="true")])
    _build(home)
    members = _rows(
        home, "select list(identifier_value order by identifier_value) from identity.assignments group by customer_id"
    )
    # What k3 bought stays with whoever has that address; the contact itself no longer says who that is.
    assert sorted(members) == [(["k1", "k1@example.com", "k2", "k2@example.com"],), (["k3@example.com"],)]
    assert _rows(home, "select full_name, order_count from unified.customers where email = 'k3@example.com'") == [(None, 1)]
    assert _rows(home, "select order_count from unified.customers where email <> 'k3@example.com'") == [(1,)]


def test_a_message_changes_sides_when_its_author_turns_out_to_be_an_agent(home: Home) -> None:
    written = {"conversation_id": "t1", "occurred_at": "2025-01-01", "text": "hello"}
    messages = [{"message_id": "m1", "author_id": "a1", **written}, {"message_id": "m2", "author_id": "k1", **written}]
    land_rows(home, "chat/messages/a.csv", messages)
    _build(home)
    sides = "select message_id, direction, contact_id, agent_id from cleaned.chat_messages order by 1"
    assert _rows(home, sides) == [("m1", "in", "a1", None), ("m2", "in", "k1", None)]
    land_rows(home, "chat/agents/a.csv", [{"agent_id": "a1", "name": "Arthur"}])
    _build(home)
    assert _rows(home, sides) == [("m1", "out", None, "a1"), ("m2", "in", "k1", None)]
    assert _rows(home, "select identifier_value from identity.assignments") == [("k1",)]
    assert _rows(home, "select event_name from unified.customer_events order by event_id") == [
        ("message_sent",),
        ("message_received",),
    ]


def test_a_lost_warehouse_is_loaded_again_from_landing(home: Home) -> None:
    land_rows(home, "orders/orders/a.csv", [_order("o1"), _order("o2")])
    channel = load_channels(home)["orders"]
    ingest_channel(home, channel, Settings.of(home))
    home.warehouse.unlink()
    ingest_channel(home, channel, Settings.of(home))
    assert _rows(home, "select count(*) from staging.orders_orders") == [(2,)]
    [load, *_] = ingest_channel(home, channel, Settings.of(home))
    assert (load.files, load.known_files) == (0, 1)


def test_numbers_that_count_up_on_each_device_name_a_visitor_only_with_the_device(home: Home) -> None:
    (home.path / "identity.yaml").write_text(
        """
types:
  anonymous_id: {kind: carrier, priority: 1, alone: false}
  device_id: {kind: carrier, priority: 2, alone: false}
  anonymous_id+device_id: {kind: carrier, priority: 3}
"""
    )
    seen = [
        ("e1", "1", "d1", ""),
        ("e2", "1", "d2", ""),
        ("e3", "1", "d1", "U1"),
        ("e4", "1", "d2", "U2"),
        ("e5", "2", "d1", ""),
    ]
    rows = [
        {"event_id": event, "event_name": "screen_viewed", "occurred_at": f"2025-03-01 10:0{event[1]}", "anonymous_id": number,
         "device_id": device, "user_id": user}
        for event, number, device, user in seen
    ]  # fmt: skip
    land_rows(home, "app/events/a.csv", rows)
    _build(home)
    whose = dict(_rows(home, "select record_id, customer_id from identity.records"))
    assert whose["e1"] == whose["e3"] and whose["e2"] == whose["e4"] and len(set(whose.values())) == 3
    assert set(_rows(home, "select distinct identifier_type from identity.assignments")) == {
        ("user_id",),
        ("anonymous_id+device_id",),
    }
