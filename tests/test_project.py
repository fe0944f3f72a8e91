"""The shape of the project: assets, layers and their borders."""

import json
import re
from pathlib import Path

import dagster as dg
import pytest

from dagster_project.definitions import defs
from dagster_project.lib import dbt, quality
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.live import steps
from dagster_project.lib.publish import audiences
from dagster_project.lib.serving import public_tables

# From left to right; a table reads only from its own layer and those before it.
LAYERS = ["reference", "staging", "cleaned", "identity", "unified", "tags", "analytics", "audiences", "quality"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("project")).prepare()


@pytest.fixture(scope="module")
def manifest(home: Home) -> dict:
    return dbt.manifest(home)


@pytest.fixture(scope="module")
def loaded(home: Home) -> dg.Definitions:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(home.path))
        yield defs()


def test_dbt_shares_the_warehouse_with_everybody_else_when_it_has_spilled(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of one process have to agree on the settings, and DuckDB refuses to change where it spilled to."""
    monkeypatch.setenv("ONEFOLD_MEMORY", "60MB")
    with home.connect("test") as connection:
        connection.execute("create or replace temp table large as select md5(i::varchar) as a, i from range(3000000) as t(i)")
        assert list((home.workspace / "spill").iterdir())
        assert dbt.run(home, ["show", "--inline", "select 1 as one"]).success
        with home.connect("test again") as again:
            assert again.execute("select 1").fetchone() == (1,)


def test_a_manifest_that_a_full_disk_cut_off_is_written_anew(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    whole = dbt.manifest(home)
    file = dbt.target_folder(home) / "manifest.json"
    file.write_text(file.read_text()[:100_000])
    assert dbt.manifest(home)["nodes"] == whole["nodes"]


def test_data_tests_are_compiled_once_for_a_state_of_the_project(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = dbt.target_folder(home) / "data_tests.json"
    monkeypatch.setattr(dbt, "_tests", {})
    compiled = dbt.data_tests(home)
    assert {test.unique_id for test in compiled} == {n for n in dbt.manifest(home)["nodes"] if n.startswith("test.")}
    monkeypatch.setattr(dbt, "_tests", {})
    with monkeypatch.context() as patch:
        patch.setattr(dbt, "_compile_tests", None)  # another process reads what is kept
        assert dbt.data_tests(home) == compiled
    for content in (kept.read_text()[:1000], json.dumps({"state": "another", "tests": []})):
        kept.write_text(content)
        monkeypatch.setattr(dbt, "_tests", {})
        monkeypatch.setattr(dbt, "_compile_tests", lambda _: [["test.x", "x", [], "select 1"]])
        assert [test.name for test in dbt.data_tests(home)] == ["x"]
    kept.unlink()


def test_every_model_and_every_data_test_has_a_step(home: Home, manifest: dict) -> None:
    """A test is asked after a step whose tables it reads, with none that are built later; wherever it stands, one is."""

    def is_chosen(node: dict, part: str) -> bool:
        method, _, value = part.rpartition(":")
        return {
            "path": node["original_file_path"].startswith(f"{value}/"),
            "resource_type": node["resource_type"] == value,
            "": node["name"] == value,
        }[method]

    nodes = {unique_id: node for unique_id, node in manifest["nodes"].items() if unique_id.startswith(dbt.BUILT)}
    built, asked = [], set()
    for _, select in steps():
        here = {unique_id for unique_id, node in nodes.items() if any(is_chosen(node, part) for part in select)}
        known = here.union(*(dbt.ancestors(manifest, node) for node in here))
        asked |= {test.unique_id for test in dbt.data_tests(home) if test.reads & here and test.reads <= known}
        built += here
    assert sorted(built) == sorted(nodes)
    assert asked == {test.unique_id for test in dbt.data_tests(home)}


def test_every_entity_of_every_channel_is_an_asset_with_owner_kind_and_description(home: Home, loaded: dg.Definitions) -> None:
    specs = {spec.key.to_user_string(): spec for spec in loaded.resolve_all_asset_specs()}
    for channel in load_channels(home).values():
        for entity in channel.entities:
            spec = specs[f"staging/{channel.table(entity)}"]
            assert spec.group_name == "staging"
            assert spec.owners == [channel.owner]
            assert spec.kinds and spec.description


def test_layer_folder_schema_and_group_have_one_name(manifest: dict, loaded: dg.Definitions) -> None:
    groups = {spec.key.to_user_string(): spec.group_name for spec in loaded.resolve_all_asset_specs()}
    for node in manifest["nodes"].values():
        if node["resource_type"] == "model":
            layer = node["fqn"][1]
            assert node["schema"] == layer
            assert groups[f"{layer}/{node['alias']}"] == layer


def test_a_table_reads_only_from_its_own_layer_and_those_before_it(manifest: dict) -> None:
    crossings = []
    for node in manifest["nodes"].values():
        if node["resource_type"] != "model":
            continue
        for parent in node["depends_on"]["nodes"]:
            reads = (manifest["nodes"].get(parent) or manifest["sources"][parent])["schema"]
            if LAYERS.index(reads) > LAYERS.index(node["schema"]):
                crossings.append(f"{node['name']} reads {parent}")
    assert crossings == []


def test_every_model_is_described_and_its_key_tested(manifest: dict) -> None:
    tested = {node.get("attached_node") for node in manifest["nodes"].values() if node["resource_type"] == "test"}
    for name, node in manifest["nodes"].items():
        if node["resource_type"] == "model":
            assert node["description"], name
            if node["config"]["materialized"] != "view":
                assert name in tested, f"{name} has no test"


def test_every_shipped_tag_has_names_and_a_description_in_both_languages(manifest: dict) -> None:
    tags = [n for n in manifest["nodes"].values() if n["resource_type"] == "model" and "display_name_en" in n["config"]["meta"]]
    assert len(tags) >= 30
    for tag in tags:
        meta = tag["config"]["meta"]
        assert tag["description"] and meta["display_name_en"].isascii(), tag["name"]
        for key in ("display_name_zh", "description_zh"):
            assert re.search("[一-鿿]", meta[key]), (tag["name"], key)


def test_every_suite_judges_an_asset_that_exists(loaded: dg.Definitions) -> None:
    keys = {spec.key.to_user_string() for spec in loaded.resolve_all_asset_specs()}
    assert {suite.asset for suite in quality.suites()} <= keys


def test_every_audience_is_exposed_with_owner_and_purpose(manifest: dict) -> None:
    exposed = audiences(manifest)
    models = {n["alias"] for n in manifest["nodes"].values() if n["resource_type"] == "model" and n["schema"] == "audiences"}
    assert {audience.name for audience in exposed} == models
    for audience in exposed:
        assert audience.owner and audience.purpose
        # What it is built from is proven before it is published.
        assert {"identity/assignments", "unified/customers"} <= audience.reads


def test_public_tables_are_masked_where_they_name_people(manifest: dict) -> None:
    open_columns = {table.name: dict(table.masked) for table in public_tables(manifest)}
    assert {"unified.customers", "unified.customer_events", "tags.customer_tags", "audiences.memberships"} <= set(open_columns)
    assert not {"email", "phone", "full_name", "address", "birth_date"} & set(open_columns["unified.customers"])
    assert not {"text", "url", "properties", "search_term"} & set(open_columns["unified.customer_events"])
    assert open_columns["unified.customer_identifiers"]["identifier_value"] == "identifier_token"


def test_a_chain_of_jobs_and_sensors_covers_every_asset(loaded: dg.Definitions) -> None:
    covered: set[str] = set()
    for name in ("ingest", "refresh", "publish"):
        job = loaded.resolve_job_def(name)
        covered |= {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    built = {s.key.to_user_string() for s in loaded.resolve_all_asset_specs() if s.group_name != "default"}
    assert json.dumps(sorted(built - covered)) == "[]"
