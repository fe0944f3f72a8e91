"""Public exports that nobody prepared for Onefold, brought in by a mapping alone."""

import csv
import os
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings
from dagster_project.lib.templates import add_template

MAPPINGS = Path(__file__).parent / "mappings"
REAL_DATA = os.environ.get("ONEFOLD_REAL_DATA")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not REAL_DATA, reason="ONEFOLD_REAL_DATA names no folder with the public data sets"),
]


def _load(home: Home, channels: list[str]) -> None:
    contracts = load_channels(home)
    for name in channels:
        loads = ingest_channel(home, contracts[name], Settings.of(home))
        assert [load.refused for load in loads if load.refused] == []


def _build(home: Home) -> None:
    result = dbt.run(home, ["build", "--exclude-resource-type", "unit_test"])
    assert result.success, dbt.failures(result)


def _one(home: Home, query: str) -> tuple:
    with home.connect("test") as connection:
        return connection.execute(query).fetchone()


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("retail")).prepare()
    (home.path / "onefold.yaml").write_text("base_currency: GBP\ndefault_region: GB\n")
    shutil.copy(MAPPINGS / "online_retail.yaml", home.sources)
    folder = home.landing / "online_retail"
    folder.mkdir()
    (folder / "onlineretail.parquet").symlink_to((Path(REAL_DATA) / "online_retail" / "onlineretail.parquet").resolve())
    _load(home, ["orders"])
    _build(home)
    return home


def test_every_order_line_is_accounted_for(retail: Home) -> None:
    with retail.connect("test") as connection:
        rows = connection.execute(
            "select entity, rows_in_file, rows_filtered, rows_grouped, rows_read, rows_accepted, rows_rejected, rows_duplicate "
            "from staging._loads order by entity"
        ).fetchall()
    by_entity = {row[0]: row[1:] for row in rows}
    # 541,909 lines: 9,288 cancelled, 1,336 stock corrections, 531,285 sold; the sold ones make 20,728 invoices.
    assert by_entity["order_items"] == (541_909, 10_624, 0, 531_285, 531_285, 0, 0)
    assert by_entity["refunds"] == (541_909, 532_621, 0, 9_288, 9_288, 0, 0)
    assert by_entity["orders"] == (541_909, 10_624, 510_557, 20_728, 20_728, 0, 0)


def test_unified_customers_reproduce_the_published_figures(retail: Home) -> None:
    customers, invoices, revenue = _one(
        retail, "select count(*), sum(order_count), sum(revenue_base) from unified.customers where order_count > 0"
    )
    assert (customers, invoices) == (4_339, 18_536)
    assert round(revenue, 2) == round(Decimal("8911407.904"), 2)


def test_lines_of_known_customers_are_all_purchases(retail: Home) -> None:
    assert _one(retail, "select count(*) from unified.purchases where customer_id is not null") == (397_924,)


def test_cancellations_are_refunds_of_their_customer(retail: Home) -> None:
    # 4,372 customers in the file; those beyond the 4,339 buyers only ever cancelled.
    assert _one(retail, "select count(*) from unified.customers") == (4_372,)
    refunds, without_order = _one(retail, "select count(*), count(*) filter (order_id is null) from cleaned.orders_refunds")
    assert (refunds, without_order) == (9_288, 9_288)


def test_a_single_channel_has_no_match_rate(retail: Home) -> None:
    assert _one(retail, "select count(*) from quality.metrics where metric = 'match_rate'") == (0,)


# The files that the templates name, of each service.
USED = {
    "hubspot": ["contact_data", "contact_merge_audit_data", "email_event_data", "contact_form_submission_data"],
    "zendesk": ["user_data", "ticket_data", "ticket_comment_data"],
    "shopify": [f"shopify_gql_{name}_data" for name in ("customer", "order", "order_line", "refund", "product")],
    "klaviyo": ["person", "event"],
}


def _exported(service: str, name: str) -> list[dict[str, str]]:
    with (Path(REAL_DATA) / "saas_exports" / service / f"{name}.csv").open(encoding="utf-8-sig") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with all four templates as they are shipped, and the whole of each service's export in landing."""
    home = Home(tmp_path_factory.mktemp("services")).prepare()
    (home.path / "onefold.yaml").write_text("base_currency: USD\ndefault_region: US\n")
    for service in USED:
        add_template(home, service)
        shutil.copytree(Path(REAL_DATA) / "saas_exports" / service, home.landing / service)
    _load(home, ["catalog", "chat", "crm", "email", "orders", "sms", "web"])
    _build(home)
    return home


def _accounted(home: Home, service: str) -> dict[str, tuple[int, ...]]:
    """For each file and what it became: rows that were filtered, accepted, rejected and duplicate."""
    with home.connect("test") as connection:
        rows = connection.execute(
            "select source_uri, channel || '/' || entity || case when source = ? then '' else ' ' || source end, "
            "rows_filtered, rows_accepted, rows_rejected, rows_duplicate from staging._loads where source_uri like ?",
            [service, f"landing/{service}/%"],
        ).fetchall()
    return {f"{Path(uri).stem} {what}": tuple(counts) for uri, what, *counts in rows}


@pytest.mark.parametrize("service", USED)
def test_a_template_reads_just_the_files_that_it_names(services: Home, service: str) -> None:
    assert {key.split()[0] for key in _accounted(services, service)} == set(USED[service])


def test_every_row_of_hubspot_is_accounted_for(services: Home) -> None:
    contacts, audit = _exported("hubspot", "contact_data"), _exported("hubspot", "contact_merge_audit_data")
    events, forms = _exported("hubspot", "email_event_data"), _exported("hubspot", "contact_form_submission_data")
    lists = [row["property_hs_merged_object_ids"].split(";") for row in contacts if row["property_hs_merged_object_ids"]]
    kinds = ("SENT", "DELIVERED", "OPEN", "CLICK", "BOUNCE", "SPAMREPORT", "UNSUBSCRIBED")
    sent = [row for row in events if row["type"] in kinds and row["filtered_event"].lower() != "true"]
    assert 0 < len(sent) < len(events)
    assert _accounted(services, "hubspot") == {
        "contact_data crm/contacts": (0, len(contacts), 0, 0),
        "contact_data crm/merges hubspot_contacts": (len(contacts) - len(lists), sum(map(len, lists)), 0, 0),
        "contact_merge_audit_data crm/merges hubspot_audit": (0, len(audit), 0, 0),
        "email_event_data email/events": (len(events) - len(sent), len(sent), 0, 0),
        "contact_form_submission_data web/events hubspot_forms": (0, len(forms), 0, 0),
    }
    opened, delivered = ([row for row in sent if row["type"] == kind] for kind in ("OPEN", "DELIVERED"))
    assert _one(
        services,
        "select count(*) filter (event_name = 'email_opened'), count(*) filter (event_name = 'email_delivered') "
        "from cleaned.email_events where contact_id is null",
    ) == (len(opened), len(delivered))
    # The export's addresses are hashed: kept as they came, flagged, and never used as identifiers.
    assert _one(services, "select count(*) from cleaned.email_events where is_email_valid") == (0,)


def test_a_contact_that_hubspot_merged_away_leads_to_the_surviving_customer(services: Home) -> None:
    pairs = {(row["canonical_vid"], row["vid_to_merge"]) for row in _exported("hubspot", "contact_merge_audit_data")}
    for row in _exported("hubspot", "contact_data"):
        pairs |= {(row["id"], merged) for merged in row["property_hs_merged_object_ids"].split(";") if merged}
    assert len(pairs) == 7
    with services.connect("test") as connection:
        customers = dict(
            connection.execute(
                "select replace(identifier_value, 'hubspot:', ''), customer_id from identity.assignments "
                "where identifier_type = 'contact_id' and identifier_value like 'hubspot:%'"
            ).fetchall()
        )
    assert {(survivor, merged) for survivor, merged in pairs if customers[survivor] != customers[merged]} == set()
    # Nobody else was put together: every pair takes one customer away.
    named = {row["id"] for row in _exported("hubspot", "contact_data")} | {name for pair in pairs for name in pair}
    named |= {row["contact_id"] for row in _exported("hubspot", "contact_form_submission_data")}
    assert (set(customers), len(set(customers.values()))) == (named, len(named) - len(pairs))


def test_every_row_of_zendesk_is_accounted_for(services: Home) -> None:
    users, tickets = _exported("zendesk", "user_data"), _exported("zendesk", "ticket_data")
    comments = _exported("zendesk", "ticket_comment_data")
    end_users = [row for row in users if row["role"] == "end-user"]
    agents = [row for row in users if row["role"] in ("agent", "admin")]
    public = [row for row in comments if row["public"] == "TRUE"]
    assert _accounted(services, "zendesk") == {
        "user_data crm/contacts": (len(users) - len(end_users), len(end_users), 0, 0),
        "user_data chat/agents": (len(users) - len(agents), len(agents), 0, 0),
        "ticket_data chat/conversations": (0, len(tickets), 0, 0),
        "ticket_comment_data chat/messages": (len(comments) - len(public), len(public), 0, 0),
    }
    closed = sum(row["status"] in ("solved", "closed", "deleted") for row in tickets)
    assert _one(services, "select count(*) from cleaned.chat_conversations where status = 'closed'") == (closed,)
    authors = {row["user_id"] for row in public}
    assert not authors & {row["id"] for row in agents}
    assert _one(services, "select count(*), count(distinct contact_id) from cleaned.chat_messages where direction = 'in'") == (
        len(public),
        len(authors),
    )


def test_a_ticket_is_on_the_timeline_of_the_user_who_asked(services: Home) -> None:
    users = {row["id"]: row for row in _exported("zendesk", "user_data")}
    [ticket] = [row for row in _exported("zendesk", "ticket_data") if row["requester_id"] in users]
    email = users[ticket["requester_id"]]["email"]
    assert _one(
        services,
        "select email from unified.customer_events join unified.customers using (customer_id) "
        f"where event_name = 'conversation_started' and record_id = '{ticket['id']}'",
    ) == (email,)
    # A deleted ticket belongs to nobody.
    deleted = sum(row["status"] == "deleted" for row in _exported("zendesk", "ticket_data"))
    assert _one(
        services,
        "select count(*) from unified.customer_events where event_name = 'conversation_started' and customer_id is null",
    ) == (deleted,)


def test_every_row_of_shopify_is_accounted_for(services: Home) -> None:
    customers, orders = _exported("shopify", "shopify_gql_customer_data"), _exported("shopify", "shopify_gql_order_data")
    lines, refunds = (_exported("shopify", f"shopify_gql_{name}_data") for name in ("order_line", "refund"))
    products = _exported("shopify", "shopify_gql_product_data")
    said = [row for row in customers if row["email_marketing_consent_state"] in ("SUBSCRIBED", "UNSUBSCRIBED")]
    real = [row for row in orders if row["test"] != "TRUE"]
    assert _accounted(services, "shopify") == {
        "shopify_gql_customer_data crm/contacts": (0, len(customers), 0, 0),
        "shopify_gql_customer_data crm/consents": (len(customers) - len(said), len(said), 0, 0),
        "shopify_gql_order_data orders/orders": (len(orders) - len(real), len(real), 0, 0),
        "shopify_gql_order_line_data orders/order_items": (0, len(lines), 0, 0),
        "shopify_gql_refund_data orders/refunds": (0, len(refunds), 0, 0),
        "shopify_gql_product_data catalog/products": (0, len(products), 0, 0),
    }
    kept = [row for row in real if not row["cancelled_at"].strip() and row["_fivetran_deleted"] != "TRUE"]
    assert _one(
        services,
        "select count(*) filter (event_name = 'order_placed'), count(*) filter (event_name = 'order_cancelled') "
        "from cleaned.orders_orders",
    ) == (len(kept), len(real) - len(kept))
    dollars = sum(
        Decimal(row["total_refunded_set_shop_amount"])
        for row in refunds
        if row["total_refunded_set_shop_currency_code"] == "USD"
    )
    # Amounts in Canadian dollars have no rate here, and are not taken for American ones.
    assert _one(services, "select sum(amount_base) from cleaned.orders_refunds") == (dollars,)
    sold = sum(Decimal(row["original_total_set_shop_amount"]) for row in lines)
    assert _one(services, "select sum(amount) from cleaned.orders_order_items") == (sold,)


def test_an_order_of_shopify_is_on_the_timeline_of_its_customer(services: Home) -> None:
    orders = [row for row in _exported("shopify", "shopify_gql_order_data") if row["test"] != "TRUE"]
    with services.connect("test") as connection:
        found = connection.execute(
            "select replace(identifiers.identifier_value, 'shopify:', ''), events.record_id "
            "from unified.customer_events as events join unified.customer_identifiers as identifiers using (customer_id) "
            "where events.source_table = 'orders_orders' and identifiers.identifier_type = 'contact_id'"
        ).fetchall()
    assert sorted(found) == sorted((row["customer_id"], row["id"]) for row in orders)


def test_every_row_of_klaviyo_is_accounted_for(services: Home) -> None:
    people, events = _exported("klaviyo", "person"), _exported("klaviyo", "event")
    received = [row for row in events if row["type"] == "Received Email"]
    assert [row["type"] for row in events if row not in received] == ["Placed Order"]  # the shop's, not Klaviyo's
    assert _accounted(services, "klaviyo") == {
        "person crm/contacts": (0, len(people), 0, 0),
        "event email/events": (len(events) - len(received), len(received), 0, 0),
        "event sms/events": (len(events), 0, 0, 0),
        "event web/events klaviyo_pages": (len(events), 0, 0, 0),
        "event web/events klaviyo_products": (len(events), 0, 0, 0),
    }
    with services.connect("test") as connection:
        found = connection.execute(
            "select contact_id, event_id, event_name, occurred_at::varchar, campaign_id from cleaned.email_events "
            "where contact_id is not null order by event_id"
        ).fetchall()
    assert found == [
        (f"klaviyo:{row['person_id']}", row["id"], "email_delivered", row["datetime"][:19], row["campaign_id"] or None)
        for row in sorted(received, key=lambda row: row["id"])
    ]
