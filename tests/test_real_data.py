"""Public exports that nobody prepared for Onefold, brought in by a mapping alone."""

import csv
import os
import shutil
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings
from dagster_project.lib.templates import add_template

if TYPE_CHECKING:
    from pandas import DataFrame

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


def _build(home: Home, as_of: datetime | None = None) -> None:
    result = dbt.run(home, ["build", "--exclude-resource-type", "unit_test"], as_of=as_of)
    assert result.success, dbt.failures(result)


def _one(home: Home, query: str) -> tuple:
    with home.connect("test") as connection:
        return connection.execute(query).fetchone()


# The day after the last invoice: what is said of the last 365 days leaves out the first nine.
RETAIL_NOW = datetime(2011, 12, 10)
RETAIL = Path(REAL_DATA or "") / "online_retail" / "onlineretail.parquet"


def _write_retail_catalogue(file: Path) -> None:
    """The shop's export has no categories: a product's is the last word of what its sold lines mostly call it, without what is
    no letter (WHITE HANGING HEART T-LIGHT HOLDER: holder)."""
    file.parent.mkdir(parents=True)
    duckdb.execute(
        f"""copy (
            select StockCode as product_id, max_by(name, (line_count, name)) as name,
                nullif(lower(regexp_extract(max_by(name, (line_count, name)), '([A-Za-z]+)[^A-Za-z]*$', 1)), '') as category
            from (
                select StockCode, trim(Description) as name, count(*) as line_count from '{RETAIL}'
                where Quantity > 0 and InvoiceNo not like 'C%' and trim(Description) <> ''
                group by 1, 2
            )
            group by 1
        ) to '{file}' (header)"""
    )


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("retail")).prepare()
    (home.path / "onefold.yaml").write_text("base_currency: GBP\ndefault_region: GB\n")
    shutil.copy(MAPPINGS / "online_retail.yaml", home.sources)
    folder = home.landing / "online_retail"
    folder.mkdir()
    (folder / "onlineretail.parquet").symlink_to(RETAIL.resolve())
    _write_retail_catalogue(home.landing / "catalog" / "products" / "products.csv")
    _load(home, ["catalog", "orders"])
    _build(home, RETAIL_NOW)
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


@pytest.fixture(scope="module")
def lines(retail: Home) -> "DataFrame":
    """Online Retail as pandas reads it: sold and cancelled lines, in ten-thousandths of a pound, at times in UTC."""
    import pandas

    frame = pandas.read_parquet(RETAIL)
    frame["is_refund"] = frame.InvoiceNo.str.startswith("C")
    frame = frame[frame.is_refund | (frame.Quantity > 0)].copy()
    frame["at"] = frame.InvoiceDate.dt.tz_localize("Europe/London").dt.tz_convert("UTC").dt.tz_localize(None)
    frame["units"] = frame.Quantity.astype("int64")
    frame["amount"] = frame.units * (frame.UnitPrice * 10_000).round().astype("int64")
    frame["customer"] = frame.CustomerID.astype("Int64").astype("string")
    catalogue = pandas.read_csv(retail.landing / "catalog" / "products" / "products.csv", dtype="string", keep_default_na=False)
    categories = catalogue.set_index("product_id").category
    frame["category"] = frame.StockCode.map(categories[categories != ""])
    return frame


def _by_user(home: Home, query: str) -> dict[str, tuple]:
    """Rows of a query by the shop's own number of the customer; their id is the query's first column."""
    with home.connect("test") as connection:
        rows = connection.execute(
            "select users.identifier_value, answer.* exclude (customer_id) from identity.assignments as users "
            f"join ({query}) as answer using (customer_id) where users.identifier_type = 'user_id'"
        ).fetchall()
    return {row[0]: row[1:] for row in rows}


def _orders(lines: "DataFrame") -> "DataFrame":
    """One row an invoice of a known customer."""
    sold = lines[~lines.is_refund & lines.customer.notna()]
    orders = sold.groupby("InvoiceNo").agg(customer=("customer", "first"), at=("at", "min"), amount=("amount", "sum"))
    assert (orders.amount.sum(), len(orders), orders.customer.nunique()) == (89_114_079_040, 18_536, 4_339)
    return orders


def test_rfm_groups_are_those_of_pandas(retail: Home, lines: "DataFrame") -> None:
    orders = _orders(lines)
    year = orders[(orders["at"] > "2010-12-10") & (orders["at"] <= RETAIL_NOW)]
    measures = year.groupby("customer").agg(last=("at", "max"), orders=("at", "size"), spend=("amount", "sum"))
    measures["days"] = (RETAIL_NOW - measures["last"].dt.normalize()).dt.days
    groups = {}
    for name, values in {"r": -measures.days, "f": measures.orders, "m": measures.spend}.items():
        share = (values.rank(method="min") - 1) / (len(values) - 1)  # the percent rank
        groups[name] = (share * 5).astype(int).clip(upper=4) + 1
    wanted = {
        customer: (f"{groups['r'][customer]}{groups['f'][customer]}{groups['m'][customer]}",) for customer in measures.index
    }
    assert _by_user(retail, "select customer_id, value from tags.rfm") == wanted
    assert len(wanted) < 4_339 and len(set(wanted.values())) > 60


def test_value_tiers_are_those_of_pandas(retail: Home, lines: "DataFrame") -> None:
    net = lines.groupby("customer").amount.sum()  # what was cancelled has a negative quantity
    net = net[net.index.isin(_orders(lines).customer)].sort_values(ascending=False)
    above = (net.rank(method="min", ascending=False) - 1) / (len(net) - 1)
    tier = above.map(lambda share: "vip" if share < 0.05 else "high" if share < 0.2 else "medium" if share < 0.5 else "low")
    wanted = {customer: (tier[customer], net[customer] / 10_000) for customer in net.index}
    assert _by_user(retail, "select customer_id, value, number_value from tags.value_tier") == wanted
    assert tier.value_counts().to_dict() == {"vip": 217, "high": 651, "medium": 1301, "low": 2170}


def test_monthly_purchase_cohorts_are_those_of_pandas(retail: Home, lines: "DataFrame") -> None:
    orders = _orders(lines)
    orders["month"] = orders["at"].dt.year * 12 + orders["at"].dt.month
    orders["cohort"] = orders.groupby("customer").month.transform("min")
    orders["since"] = orders.month - orders.cohort
    size = orders.groupby("cohort").customer.nunique()
    active = orders.pivot_table(index="cohort", columns="since", values="customer", aggfunc="nunique", fill_value=0)
    revenue = orders.pivot_table(index="cohort", columns="since", values="amount", aggfunc="sum", fill_value=0)
    last = 2011 * 12 + 12  # of which nine days have passed: no rates
    wanted = {}
    for cohort in size.index:
        for since in range(last - cohort + 1):
            spent = revenue.loc[cohort, :since].sum() / 10_000
            wanted[f"{(cohort - 1) // 12}-{(cohort - 1) % 12 + 1:02}-01", since] = (
                size[cohort],
                active.loc[cohort, since],
                pytest.approx(active.loc[cohort, since] / size[cohort]) if cohort + since < last else None,
                pytest.approx(spent),
                pytest.approx(spent / size[cohort]) if cohort + since < last else None,
            )
    with retail.connect("test") as connection:
        rows = connection.execute(
            "select cohort_month::varchar, months_since, cohort_size, active_count, retention_rate, "
            "cumulative_revenue_base::double, cumulative_revenue_per_customer from analytics.cohorts "
            "where cohort_kind = 'purchased'"
        ).fetchall()
    assert {row[:2]: row[2:] for row in rows} == wanted
    assert len(rows) == 13 * 14 / 2
    assert (size.iloc[0], active.iloc[0, 1]) == (885, 324)  # as analyses of the set that others published have it


@pytest.mark.parametrize("kind, column", [("products", "StockCode"), ("categories", "category")])
def test_what_is_bought_together_is_as_in_pandas(retail: Home, lines: "DataFrame", kind: str, column: str) -> None:
    baskets = lines.loc[~lines.is_refund & lines[column].notna(), ["InvoiceNo", column]].drop_duplicates()
    baskets = baskets[baskets.groupby("InvoiceNo")[column].transform("size") <= 30].set_axis(["basket", "item"], axis=1)
    total, counts = baskets.basket.nunique(), baskets.item.value_counts()
    frequent = baskets[baskets.item.map(counts) >= 5]
    pairs = frequent.merge(frequent, on="basket").query("item_x != item_y").groupby(["item_x", "item_y"]).size()
    wanted = {
        (one, other): (both, both / total, both / counts[one], (both / counts[one]) / (counts[other] / total))
        for (one, other), both in pairs[pairs >= 5].items()
    }
    with retail.connect("test") as connection:
        rows = connection.execute(
            "select antecedent, consequent, pair_count, support, confidence, lift from analytics.associations where kind = ?",
            [kind],
        ).fetchall()
    found = {row[:2]: row[2:] for row in rows}
    assert found.keys() == wanted.keys() and len(rows) == len(found) > 1_000
    assert max(abs(a / b - 1) for key in wanted for a, b in zip(found[key], wanted[key], strict=True)) < 1e-12


def test_favourite_categories_are_those_of_pandas(retail: Home, lines: "DataFrame") -> None:
    bought = lines[~lines.is_refund & lines.customer.notna() & lines.category.notna()]
    counts = bought.groupby(["customer", "category"]).size().rename("lines").reset_index()
    counts["all"] = counts.groupby("customer").lines.transform("sum")
    counts = counts[counts["all"] >= 3].sort_values(["customer", "lines", "category"], ascending=[True, False, True])
    best = counts.drop_duplicates("customer")
    wanted = {row.customer: (row.category, pytest.approx(row.lines / row.all)) for row in best.itertuples()}
    assert _by_user(retail, "select customer_id, value, confidence from tags.favourite_category") == wanted
    assert len(wanted) > 4_000 and len({category for category, _ in wanted.values()}) > 50


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
