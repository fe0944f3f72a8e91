"""What the sensors ask for; they look at landing and at the state store only."""

from pathlib import Path

import dagster as dg
import pytest

from dagster_project.defs import automation
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State


@pytest.fixture
def settled(home: Home) -> Home:
    (home.path / "onefold.yaml").write_text("landing_settle_seconds: 0\n")
    return home


def _land(home: Home, place: str, text: str) -> Path:
    file = home.landing / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def _requests() -> list[dg.RunRequest]:
    with dg.instance_for_test() as instance:
        return automation.landing_files.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests


def test_a_new_file_asks_for_its_channel_alone_and_not_again_once_it_is_loaded(settled: Home) -> None:
    _land(settled, "crm/contacts/a.csv", "contact_id,updated_at\nk1,2025-01-01\n")
    [request] = _requests()
    crm = load_channels(settled)["crm"]
    assert {key.path[-1] for key in request.asset_selection} == {crm.table(entity) for entity in crm.entities}
    ingest_channel(settled, crm, Settings.of(settled))
    assert _requests() == []
    assert State(settled).progress("loaded") > State(settled).progress("refreshed")


def test_a_place_that_cannot_be_reached_holds_up_no_other_channel(settled: Home) -> None:
    (settled.sources / "ads.yaml").write_text(
        "channel: ads\nentities: {spend: [{name: remote, location: 'http://127.0.0.1:9/spend/*.csv'}]}\n"
    )
    _land(settled, "crm/contacts/a.csv", "contact_id,updated_at\nk1,2025-01-01\n")
    assert [request.tags["onefold/channel"] for request in _requests()] == ["crm"]


def test_a_refused_file_is_asked_for_again_when_its_mapping_is_corrected(settled: Home) -> None:
    """Dagster drops a run key that it has seen, so that it has to change with the mapping."""
    _land(settled, "erp/a.csv", "NR,CHANGED\nk1,2025-01-01\n")
    mapping = settled.sources / "erp.yaml"
    mapping.write_text("channel: crm\nentities: {contacts: [{name: erp, location: erp/*.csv}]}\n")
    [first] = _requests()
    ingest_channel(settled, load_channels(settled)["crm"], Settings.of(settled))
    assert _requests() == []
    mapping.write_text(
        "channel: crm\n"
        "entities: {contacts: [{name: erp, location: erp/*.csv, rename: {contact_id: NR, updated_at: CHANGED}}]}\n"
    )
    [second] = _requests()
    assert second.run_key != first.run_key
