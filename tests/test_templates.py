"""The shipped mappings: how a home takes one, and what those of services whose exports vary make of them."""

import json

import pytest
from click.testing import CliRunner

from dagster_project.cli import main
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings
from dagster_project.lib.templates import FOLDER, add_template, check_templates, templates


def _ingested(home: Home, *channels: str) -> None:
    for name in channels:
        for load in ingest_channel(home, load_channels(home)[name], Settings.of(home)):
            assert load.refused == []


def _rows(home: Home, query: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(query).fetchall()


def test_every_template_fits_the_contracts_beside_all_others(home: Home) -> None:
    assert check_templates(home) == len(list(FOLDER.glob("*.yaml"))) > 0
    for template in templates():
        assert all(mapping.description for mapping in template.mappings), template.name


def test_a_template_that_does_not_fit_is_named_by_check(home: Home, tmp_path, monkeypatch) -> None:
    (tmp_path / "shop.yaml").write_text("channel: crm\nentities: {contacts: [{name: shop, location: s/*, rename: {mail: m}}]}")
    monkeypatch.setattr("dagster_project.lib.templates.FOLDER", tmp_path)
    with pytest.raises(OnefoldError, match=r"shop\.yaml.*no column 'mail'"):
        check_templates(home)


def test_a_template_is_taken_as_it_is_and_again_without_harm(home: Home) -> None:
    file = add_template(home, "hubspot")
    assert file == home.sources / "hubspot.yaml"
    assert file.read_text() == (FOLDER / "hubspot.yaml").read_text()
    assert add_template(home, "hubspot") == file


def test_a_template_that_was_changed_here_is_not_overwritten(home: Home) -> None:
    file = add_template(home, "hubspot")
    file.write_text(changed := file.read_text().replace("property_email", "property_work_email"))
    with pytest.raises(OnefoldError, match="other content; move it away"):
        add_template(home, "hubspot")
    assert file.read_text() == changed


def test_a_template_that_does_not_fit_beside_the_homes_sources_is_not_taken(home: Home) -> None:
    (home.sources / "mine.yaml").write_text("channel: crm\nentities: {contacts: [{name: hubspot, location: h/*}]}")
    with pytest.raises(OnefoldError, match="give each its own"):
        add_template(home, "hubspot")
    assert [file.name for file in home.sources.iterdir()] == ["mine.yaml"]


def test_the_command_says_which_files_it_expects_where(home: Home) -> None:
    shown = CliRunner().invoke(main, ["source", "add", "shopify", "--location", "s3://exports/shop/", "--json"])
    assert shown.exit_code == 0, shown.output
    expected = {row["becomes"]: row["location"] for row in json.loads(shown.output)["expected"]}
    assert expected["orders/refunds"] == "s3://exports/shop/shopify_gql_refund_data[.-]*"
    assert all(location.startswith("s3://exports/shop/") for location in expected.values())
    listed = json.loads(CliRunner().invoke(main, ["source", "list", "--json"]).output)
    assert {row["template"] for row in listed["templates"]} == {"hubspot", "klaviyo", "shopify", "zendesk"}
    assert {row["file"] for row in listed["sources"]} == {"shopify.yaml"}


def test_an_unknown_template_is_answered_with_those_there_are(home: Home) -> None:
    shown = CliRunner().invoke(main, ["source", "add", "hubspott"])
    assert (shown.exit_code, "there are hubspot, klaviyo, shopify, zendesk" in shown.output) == (1, True)


@pytest.mark.parametrize("name", ["person.csv", "person-2026-07-01.csv"])
def test_a_later_export_may_carry_its_date(home: Home, land, name: str) -> None:
    add_template(home, "klaviyo")
    land(home, f"klaviyo/{name}", "id,email,_fivetran_synced\np1,li@example.com,2026-07-01\n")
    land(home, "klaviyo/person_backup.csv", "id,email,_fivetran_synced\np2,wang@example.com,2026-07-01\n")
    _ingested(home, "crm")
    assert _rows(home, "select contact_id from staging.crm_contacts") == [("klaviyo:p1",)]


def test_each_metric_of_klaviyo_becomes_what_it_is_elsewhere(home: Home, land) -> None:
    metrics = {
        "Received Email": "delivered",
        "Opened Email": "opened",
        "Clicked Email": "clicked",
        "Bounced Email": "bounced",
        "Marked Email as Spam": "complained",
        "Unsubscribed": "unsubscribed",
        "Unsubscribed from Email Marketing": "unsubscribed",
        "Received SMS": "delivered",
        "Clicked SMS": "clicked",
        "Failed to Deliver SMS": "bounced",
        "Unsubscribed from SMS Marketing": "unsubscribed",
        "Active on Site": "page_viewed",
        "Viewed Product": "product_viewed",
        "Added to Cart": "product_added",
        "Started Checkout": "checkout_started",
    }
    lines = [f"{name},p1,2026-07-01 10:00:00,{name},FALSE,c1" for name in [*metrics, "Placed Order", "Sent SMS"]]
    lines.append("gone,p1,2026-07-01 10:00:00,Opened Email,TRUE,c1")
    head = "id,person_id,datetime,type,_fivetran_deleted,campaign_id"
    add_template(home, "klaviyo")
    land(home, "klaviyo/event.csv", "\n".join([head, *lines]) + "\n")
    _ingested(home, "email", "sms", "web")
    found = _rows(
        home,
        "select event_id, event_name, contact_id from staging.email_events union all "
        "select event_id, event_name, contact_id from staging.sms_events union all "
        "select event_id, event_name, contact_id from staging.web_events",
    )
    assert sorted(found) == sorted((metric, name, "klaviyo:p1") for metric, name in metrics.items())


def test_a_file_that_names_nobody_is_refused(home: Home, land) -> None:
    land(home, "email/events/a.csv", "event_id,event_name,occurred_at\ne1,sent,2026-07-01\n")
    [load] = ingest_channel(home, load_channels(home)["email"], Settings.of(home))
    assert "none of email, contact_id is there, and one is required" in load.refused[0][1]


def test_a_row_that_names_nobody_is_quarantined(home: Home, land) -> None:
    rows = "e1,sent,2026-07-01,,\ne2,sent,2026-07-01,,k1\ne3,sent,2026-07-01,li@example.com,\n"
    land(home, "email/events/a.csv", "event_id,event_name,occurred_at,email,contact_id\n" + rows)
    _ingested(home, "email")
    assert _rows(home, "select event_id from staging.email_events order by 1") == [("e2",), ("e3",)]
    assert _rows(home, "select reason from staging._rejected") == [
        ("one of email, contact_id is required, and all are missing",)
    ]


def test_each_value_of_a_split_list_is_a_row_and_a_broken_one_waits_alone(home: Home, land) -> None:
    (home.sources / "crm.yaml").write_text(
        "channel: crm\nentities: {merges: [{name: list, location: 'm/*', filter: merged <> '', split: {merged: ';'}, "
        "rename: {contact_id: id, merged_contact_id: merged}}]}"
    )
    land(home, "m/a.csv", "id,merged\nk1,a; b\nk2,\nk3,c;;d\n")
    _ingested(home, "crm")
    assert _rows(home, "select _source_row, contact_id, merged_contact_id from staging.crm_merges order by 1") == [
        (1, "k1", "a"),
        (2, "k1", "b"),
        (4, "k3", "c"),
        (6, "k3", "d"),
    ]
    # Of six rows after splitting, k2's has no value and the filter takes it; so it does the empty one between c and d.
    assert _rows(home, "select rows_in_file, rows_filtered, rows_accepted from staging._loads") == [(6, 2, 4)]
