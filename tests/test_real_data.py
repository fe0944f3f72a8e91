"""Public exports that nobody prepared for Onefold, brought in by a mapping alone."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings

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
    assert round(revenue, 2) == round(revenue.__class__("8911407.904"), 2)


def test_lines_of_known_customers_are_all_purchases(retail: Home) -> None:
    assert _one(retail, "select count(*) from unified.purchases where customer_id is not null") == (397_924,)


def test_cancellations_are_refunds_of_their_customer(retail: Home) -> None:
    # 4,372 customers in the file; those beyond the 4,339 buyers only ever cancelled.
    assert _one(retail, "select count(*) from unified.customers") == (4_372,)
    refunds, without_order = _one(retail, "select count(*), count(*) filter (order_id is null) from cleaned.orders_refunds")
    assert (refunds, without_order) == (9_288, 9_288)


def test_a_single_channel_has_no_match_rate(retail: Home) -> None:
    assert _one(retail, "select count(*) from quality.metrics where metric = 'match_rate'") == (0,)


def test_hubspot_contacts_and_emails_by_mapping_alone(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    source = Path(REAL_DATA) / "saas_exports" / "hubspot"
    folder = home.landing / "hubspot"
    folder.mkdir()
    for name in ("contact_data.csv", "email_event_data.csv"):
        shutil.copy(source / name, folder)
    for mapping in ("hubspot_contacts.yaml", "hubspot_emails.yaml"):
        shutil.copy(MAPPINGS / mapping, home.sources)
    _load(home, ["crm", "email"])
    _build(home)
    with (source / "contact_data.csv").open() as handle:
        contacts = {row["id"] for row in csv.DictReader(handle) if row["_fivetran_deleted"] != "TRUE"}
    with (source / "email_event_data.csv").open() as handle:
        kinds = [row["type"] for row in csv.DictReader(handle)]
    assert _one(home, "select count(distinct contact_id) from cleaned.crm_contacts") == (len(contacts),)
    assert _one(
        home,
        "select count(*) filter (event_name = 'email_opened'), count(*) filter (event_name = 'email_sent'), "
        "count(*) filter (event_name = 'email_delivered') from cleaned.events",
    ) == (kinds.count("OPEN"), kinds.count("SENT"), kinds.count("DELIVERED"))
    # The export's addresses are hashed: kept as they came, flagged, and never used as identifiers.
    assert _one(home, "select count(*) from cleaned.email_events where is_email_valid or email_given is null") == (0,)
    assert _one(home, "select count(*) from identity.assignments where identifier_type = 'email'") == (0,)
