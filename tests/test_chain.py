"""The whole chain on a small sample company, through Dagster's jobs."""

import csv
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from dagster_project.jobs import problems, run_job
from dagster_project.lib import answers, dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.identity.evaluate import evaluate
from dagster_project.lib.state import State
from simulator import SETTINGS, simulate

UNTIL = date(2026, 10, 31)
AS_OF = {"onefold/as_of": "2026-10-31T00:00:00+00:00"}
ONEFOLD = [str(Path(sys.executable).with_name("onefold"))]


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_KEY", "a key for tests")
        yield


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory, key: None) -> Home:
    """A sample company that went through all three jobs once; tests that change it take a copy."""
    home = Home(tmp_path_factory.mktemp("company")).prepare()
    (home.path / "onefold.yaml").write_text(SETTINGS)
    simulate(home.landing, answers.truth(home), people=150, days=120, seed=11, until=UNTIL)
    for channel in load_channels(home).values():
        result = run_job(home, "ingest", channel=channel)
        assert result.success, problems(result)
    for job in ("refresh", "publish"):
        result = run_job(home, job, tags=AS_OF)
        assert result.success, problems(result)
    return home


@pytest.fixture
def copy(company: Home, tmp_path: Path) -> Home:
    return _copy(company, tmp_path / "copy")


def _copy(company: Home, to: Path) -> Home:
    # Serving names its parts by absolute path, so that it does not move; a copy makes its own.
    shutil.copytree(company.path, to, symlinks=True, ignore=shutil.ignore_patterns("serving", "dbt", ".lock"))
    return Home(to).prepare()


def _rows(home: Home, query: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(query).fetchall()


def _served(home: Home, query: str, file: str = "onefold.duckdb") -> list[tuple]:
    with duckdb.connect(str((home.serving / "current" / file).resolve()), read_only=True) as connection:
        return connection.execute(query).fetchall()


def _cli(home: Home, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*ONEFOLD, "--home", str(home.path), *arguments], capture_output=True, text=True, check=False)


def _land(home: Home, place: str, rows: list[dict]) -> Path:
    file = home.landing / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# Collect ------------------------------------------------------------------------------------------------------------


def test_customers_are_the_people_at_default_noise(company: Home) -> None:
    """What is not right are records on things that people share: precision over all of them is lower."""
    found = evaluate(company, answers.truth(company) / "records.csv")
    assert found.identifier_precision >= 0.999 and found.recall_of_linked >= 0.97
    assert found.precision >= 0.98


def test_every_row_of_every_channel_is_accounted_for(company: Home) -> None:
    ledger = answers.ledger(company)
    assert [row["channel"] for row in ledger] == sorted(load_channels(company))
    for row in ledger:
        assert row["read"] == row["accepted"] + row["rejected"] + row["duplicate"], row
        assert row["refused_files"] == 0, row
    assert sum(row["rejected"] for row in ledger) == _rows(company, "select count(*) from staging._rejected")[0][0]


def test_accepted_rows_are_the_ones_the_truth_lists(company: Home) -> None:
    """Every person's record in the truth was accepted, and reached identity where it names somebody."""
    truth = answers.truth(company) / "records.csv"
    missing = _rows(
        company,
        f"""
        select count(*) from read_csv('{truth}', all_varchar = true) as t
        where concat(channel, '_', entity) = 'web_events'
            and record_id not in (select event_id from staging.web_events)
        """,
    )
    assert missing == [(0,)]


# Clean and identify -------------------------------------------------------------------------------------------------


def test_no_event_is_counted_twice_although_files_are_sent_twice(company: Home) -> None:
    assert _rows(
        company, "select count(*) from (select event_id from cleaned.events group by event_id having count(*) > 1)"
    ) == [(0,)]
    copies = _rows(company, "select count(distinct event_id) from staging.web_events")[0][0]
    assert _rows(company, "select count(*) from cleaned.web_events")[0][0] == copies


def test_blocked_values_identify_nobody(company: Home) -> None:
    blocked = _rows(
        company,
        "select count(*) from identity.assignments where lower(identifier_value) in "
        "('null', '0', 'anonymous', 'unknown', 'none', '-1', 'test')",
    )
    assert blocked == [(0,)]
    seen = _rows(company, "select count(*) from identity.sightings where not is_usable and is_valid")
    assert seen[0][0] > 0  # the sample company has such values


def test_customers_are_close_to_the_people_behind_them(company: Home) -> None:
    """First form: plain components. Broad bounds; the OneID benchmarks hold the sharp ones."""
    found = answers.customers(company)[0]
    assert found["pairwise_precision"] > 0.8
    assert found["pairwise_recall"] > 0.7


def test_bots_staff_and_tests_are_told_from_customers(company: Home) -> None:
    """By every visit of the truth; single events may lack the user agent or address that shows it."""
    truth = f"read_csv('{answers.truth(company) / 'traffic.csv'}', all_varchar = true)"
    visits = _rows(
        company,
        f"""
        select coalesce(truth.traffic, 'customer') as really, sessions.traffic, count(distinct session_id) as visits
        from unified.session_events as places join unified.sessions as sessions using (session_id)
        left join {truth} as truth on places.event_id = concat('web_events:', truth.record_id)
        where places.visitor_id in (  -- an event that lost its browser as well is a visit by itself
            select visitor_id from unified.session_events group by visitor_id having count(*) > 1)
        group by all
        """,
    )
    assert {(really, found) for really, found, _ in visits} == {(t, t) for t in ("customer", "bot", "staff", "test")}
    assert min(count for *_, count in visits) >= 3
    # None of their events counts for anybody.
    counted = _rows(company, "select sum(event_count), count(*) filter (traffic <> 'customer') from unified.customers")
    events = _rows(
        company, "select count(*) from unified.customer_events where customer_id is not null and traffic = 'customer'"
    )
    assert counted[0][0] == events[0][0] and counted[0][1] > 20


def test_every_tracker_event_is_in_one_session_and_no_order_in_two(company: Home) -> None:
    assert _rows(company, "select count(*) from unified.session_events") == _rows(
        company, "select count(*) from cleaned.events where channel in ('web', 'app', 'mini_program')"
    )
    [(credited, orders)] = _rows(
        company,
        "select (select sum(order_count) from unified.sessions), count(*) from unified.customer_events "
        "where event_name = 'order_placed'",
    )
    assert orders * 0.5 < credited <= orders


def test_every_rule_gives_what_its_worked_example_says(company: Home) -> None:
    """dbt's unit tests; they need the tables to exist, and touch none."""
    outcomes = []

    def on_event(event: object) -> None:
        if event.info.name == "LogTestResult":
            outcomes.append((event.data.node_info.node_name, event.data.status.lower()))

    result = dbt.run(company, ["test", "--select", "test_type:unit"], on_event=on_event)
    assert result.success, dbt.failures(result)
    assert len(outcomes) >= 25
    assert {status for _, status in outcomes} == {"pass"}


# Once more ----------------------------------------------------------------------------------------------------------


def test_a_second_run_of_everything_changes_nothing(copy: Home) -> None:
    tables = ("audiences.memberships", "audiences.changes", "identity._changes", "cleaned.events", "staging.web_events")
    before = {table: _rows(copy, f"select count(*) from {table}") for table in tables}
    files = sorted(copy.deliveries.glob("*/*"))
    for channel in load_channels(copy).values():
        assert run_job(copy, "ingest", channel=channel).success
    for job in ("refresh", "publish"):
        assert run_job(copy, job, tags=AS_OF).success
    assert {table: _rows(copy, f"select count(*) from {table}") for table in tables} == before
    assert sorted(copy.deliveries.glob("*/*")) == files


def test_a_full_rebuild_keeps_every_customer_id_and_gives_the_same_rows(copy: Home) -> None:
    before = {table: _content(copy, table) for table in ("cleaned.events", "identity.assignments", "unified.customers")}
    assert run_job(copy, "refresh", tags={**AS_OF, "onefold/full_refresh": "true"}).success
    for table, content in before.items():
        assert _content(copy, table) == content, table


def _content(home: Home, table: str, without: str = "") -> list[tuple]:
    with home.connect("test") as connection:
        names = [row[0] for row in connection.execute(f"describe {table}").fetchall()]
        dropped = {"_seq", *(name.strip() for name in without.split(","))}
        columns = ", ".join(name for name in names if name not in dropped)
        return connection.execute(f"select {columns} from {table} order by all").fetchall()


# Quality gates ------------------------------------------------------------------------------------------------------


def _strangers(home: Home) -> None:
    """A channel that lost its identifiers: many visitors whom no other channel knows."""
    rows = [
        {"event_id": f"x{n}", "event_name": "page_viewed", "occurred_at": "2026-10-30T10:00:00Z", "anonymous_id": f"lost-{n}"}
        for n in range(3000)
    ]
    _land(home, "web/events/strangers.jsonl", rows)


def test_a_fallen_match_rate_blocks_everything_built_on_it(copy: Home) -> None:
    assert run_job(copy, "refresh", tags=AS_OF).success  # gives the copy its serving files
    served = (copy.serving / "current").resolve()
    published = _rows(copy, "select * from audiences.publications order by all")
    refreshed = State(copy).last_finished_refresh()
    _strangers(copy)
    assert run_job(copy, "ingest", channel=load_channels(copy)["web"]).success

    result = run_job(copy, "refresh", tags=AS_OF)

    assert not result.success
    [check] = [c for c in result.get_asset_check_evaluations() if not c.passed and c.blocking]
    assert check.check_name == "identity"
    assert "match_rate of all channels is 0." in check.description
    numbers, keys = check.metadata["numbers"].value, check.metadata["look_at"].value
    assert "match_rate_to_usual" in numbers
    assert "web_events" in keys and "x" in keys
    assert "@" not in keys  # keys only, no contact value
    assert (copy.serving / "current").resolve() == served
    assert State(copy).last_finished_refresh() == refreshed
    # The tables in the warehouse are those of the blocked refresh: they may not be published as those of the last good one.
    publication = run_job(copy, "publish")
    assert not publication.success
    assert all("did not finish" in problem for problem in problems(publication))
    assert _rows(copy, "select * from audiences.publications order by all") == published

    # The same numbers, approved by a person, become the usual.
    done = _cli(copy, "approve", "identity", "--reason", "a campaign brought visitors", "--by", "test")
    assert done.returncode == 0, done.stderr
    result = run_job(copy, "refresh", tags=AS_OF)
    assert result.success, problems(result)
    assert (copy.serving / "current").resolve() != served


def test_rows_that_a_data_test_finds_wrong_stop_what_reads_them(copy: Home) -> None:
    """Customer ids above all, which keep what they were told."""
    event = {"event_id": "x", "event_name": "page_viewed", "occurred_at": "2026-10-30T10:00:00Z", "anonymous_id": "stranger"}
    _land(copy, "web/events/stranger.jsonl", [event])
    assert run_job(copy, "ingest", channel=load_channels(copy)["web"]).success
    with copy.connect("test") as connection:
        connection.execute("insert into cleaned.web_events select * from cleaned.web_events limit 1")
    served = (copy.serving / "current").resolve()
    stranger = "select count(*) from identity.assignments where identifier_value = 'stranger'"
    result = run_job(copy, "refresh", tags={"onefold/as_of": "2026-11-01"})  # whole tables are tested once a day
    assert not result.success
    assert "unique_cleaned_web_events_record_id: 1 rows are wrong" in " ".join(problems(result))
    checks = {(check.asset_key, check.check_name): check for check in result.get_asset_check_evaluations()}
    [wrong] = [check for check in checks.values() if not check.passed and "rows_wrong" in check.metadata]
    assert (wrong.check_name, wrong.metadata["rows_wrong"].value) == ("unique_cleaned_web_events_record_id", 1)
    # Every other data test of the step was answered, too; those of later steps were not asked.
    answered = {name for _, name in checks}
    manifest = dbt.manifest(copy)
    tests = {test.name: {manifest["nodes"][node]["schema"] for node in test.reads} for test in dbt.data_tests(copy)}
    early, late = {"reference", "cleaned"}, {"identity", "unified", "tags", "audiences", "analytics"}
    asked = {"unique_cleaned_events_event_id", "not_null_cleaned_web_events_record_id"}
    assert asked <= {name for name, schemas in tests.items() if schemas <= early} & answered
    assert not {name for name, schemas in tests.items() if schemas & late} & answered
    assert _rows(copy, stranger) == [(0,)]
    assert (copy.serving / "current").resolve() == served

    with copy.connect("test") as connection:
        twice = "select max(rowid) from cleaned.web_events group by record_id having count(*) > 1"
        connection.execute(f"delete from cleaned.web_events where rowid in ({twice})")
    result = run_job(copy, "refresh", tags={"onefold/as_of": "2026-11-01"})
    assert result.success, problems(result)
    assert _rows(copy, stranger) == [(1,)]


def test_nothing_is_published_whose_checks_are_not_on_record(copy: Home) -> None:
    before = _rows(copy, "select count(*) from audiences.publications")
    with copy.connect("test") as connection:
        connection.execute("delete from quality.results where suite = 'identity'")
    result = run_job(copy, "publish")
    assert not result.success
    assert any("identity did not run on identity/assignments" in problem for problem in problems(result))
    assert _rows(copy, "select count(*) from audiences.publications") == before


# Publish ------------------------------------------------------------------------------------------------------------


def test_published_files_replay_to_the_memberships(company: Home) -> None:
    for name in {row[0] for row in _rows(company, "select distinct audience from audiences.publications")}:
        members: set[str] = set()
        for file in sorted((company.deliveries / name).glob("*.csv")):
            with file.open() as handle:
                for row in csv.DictReader(handle):
                    assert row["audience"] == name
                    (members.add if row["operation"] == "add" else members.remove)(row["customer_id"])
        held = _rows(company, f"select customer_id from audiences.memberships where audience = '{name}' and left_at is null")
        assert members == {customer for (customer,) in held}


def test_all_six_audiences_have_members_and_only_those_who_may_be_contacted(company: Home) -> None:
    sizes = dict(_rows(company, "select audience, count(*) from audiences.memberships where left_at is null group by 1"))
    assert len(sizes) == 6 and min(sizes.values()) > 0
    without = _rows(
        company,
        """
        select count(*) from audiences.memberships where left_at is null and customer_id not in (
            select customer_id from unified.contact_permissions where purpose = 'marketing' and is_allowed)
        """,
    )
    assert without == [(0,)]
    model = _rows(company, "select count(*) from audiences.category_fans")[0][0]
    excluded = _rows(company, "select count(*) from audiences.exclusions where audience = 'category_fans'")[0][0]
    assert sizes["category_fans"] + excluded == model


def test_memberships_move_by_differences(copy: Home) -> None:
    [(leaver, joiner)] = _rows(
        copy,
        """
        select (select min(customer_id) from audiences.memberships where audience = 'category_fans' and left_at is null),
            (select min(customer_id) from unified.contact_permissions
             where purpose = 'marketing' and is_allowed and customer_id not in (
                select customer_id from audiences.category_fans))
        """,
    )
    with copy.connect("test") as connection:  # as if the model had changed
        connection.execute("delete from audiences.category_fans where customer_id = ?", [leaver])
        connection.execute("insert into audiences.category_fans values (?)", [joiner])
    assert run_job(copy, "publish").success
    changes = "select operation, customer_id from audiences.changes where audience = 'category_fans' and version = 2 order by 1"
    assert _rows(copy, changes) == [("add", joiner), ("remove", leaver)]
    with (copy.deliveries / "category_fans" / "v000002.csv").open() as handle:
        assert [(row["operation"], row["customer_id"]) for row in csv.DictReader(handle)] == [
            ("add", joiner),
            ("remove", leaver),
        ]
    assert _rows(
        copy,
        f"select count(*) from audiences.memberships where customer_id = '{leaver}' and left_at is not null "
        "and audience = 'category_fans'",
    ) == [(1,)]


def test_an_empty_model_removes_nobody_and_does_not_hold_up_the_others(copy: Home) -> None:
    members = _rows(copy, "select count(*) from audiences.memberships where left_at is null")
    with copy.connect("test") as connection:
        connection.execute("delete from audiences.category_fans")
    result = run_job(copy, "publish")
    assert not result.success
    assert any("an empty source removes nobody" in problem for problem in problems(result))
    assert _rows(copy, "select count(*) from audiences.memberships where left_at is null") == members
    materialized = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert "lapsed_buyers" in materialized and "category_fans" not in materialized


def test_a_version_that_was_not_written_is_written_by_the_next_run(copy: Home) -> None:
    file = copy.deliveries / "lapsed_buyers" / "v000001.csv"
    content = file.read_text()
    file.unlink()
    with copy.connect("test") as connection:  # killed between commit and file
        connection.execute("update audiences.publications set delivered_to = null where audience = 'lapsed_buyers'")
    assert run_job(copy, "publish").success
    assert file.read_text() == content


# Serve --------------------------------------------------------------------------------------------------------------


def test_the_masked_file_holds_no_contact_value_or_name(company: Home) -> None:
    """Every text of every masked table against every e-mail, phone and full name of the truth."""
    with (answers.truth(company) / "people.csv").open() as handle:
        people = list(csv.DictReader(handle))
    secrets = {person[field] for person in people for field in ("email", "phone", "full_name") if person[field]}
    assert len(secrets) > 200
    tables = _served(
        company,
        "select schema_name, table_name from duckdb_tables() union select schema_name, view_name "
        "from duckdb_views() where not internal",
    )
    assert ("unified", "customers") in tables and ("unified", "customer_events") in tables
    for schema, table in tables:
        columns = [row[0] for row in _served(company, f"describe {schema}.{table}") if "VARCHAR" in row[1]]
        for column in columns:
            values = {row[0] for row in _served(company, f"select distinct {column} from {schema}.{table}")}
            assert not values & secrets, f"{schema}.{table}.{column}"
            assert not any("@" in str(value) for value in values if column != "owner"), f"{schema}.{table}.{column}"


def test_the_private_file_is_for_its_owner_and_the_masked_one_cannot_be_written(company: Home) -> None:
    current = company.serving / "current"
    assert stat.S_IMODE((current / "onefold_private.duckdb").stat().st_mode) == 0o600
    assert stat.S_IMODE((current / "onefold.duckdb").stat().st_mode) == 0o444
    assert _served(company, "select count(email) from unified.customers", "onefold_private.duckdb")[0][0] > 0


def test_served_tables_equal_the_warehouse(company: Home) -> None:
    for table in ("unified.customers", "unified.customer_events", "tags.customer_tags", "audiences.memberships"):
        assert _served(company, f"select count(*) from {table}") == _rows(company, f"select count(*) from {table}"), table


# Ask ----------------------------------------------------------------------------------------------------------------


def test_every_answer_is_also_json(company: Home) -> None:
    [(customer, identifier)] = _rows(
        company,
        "select customer_id, concat(identifier_type, ':', identifier_value) from identity.assignments "
        "where identifier_type = 'email' order by 2 limit 1",
    )
    commands = ["status", "tag list", "audience list", "rejected list --limit 3", "check"]
    commands += [f"customer {identifier}", f"customer {customer}"]
    answered = {command: json.loads(_cli(company, *command.split(), "--json").stdout) for command in commands}
    assert len(answered["status"]["channels"]) == 17
    assert {row["tag"] for row in answered["tag list"]} >= {"rfm", "city", "lifecycle"}
    assert len(answered["audience list"]) == 6
    assert len(answered["rejected list --limit 3"]) == 3
    assert answered[f"customer {identifier}"] == answered[f"customer {customer}"]
    assert answered[f"customer {customer}"]["profile"]["customer_id"] == customer
    assert answered["check"]["entities"] == sum(len(channel.entities) for channel in load_channels(company).values())


def test_an_unknown_customer_is_an_error_with_a_remedy(company: Home) -> None:
    done = _cli(company, "customer", "nobody")
    assert done.returncode == 1
    assert "nobody is known as 'nobody'; give a customer id" in done.stderr


# By itself ----------------------------------------------------------------------------------------------------------


def test_a_dropped_file_reaches_published_audiences_by_itself(copy: Home) -> None:
    """`onefold dev` with its sensors; the only act is to drop a file."""
    now = datetime.now(UTC)
    # The sample company ends on a fixed day and this runs on the present one: tags may have faded since.
    State(copy).approve("tags", "test", "time has passed")
    [(customer, user)] = _rows(
        copy,
        """
        select customer_id, identifier_value from identity.assignments
        where identifier_type = 'user_id' and customer_id in (
            select customer_id from unified.contact_permissions where purpose = 'marketing' and is_allowed)
            and customer_id not in (select customer_id from audiences.searched_not_bought)
        order by 2 limit 1
        """,
    )
    log = (copy.path / "dev.log").open("w")
    process = subprocess.Popen(
        [*ONEFOLD, "--home", str(copy.path), "dev", "--port", "3917"],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _land(
            copy,
            "web/events/dropped.jsonl",
            [
                {
                    "event_id": "dropped-1",
                    "event_name": "searched",
                    "occurred_at": (now - timedelta(hours=1)).isoformat(),
                    "user_id": user,
                    "search_term": "tea",
                }
            ],
        )
        deadline = time.monotonic() + 420
        found: list[str] = []
        while not found and time.monotonic() < deadline:
            assert process.poll() is None, (copy.path / "dev.log").read_text()[-3000:]
            time.sleep(3)
            for file in (copy.deliveries / "searched_not_bought").glob("*.csv"):
                with file.open() as handle:
                    found += [r["operation"] for r in csv.DictReader(handle) if r["customer_id"] == customer]
        assert found == ["add"], (copy.path / "dev.log").read_text()[-3000:]
        # Served again with the new memberships: the reader's view follows the publication.
        while time.monotonic() < deadline:
            if _served(
                copy,
                f"select count(*) from audiences.memberships where customer_id = '{customer}' "
                "and audience = 'searched_not_bought' and left_at is null",
            ) == [(1,)]:
                break
            time.sleep(2)
        else:
            pytest.fail("the membership was published but not served")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
