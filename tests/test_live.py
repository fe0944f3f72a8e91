"""The continuous mode: what it brings, tells Dagster and leaves to others; and the benchmarks, small, as they run it."""

import csv
import json
from datetime import UTC, datetime

import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner
from rows import land_rows

from dagster_project.cli import main
from dagster_project.defs import automation
from dagster_project.jobs import report_pass
from dagster_project.lib import dbt, quality, serving
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import _HELD, Home
from dagster_project.lib.live import RUN, Live, Pass
from dagster_project.lib.state import Decision, State

ANNA = {"contact_id": "k1", "user_id": "u1", "email": "anna@mail.cn", "city": "上海", "updated_at": "2025-01-01"}
CONSENT = {"identifier_type": "email", "identifier_value": "anna@mail.cn", "purpose": "marketing", "status": "granted"}


def _passes(home: Home, reported: list[Pass] | None = None) -> list[Pass]:
    return list(Live(home, (reported if reported is not None else []).append).passes(until_idle=True))


def _served(home: Home, query: str) -> list[tuple]:
    with duckdb.connect(str((home.serving / "current" / "onefold_private.duckdb").resolve()), read_only=True) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def settled(home: Home) -> Home:
    (home.path / "onefold.yaml").write_text("landing_settle_seconds: 0\n")
    return home


def test_new_files_reach_the_audiences_readers_and_dagster(settled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home, reported = settled, []
    land_rows(home, "crm/contacts/a.csv", [ANNA])
    [first] = _passes(home, reported)
    assert (first.problems, first.rows) == ([], 1)
    city = next(p for p in first.publications if p.audience == "first_tier_city_customers")
    assert (city.members, city.excluded) == (0, 1)  # nobody asked her yet

    land_rows(home, "crm/consents/a.csv", [{**CONSENT, "occurred_at": "2025-02-01"}])
    [second] = _passes(home, reported)
    city = next(p for p in second.publications if p.audience == "first_tier_city_customers")
    assert (city.added, city.members) == (1, 1)
    assert "cleaned/crm_consents" in second.built and "cleaned/crm_contacts" not in second.built
    assert _served(home, "select count(*) from audiences.memberships where left_at is null") == [(1,)]
    assert _passes(home) == []
    state = State(home)
    # A process that was killed before it served: the next one does it.
    (home.serving / "current").unlink()
    (home.serving / "current").symlink_to(f"versions/{min(v.name for v in (home.serving / 'versions').iterdir())}")
    assert _passes(home) == [] and serving.served_refresh(home) == second.refresh.number
    assert state.progress("refreshed") == state.progress("loaded") and state.progress("published") == second.refresh.number

    with dg.instance_for_test() as instance:
        for done in reported:
            report_pass(instance, done)
        [event] = instance.fetch_materializations(dg.AssetKey(["staging", "crm_consents"]), limit=5).records
        assert event.asset_materialization.metadata["rows_accepted"].value == 1
        delivery = instance.get_latest_materialization_event(dg.AssetKey(["deliveries", "first_tier_city_customers"]))
        assert delivery.asset_materialization.metadata["members"].value == 1
    assert {verdict.suite.name for verdict in second.verdicts} == {suite.name for suite in quality.suites()}


def test_a_merge_and_a_split_reach_events_tags_audiences_and_their_destination(settled: Home) -> None:
    home = settled
    zhao = {**ANNA, "contact_id": "k2", "user_id": "", "email": "zhao@mail.cn", "city": "北京"}
    granted = [{**CONSENT, "identifier_value": who, "occurred_at": "2025-02-01"} for who in ("anna@mail.cn", "zhao@mail.cn")]
    land_rows(home, "crm/contacts/a.csv", [ANNA, zhao])
    land_rows(home, "crm/consents/a.csv", granted)
    order = {"ordered_at": "2025-03-01", "status": "paid", "amount": 10, "currency": "CNY"}
    land_rows(home, "orders/orders/a.csv", [{"order_id": "o1", "email": "zhao@mail.cn", **order}])
    assert len(_passes(home)) == 1
    ids = dict(_served(home, "select identifier_value, customer_id from identity.assignments where identifier_type = 'email'"))
    anna, other = ids["anna@mail.cn"], ids["zhao@mail.cn"]
    sent = home.deliveries / "first_tier_city_customers"

    def operations(version: int) -> set[tuple[str, str]]:
        with (sent / f"v{version:06}.csv").open() as handle:
            return {(row["operation"], row["customer_id"]) for row in csv.DictReader(handle)}

    def orders() -> dict[str, str]:
        return dict(
            _served(home, "select record_id, customer_id from unified.customer_events where event_name = 'order_placed'")
        )

    def tagged() -> set[str]:
        return {name for (name,) in _served(home, "select distinct customer_id from tags.customer_tags")}

    def members() -> set[str]:
        return {name for (name,) in _served(home, "select customer_id from audiences.memberships where left_at is null")}

    assert operations(1) == {("add", anna), ("add", other)} and orders() == {"o1": other} and tagged() == {anna, other}

    seen = {"event_id": "e1", "event_name": "page_viewed", "occurred_at": "2025-03-02", "anonymous_id": "a1"}
    land_rows(home, "web/events/a.csv", [{**seen, "user_id": "u1", "email": "zhao@mail.cn"}])
    assert len(_passes(home)) == 1
    [(kept,)] = _served(home, "select customer_id from unified.customers where is_known")
    [gone] = {anna, other} - {kept}
    assert _served(home, "select from_customer_id, to_customer_id from identity.redirects") == [(gone, kept)]
    assert operations(2) == {("remove", gone)}
    why = "select customer_id, left_reason from audiences.memberships where left_at is not null"
    assert _served(home, why) == [(gone, f"merged into {kept}")]
    assert members() == tagged() == {kept} and orders() == {"o1": kept}

    now = datetime.now(UTC)
    State(home).decide(Decision("different", "user_id:u1", "email:zhao@mail.cn", None, "lin@example.com", "two women", now))
    land_rows(home, "web/events/b.csv", [{**seen, "event_id": "e2", "user_id": "u1"}])
    assert len(_passes(home)) == 1
    ids = dict(_served(home, "select identifier_value, customer_id from identity.assignments where identifier_type = 'email'"))
    apart = set(ids.values())
    assert len(apart) == 2 and kept in apart and gone not in apart
    [new] = apart - {kept}
    assert operations(3) == {("add", new)}
    why = "select kind, reason from audiences.changes where version = 3"
    assert _served(home, why) == [("split", f"split off from {kept}, who was in")]
    assert members() == apart and orders() == {"o1": ids["zhao@mail.cn"]} and tagged() == apart


def test_the_warehouse_stays_open_as_long_as_files_keep_coming(settled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(Home, "_open", lambda home, _open=Home._open: opened.append(home) or _open(home))
    busy = Live(settled, report=lambda done: None).while_busy()
    for number in range(2):
        land_rows(settled, f"crm/contacts/{number}.csv", [{**ANNA, "contact_id": f"k{number}"}])
        assert next(busy).problems == []
        assert len(opened) == 1
    assert next(busy, None) is None
    with settled.connect("somebody else") as connection:
        assert connection.execute("select count(*) from cleaned.crm_contacts").fetchone() == (2,)
    assert len(opened) == 2


def test_a_warehouse_that_somebody_holds_is_waited_for(settled: Home, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def held(home: Home) -> None:
        raise OnefoldError("held by somebody")

    land_rows(settled, "crm/contacts/a.csv", [ANNA])
    live = Live(settled, report=lambda done: None)
    with monkeypatch.context() as somebody:
        somebody.setattr(Home, "_open", held)
        assert list(live.passes(until_idle=True)) == []
    assert "nothing is loaded: held by somebody" in caplog.text
    assert [done.rows for done in live.passes(until_idle=True)] == [1]


def test_a_home_with_a_source_on_the_network_holds_no_lock_between_passes(settled: Home) -> None:
    (settled.sources / "email.yaml").write_text(
        "channel: email\nentities: {events: [{name: remote, location: 'http://127.0.0.1:9/mail/*.csv'}]}\n"
    )
    land_rows(settled, "crm/contacts/a.csv", [ANNA])
    busy = Live(settled, report=lambda done: None).while_busy()
    assert next(busy).problems == []
    assert (settled.path / ".lock") not in _HELD


def test_a_pass_that_a_check_stops_publishes_nothing_and_comes_again_with_new_files(settled: Home) -> None:
    home = settled
    rows = [
        {**ANNA, "contact_id": f"k{n}", "user_id": f"u{n}", "updated_at": "2025-01-01" if n > 50 else "?"} for n in range(200)
    ]
    land_rows(home, "crm/contacts/a.csv", rows)
    [stopped] = _passes(home)
    assert "ingestion failed on cleaned/events" in stopped.problems[0]
    assert stopped.publications == [] and not (home.serving / "current").exists()
    good = [{**row, "contact_id": f"n{n}", "updated_at": "2025-01-01"} for n, row in enumerate(rows * 3)]
    land_rows(home, "crm/contacts/b.csv", good)
    [healed] = _passes(home)
    assert healed.problems == [] and len(healed.publications) > 0


def test_it_finds_the_wrong_rows_that_dbt_finds_and_publishes_nothing(settled: Home) -> None:
    home = settled
    land_rows(home, "crm/contacts/a.csv", [ANNA, {**ANNA, "contact_id": "k2", "user_id": "u2", "email": "b@mail.cn"}])
    [first] = _passes(home)
    assert first.problems == []
    with home.connect("test") as connection:
        # As a model with a mistake in it would leave them; written since the last refresh.
        connection.execute("update unified.customer_attributes set attribute_key = 'twice', _seq = _seq + 1")
        wrong = {
            name: rows for name, rows in ((test.name, test.wrong(connection, first.refresh.as_of, first.refresh.loaded))
            for test in dbt.data_tests(home)) if rows
        }  # fmt: skip
    found = dbt.run(home, ["test", "--select", "test_type:data"], as_of=first.refresh.as_of)
    assert wrong == {r.node.name: r.failures for r in found.result.results if r.failures} != {}
    tests = [test for test in dbt.data_tests(home) if test.name in wrong]
    with pytest.raises(OnefoldError, match="unique_unified_customer_attributes_attribute_key: 1 rows are wrong"):
        Live(home, report=lambda done: None)._test(tests, first.refresh, first.refresh.loaded)


def test_sensors_leave_files_to_it_as_long_as_it_runs(settled: Home) -> None:
    land_rows(settled, "crm/contacts/a.csv", [ANNA])
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(instance=instance)
        settled.attend(RUN)
        assert "onefold live" in automation.landing_files.evaluate_tick(context).skip_message
        with pytest.raises(OnefoldError, match="is running already"):
            _passes(settled)
        settled.leave(RUN)
        assert len(automation.landing_files.evaluate_tick(context).run_requests) == 1


def test_the_benchmarks_measure_what_they_name(home: Home) -> None:
    done = CliRunner().invoke(main, ["--home", str(home.path), "bench", "ingest", "--events", "500", "--rounds", "1", "--json"])
    assert done.exit_code == 0, done.output
    for reader in ("onefold", "duckdb", "pandas", "dlt"):
        assert f'"reader": "{reader}"' in done.output
    sizes = ["--members", "300", "--few", "100", "--many", "400"]
    done = CliRunner().invoke(main, ["--home", str(home.path), "bench", "deliver", *sizes, "--json"])
    content = json.loads(done.output[done.output.index("{") :])
    assert [row["members"] for row in content["changes"]] == [100, 400] and content["bare"] > 0
    done = CliRunner().invoke(main, ["--home", str(home.path), "bench", "ingest", "--beside", "polars"])
    assert "duckdb, pandas, dlt, not polars" in done.output
    assert not list(home.temporary.glob("bench/*"))
