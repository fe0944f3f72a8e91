"""Which files a source finds: what is complete and its own, wherever it lies."""

import os
import time
from pathlib import Path

import fsspec
import pytest

from dagster_project.lib.contracts import ChannelContract, Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.files import content_hash, landed_files

TEXT = "thing_id\n1\n"


def shop(*sources: Source) -> ChannelContract:
    things = {"description": "Things.", "kind": "record", "key": ["thing_id"], "columns": {"thing_id": {}}}
    if sources:
        things["sources"] = [source.model_dump() for source in sources]
    return ChannelContract(channel="shop", description="A shop.", owner="team:shop", entities={"things": things})


def found(home, source: Source | None = None, *others: Source, settle_seconds: float = 0) -> list[str]:
    source = source or Source()
    return [f.uri for f in landed_files(home, shop(source, *others), "things", source, settle_seconds)]


def test_files_at_any_depth_below_the_entitys_folder_are_found_by_name(home, land):
    for name in ("shop/things/b.csv", "shop/things/2024/05/a.jsonl.gz", "shop/things/c.parquet"):
        land(home, name, TEXT)
    assert found(home) == [
        "landing/shop/things/2024/05/a.jsonl.gz", "landing/shop/things/b.csv", "landing/shop/things/c.parquet",
    ]  # fmt: skip


def test_other_entities_and_channels_files_are_not_found(home, land):
    for name in ("shop/others/a.csv", "store/things/a.csv", "shop/a.csv", "things/a.csv"):
        land(home, name, TEXT)
    assert found(home) == []


@pytest.mark.parametrize("name", [".a.csv", "_SUCCESS", "a.csv.part", "a.csv.tmp", "a.csv.partial", "a.csv.crdownload",
                                  "_temporary/0/part-0.csv", ".sync/a.csv"])  # fmt: skip
def test_a_file_that_a_tool_still_writes_is_left_alone(home, land, name):
    land(home, f"shop/things/{name}", TEXT)
    land(home, "shop/things/done.csv", TEXT)
    assert found(home) == ["landing/shop/things/done.csv"]


@pytest.mark.parametrize("location", ["_erp/*.csv", "{landing}/_erp/*.csv", "file://{landing}/_erp/*.csv"])
def test_a_folder_that_a_location_spells_out_is_read_whatever_its_name(home, land, location):
    land(home, "_erp/a.csv", TEXT)
    assert len(found(home, Source(name="erp", location=location.format(landing=home.landing)))) == 1


def test_a_file_is_left_alone_until_it_is_unchanged_for_the_settling_time(home, land):
    fresh, settled = land(home, "shop/things/fresh.csv", TEXT), land(home, "shop/things/settled.csv", TEXT)
    os.utime(fresh, (time.time(), time.time()))
    os.utime(settled, (time.time() - 3600, time.time() - 3600))
    assert found(home, settle_seconds=1800) == ["landing/shop/things/settled.csv"]


def test_without_a_settling_time_a_fresh_file_is_found(home, land):
    land(home, "shop/things/fresh.csv", TEXT)
    assert found(home) == ["landing/shop/things/fresh.csv"]


def test_a_glob_is_looked_for_below_landing(home, land):
    land(home, "erp/out/things_1.csv", TEXT)
    land(home, "erp/out/people_1.csv", TEXT)
    assert found(home, Source(name="erp", location="erp/out/things_*.csv")) == ["landing/erp/out/things_1.csv"]


@pytest.mark.parametrize("absolute", [False, True], ids=["below landing", "absolute path"])
def test_a_source_with_a_location_of_its_own_claims_its_files_from_the_default_source(home, land, absolute):
    land(home, "shop/things/erp/a.csv", TEXT)
    land(home, "shop/things/b.csv", TEXT)
    location = f"{home.landing}/shop/things/erp/*.csv" if absolute else "shop/things/erp/*.csv"
    assert found(home, Source(), Source(name="erp", location=location)) == ["landing/shop/things/b.csv"]


def test_an_absolute_path_is_read_where_it_is(home, tmp_path):
    file = tmp_path / "elsewhere" / "a.csv"
    file.parent.mkdir()
    file.write_text(TEXT)
    assert found(home, Source(name="erp", location=f"{file.parent}/*.csv")) == [str(file)]


def test_a_file_url_is_found_and_fetched_as_it_is(home, tmp_path):
    file = tmp_path / "elsewhere" / "a.csv"
    file.parent.mkdir()
    file.write_text(TEXT)
    source = Source(name="remote", location=f"file://{file.parent}/*.csv")
    (landed,) = landed_files(home, shop(source), "things", source)
    with landed.local(home) as copy:
        assert (landed.uri, copy.read_text()) == (f"file://{file}", TEXT)


def test_an_object_stores_file_is_found_and_fetched_as_it_is(home):
    with fsspec.open("memory://bucket/shop/a.csv", "w") as remote:
        remote.write(TEXT)
    source = Source(name="remote", location="memory://bucket/shop/*.csv")
    (landed,) = landed_files(home, shop(source), "things", source)
    with landed.local(home) as copy:
        assert (landed.size, copy.name, copy.read_text()) == (len(TEXT), "a.csv", TEXT)


def test_a_fetched_copy_is_gone_after_its_use(home):
    with fsspec.open("memory://bucket/gone/a.csv", "w") as remote:
        remote.write(TEXT)
    source = Source(name="remote", location="memory://bucket/gone/*.csv")
    (landed,) = landed_files(home, shop(source), "things", source)
    with landed.local(home) as copy:
        pass
    assert not copy.exists()


def test_an_unfinished_remote_file_is_left_alone(home):
    for name in ("a.csv.part", "_SUCCESS", "done.csv"):
        with fsspec.open(f"memory://bucket/writing/{name}", "w") as remote:
            remote.write(TEXT)
    uris = found(home, Source(name="remote", location="memory://bucket/writing/*"))
    assert [uri.rsplit("/", 1)[-1] for uri in uris] == ["done.csv"]


def test_a_location_that_cannot_be_listed_is_named_with_a_remedy(home):
    with pytest.raises(OnefoldError, match=r"nowhere://x/\*.csv: cannot be listed: .*; check the address"):
        found(home, Source(name="remote", location="nowhere://x/*.csv"))


def test_a_rewritten_file_is_another_file(home, land):
    path = land(home, "shop/things/a.csv", TEXT)
    (before,) = landed_files(home, shop(), "things", Source())
    path.write_text(TEXT + "2\n")
    (after,) = landed_files(home, shop(), "things", Source())
    assert before.identity != after.identity


def test_the_content_hash_is_sha_256(tmp_path: Path):
    (tmp_path / "abc").write_text("abc")  # the first example of FIPS 180-2
    assert content_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
