"""The circuit breaker: what stops an audience, what leaves all the same, and what an approval lets out."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from company import UNTIL
from rows import query

from dagster_project.cli import main
from dagster_project.defs import automation
from dagster_project.jobs import problems, report_pass, run_job
from dagster_project.lib import dbt, publish
from dagster_project.lib.audiences import form, project
from dagster_project.lib.audiences.form import Band, Fresh
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.live import Pass
from dagster_project.lib.publish import Audience, Publication
from dagster_project.lib.state import Refresh, State
from dagster_project.lib.stops import Stops, stopped

NAME = "category_fans"
PEOPLE = [f"p{n:03}" for n in range(300)]
STRANGERS = [f"s{n:03}" for n in range(600)]
COLUMNS = ("metric", "channel", "value", "denominator", "usual", "upper", "deviation", "is_anomaly")


@pytest.fixture(scope="module")
def published(sample_company: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The sample company with 300 people more in one audience, which was published once."""
    path = tmp_path_factory.mktemp("published") / "home"
    shutil.copytree(
        sample_company.path, path, symlinks=True, ignore=shutil.ignore_patterns("serving", "quality", ".lock", ".turn")
    )
    home = Home(path).prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(path))
        with home.connect("test") as connection:
            connection.execute(f"delete from audiences.{NAME}")
            connection.execute(
                "insert into unified.contact_permissions (customer_id, purpose, channel, is_allowed) "
                "select unnest(?::varchar[]), 'marketing', 'any', true",
                [[*PEOPLE, *STRANGERS]],
            )
        _select(home, *PEOPLE)
        result = run_job(home, "publish")
        assert result.success, problems(result)
    return home


@pytest.fixture
def home(published: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(
        published.path, tmp_path / "home", symlinks=True, ignore=shutil.ignore_patterns("serving", ".lock", ".turn")
    )
    monkeypatch.setenv("ONEFOLD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    return Home(tmp_path / "home").prepare()


def _audience(home: Home) -> Audience:
    return next(audience for audience in publish.audiences(dbt.manifest(home)) if audience.name == NAME)


def _publish(home: Home, **declared: Any) -> Publication:
    refresh = State(home).last_finished_refresh()
    return publish.publish(home, replace(_audience(home), **declared), refresh)


def _select(home: Home, *customers: str) -> None:
    """The audience's model gives these customers."""
    with home.connect("test") as connection:
        connection.execute(f"delete from audiences.{NAME}")
        connection.execute(f"insert into audiences.{NAME} select unnest(?::varchar[])", [list(customers)])


def _withdraw(home: Home, *customers: str) -> None:
    with home.connect("test") as connection:
        connection.execute(
            "update unified.contact_permissions set is_allowed = false, reason = 'denied' where list_contains(?, customer_id)",
            [list(customers)],
        )


def _refresh(home: Home, *metrics: tuple) -> Refresh:
    """Another refresh in which nothing but these metrics changed; all checks passed."""
    state = State(home)
    last = state.last_finished_refresh()
    refresh = state.refresh(f"run {last.number + 1}", last.as_of + timedelta(hours=1))
    with home.connect("test") as connection:
        for part in ("record", "batch", "customer"):
            table = f"quality.{part}_metrics"
            connection.execute(
                f"insert into {table} select * replace (? as refresh, concat('x', metric_key) as metric_key) from {table} "
                "where refresh = ?",
                [refresh.number, last.number],
            )
        connection.execute(
            "insert into quality.results select * replace (? as refresh) from quality.results where refresh = ?",
            [refresh.number, last.number],
        )
        connection.execute("update staging._built set refresh = ?", [refresh.number])
        for row in metrics:
            connection.execute(
                "delete from quality.record_metrics where refresh = ? and metric = ? and channel = ? and identifier_type = '*'",
                [refresh.number, *row[:2]],
            )
            connection.execute(
                "delete from quality.batch_metrics where refresh = ? and metric = ? and channel = ?", [refresh.number, *row[:2]]
            )
            connection.execute(
                f"insert into quality.record_metrics (metric_key, refresh, identifier_type, numerator, {', '.join(COLUMNS)}) "
                f"values (gen_random_uuid()::varchar, ?, '*', 40, {', '.join('?' * len(COLUMNS))})",
                [refresh.number, *row],
            )
    state.finish_refresh(refresh)
    return refresh


def _kept(home: Home) -> dict[str, Any]:
    """All that tells of who is in the audience, and its files."""
    tables = ("memberships", "changes", "publications", "exclusions")
    rows = {table: query(home, f"from audiences.{table} where audience = '{NAME}' order by all") for table in tables}
    return rows | {"files": sorted(file.name for file in (home.deliveries / NAME).iterdir())}


def _members(home: Home) -> set[str]:
    return {
        c
        for (c,) in query(home, f"select customer_id from audiences.memberships where audience = '{NAME}' and left_at is null")
    }


def _cli(*arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


# What stops an audience ---------------------------------------------------------------------------------------------


def test_an_audience_without_a_break_is_published_again_and_nothing_is_written(home: Home) -> None:
    before = _kept(home)
    publication = _publish(home)
    assert (publication.stop, publication.version, publication.members) == (None, 1, 300)
    assert _kept(home) == before and stopped(home) == {}


def test_the_job_stops_an_audience_says_why_everywhere_and_publishes_the_others(home: Home) -> None:
    before = _kept(home)
    _select(home, *PEOPLE[:100])
    with home.connect("test") as connection:  # one of the others moves
        connection.execute(
            "delete from audiences.lapsed_buyers where customer_id = (select min(customer_id) from audiences.lapsed_buyers)"
        )

    result = run_job(home, "publish")

    assert not result.success
    why = "it would fall from 300 to 100 members (-67%), and its band lets it fall by 30%"
    [problem] = problems(result)
    assert f"{NAME} is stopped, its 300 members stay: {why}" in problem
    assert f"onefold audience approve {NAME} --version 2" in problem
    checks = {check.asset_key.path[-1]: check for check in result.get_asset_check_evaluations()}
    assert {name for name, check in checks.items() if not check.passed} == {NAME}
    assert checks[NAME].severity == dg.AssetCheckSeverity.ERROR and why in checks[NAME].description
    [numbers] = checks[NAME].metadata["numbers"].value
    assert (numbers["kind"], numbers["members"], numbers["would_be"], numbers["shrink"]) == ("size", 300, 100, 0.3)
    [version] = checks[NAME].metadata["sizes"].records
    assert (version.data["version"], version.data["members"]) == (1, 300)
    written = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert NAME not in written and len(written) == 5
    assert _kept(home) == before  # no file, no change, nobody in or out
    [row] = json.loads(_cli("audience", "stopped", "--json"))
    assert (row["audience"], row["version"], row["members"], row["would_be"]) == (NAME, 2, 300, 100)
    assert row["findings"][0]["kind"] == "size" and why in row["findings"][0]["sentence"]
    assert json.loads(_cli("status", "--json"))["stopped"][0]["audience"] == NAME
    assert "it would fall from 300" in " ".join(_cli("audience", "stopped").split())


@pytest.mark.parametrize(
    ("size", "band", "is_stopped"),
    [
        (211, Band(), False),  # 29.7 % fewer
        (209, Band(), True),
        (449, Band(), False),
        (451, Band(), True),
        (209, Band(shrink=0.5), False),
        (251, Band(shrink=0.01), False),  # 49 fewer are too few to count
        (249, Band(shrink=0.01), True),
        (296, Band(shrink=0.01, least=3), True),
        (900, Band(grow=2.0), False),
    ],
)
def test_a_size_beyond_the_declared_band_stops_but_for_small_numbers(
    home: Home, size: int, band: Band, is_stopped: bool
) -> None:
    _select(home, *[*PEOPLE, *STRANGERS][:size])
    publication = _publish(home, band=band)
    assert (publication.stop is not None, len(_members(home))) == ((True, 300) if is_stopped else (False, size))


def test_a_first_version_has_any_size_and_one_that_never_had_members_fills(home: Home) -> None:
    with home.connect("test") as connection:
        for table in ("memberships", "changes", "publications"):
            connection.execute(f"delete from audiences.{table} where audience = '{NAME}'")
    _select(home)
    assert _publish(home).version == 1
    _select(home, *PEOPLE)
    publication = _publish(home)
    assert (publication.stop, publication.members) == (None, 300)


def test_one_that_ran_empty_is_compared_with_what_it_was(home: Home) -> None:
    _select(home)
    _publish(home)
    Stops(home).approve(NAME, "li", "the season ended")
    assert _publish(home).members == 0
    _select(home, *PEOPLE, *STRANGERS)
    assert "grow from 300 to 900" in _publish(home).stop.reason
    _select(home, *PEOPLE)
    assert _publish(home).members == 300


def test_an_empty_model_stops_whatever_the_band(home: Home) -> None:
    _select(home)
    before = _kept(home)
    stop = _publish(home, band=Band(shrink=1, least=1000)).stop
    assert (stop.kinds, stop.would_be) == ({"empty"}, 0)
    assert "an empty source removes nobody who may stay (300 members do)" in stop.reason
    assert _kept(home) == before


def test_a_refresh_that_is_older_than_declared_stops(home: Home) -> None:
    begun = (datetime.now(UTC) - timedelta(hours=50)).isoformat()
    with sqlite3.connect(home.state) as connection:
        connection.execute("update refreshes set started_at = ? where refresh = 6", [begun])
    stop = _publish(home).stop
    assert stop.kinds == {"stale"} and "refresh 6 is 50 hours old, more than 48" in stop.reason
    assert _publish(home, fresh=Fresh(within_hours=72)).stop is None


LATE = ("freshness:events", "web", 90.0, None, 24.0, 48.0, 2.75, True)


def test_a_channel_that_the_audience_names_and_that_stopped_coming_stops_it(home: Home) -> None:
    _refresh(home, LATE)
    assert _publish(home, fresh=Fresh(channels=("pos",))).stop is None
    stop = _publish(home, fresh=Fresh(channels=("pos", "web"))).stop
    assert stop.kinds == {"stale"}
    assert "freshness:events of web is 90 hours, usual 24, band to 48" in stop.reason and "approve channels" in stop.reason


def test_a_channel_that_is_gone_for_longer_than_is_looked_back_stops_unless_it_never_was_there(home: Home) -> None:
    with home.connect("test") as connection:
        connection.execute("delete from quality.batch_metrics where channel = 'web' and metric like 'freshness:%'")
    assert "nothing has come from web for nine weeks" in _publish(home, fresh=Fresh(channels=("web",))).stop.reason
    with home.connect("test") as connection:
        connection.execute("delete from staging._loads where channel = 'web'")
    assert _publish(home, fresh=Fresh(channels=("web",))).stop is None


def test_a_channel_that_no_condition_names_stops_nothing_unless_all_are_late(home: Home) -> None:
    refresh = _refresh(home, LATE)
    assert _publish(home).stop is None
    with home.connect("test") as connection:
        connection.execute(
            "update quality.batch_metrics set is_anomaly = true "
            "where refresh = ? and metric = 'freshness:events' and deviation is not null",
            [refresh.number],
        )
    stop = _publish(home).stop
    assert stop.kinds == {"stale"} and stop.reason.startswith("no channel comes any more: freshness:events of web is 90 hours")


def _match_rate(value: float, records: int = 5000) -> tuple:
    return ("match_rate", "*", value, records, 0.8, None, None, False)


def test_a_match_rate_that_falls_since_the_last_publication_stops_until_it_is_back(home: Home) -> None:
    _refresh(home, _match_rate(0.8))
    assert _publish(home).stop is None
    _refresh(home, _match_rate(0.73))  # by 9 %
    assert _publish(home).stop is None
    _refresh(home, _match_rate(0.65))  # by 11 % of what it was when the audience was last published
    stop = _publish(home).stop
    assert stop.kinds == {"match_rate"} and "fell from 0.730 to 0.650" in stop.reason
    _refresh(home, _match_rate(0.64))  # by 2 % of a refresh that was not published
    again = _publish(home).stop
    assert (again.stopped_at, again.refresh) == (stop.stopped_at, 10)
    _refresh(home, _match_rate(0.7))
    assert _publish(home).stop is None and stopped(home) == {}


def test_a_match_rate_of_a_handful_of_records_or_one_that_was_approved_stops_nothing(home: Home) -> None:
    _refresh(home, _match_rate(0.8, records=99))
    _publish(home)
    _refresh(home, _match_rate(0.5))
    assert _publish(home).stop is None
    _refresh(home, _match_rate(0.4))
    assert _publish(home).stop.kinds == {"match_rate"}
    _cli("approve", "identity", "--reason", "an app brought visitors", "--by", "li")
    assert _publish(home).stop is None


def _churn(value: float, *, is_spike: bool) -> tuple:
    return ("id_churn:customers", "*", value, 400, 0.004, 0.024, 1.8 if is_spike else 0.1, is_spike)


def test_a_spike_of_merges_stops_also_in_the_refreshes_after_it(home: Home) -> None:
    _refresh(home, _churn(0.1, is_spike=True))
    stop = _publish(home).stop
    assert stop.kinds == {"over_merge"}
    assert "40 customers were merged or split at once in refresh 7, 0.100 of all, usual 0.004, band to 0.024" in stop.reason
    _refresh(home, _churn(0.0, is_spike=False))
    assert "in refresh 7" in _publish(home).stop.reason
    _cli("approve", "identifiers", "--reason", "the shops' members were joined", "--by", "li")
    assert _publish(home).stop is None
    _refresh(home, _churn(0.0, is_spike=False))
    assert _publish(home).stop is None


def test_a_customer_that_grows_out_of_its_band_stops_as_long_as_it_is_larger_than_what_was_published(home: Home) -> None:
    def share(value: float) -> tuple:
        return ("largest_customer_share", "*", value, 5000, 0.002, 0.022, (value - 0.002) / 0.02, value > 0.022)

    _refresh(home, share(0.002))
    _publish(home)
    _refresh(home, share(0.021))  # within the band
    assert _publish(home).stop is None
    _refresh(home, share(0.04))
    stop = _publish(home).stop
    assert stop.kinds == {"over_merge"} and "largest_customer_share rose from 0.021 to 0.040" in stop.reason
    Stops(home).approve(NAME, "li", "a test account")
    assert _publish(home).stop is None
    _refresh(home, share(0.041))  # still outside, but not since what was published
    assert _publish(home).stop is None


def test_a_failed_check_is_listed_and_cannot_be_approved_here(home: Home) -> None:
    with home.connect("test") as connection:
        connection.execute("update quality.results set success = false where suite = 'identity' and refresh = 6")
    _select(home, *PEOPLE[:290])
    before = _kept(home)
    stop = _publish(home).stop
    assert str(stop).startswith(f"{NAME} is not published: identity failed on identity/assignments (refresh 6)")
    assert _kept(home) == before
    assert stopped(home)[NAME].kinds == {"checks"}
    done = CliRunner().invoke(main, ["audience", "approve", NAME, "--reason", "never mind"])
    assert done.exit_code == 1 and "identity failed on identity/assignments" in done.output
    with home.connect("test") as connection:
        connection.execute("update quality.results set success = true where suite = 'identity' and refresh = 6")
    assert _publish(home).members == 290 and NAME not in stopped(home)


# Who leaves all the same --------------------------------------------------------------------------------------------


def test_who_withdraws_consent_leaves_a_stopped_audience_and_nobody_else_moves(home: Home) -> None:
    _withdraw(home, *PEOPLE[:5])
    _select(home, *PEOPLE[:100], *STRANGERS[:3])
    result = run_job(home, "publish")
    assert not result.success and "fall from 295 to 98 members" in problems(result)[0]
    assert _members(home) == set(PEOPLE[5:])
    changes = query(
        home, f"select operation, customer_id from audiences.changes where audience = '{NAME}' and version = 2 order by 2"
    )
    assert changes == [("remove", customer) for customer in PEOPLE[:5]]
    assert len((home.deliveries / NAME / "v000002.csv").read_text().splitlines()) == 6
    assert query(home, f"select excluded, members from audiences.publications where audience = '{NAME}' and version = 2") == [
        (0, 295)
    ]
    assert stopped(home)[NAME].version == 3  # the removals took the number that came next
    materialized = {event.asset_key.path[-1]: event for event in result.get_asset_materialization_events()}
    assert materialized[NAME].step_materialization_data.materialization.metadata["removed"].value == 5
    before = _kept(home)
    assert _publish(home).stop and _kept(home) == before  # a second run has nothing left to remove


def test_any_number_may_withdraw_consent(home: Home) -> None:
    _withdraw(home, *PEOPLE[:290])
    publication = _publish(home)
    assert (publication.stop, publication.removed, publication.members) == (None, 290, 10)


def test_ids_that_were_merged_away_stay_in_an_audience_that_is_stopped_for_the_merge(home: Home) -> None:
    """Else a wrong merge would empty it, as the ids that are gone have no consent any more."""
    merged, lost = PEOPLE[:200], PEOPLE[200]
    with home.connect("test") as connection:
        for customer in merged:
            connection.execute("insert into identity._redirects values (?, 'p299', ?, 99)", [customer, UNTIL])
        connection.execute("insert into identity._redirects values (?, 'nobody knows', ?, 99)", [lost, UNTIL])
        connection.execute("delete from unified.contact_permissions where list_contains(?, customer_id)", [[*merged, lost]])
    _select(home, *PEOPLE[201:])
    _refresh(home, _churn(0.5, is_spike=True))
    stop = _publish(home).stop
    assert stop.kinds == {"size", "over_merge"}
    assert _members(home) == set(PEOPLE) - {lost}


# Approval -----------------------------------------------------------------------------------------------------------


def test_an_approved_version_is_published_once_and_kept_with_name_reason_and_time(home: Home) -> None:
    _select(home, *PEOPLE[:100])
    _publish(home)
    said = _cli("audience", "approve", NAME, "--version", "2", "--reason", "the campaign ended", "--by", "li")
    assert "version 2 may be published" in said
    assert stopped(home)[NAME].approved_by == "li"  # until it is published, it is stopped
    result = run_job(home, "publish")
    assert result.success, problems(result)
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert _members(home) == set(PEOPLE[:100]) and stopped(home) == {}
    before = _kept(home)
    assert _publish(home).stop is None and _kept(home) == before
    with sqlite3.connect(home.state) as connection:
        [kept] = connection.execute("select version, approved_by, approved_reason, ended from audience_stops").fetchall()
    assert kept == (2, "li", "the campaign ended", "approved")
    _select(home, *PEOPLE[:20])  # the approval is spent
    assert _publish(home).stop.version == 3


def test_another_version_a_wrong_name_and_no_reason_approve_nothing(home: Home) -> None:
    _select(home, *PEOPLE[:100])
    _publish(home)
    for arguments, said in (
        ([NAME, "--version", "3", "--reason", "x"], "version 2 is stopped, not 3"),
        (["lapsed_buyers", "--reason", "x"], "lapsed_buyers is not stopped"),
        ([NAME, "--reason", " "], "say why"),
        ([NAME, "lapsed_buyers", "--version", "2", "--reason", "x"], "--version goes with one audience"),
    ):
        done = CliRunner().invoke(main, ["audience", "approve", *arguments])
        assert done.exit_code == 1 and said in done.output
    assert _publish(home).stop.approved_at is None


def test_an_approval_holds_for_about_the_size_and_the_reasons_that_were_shown(home: Home) -> None:
    _select(home, *PEOPLE[:200])
    _publish(home)
    Stops(home).approve(NAME, "li", "the campaign ended")
    _select(home, *PEOPLE[:100])  # half of what was approved
    stop = _publish(home).stop
    assert (stop.would_be, stop.approved_at) == (100, None)
    Stops(home).approve(NAME, "li", "that, too")
    _select(home, *PEOPLE[:140])  # not so far
    _refresh(home, _churn(0.5, is_spike=True))
    stop = _publish(home).stop
    assert stop.kinds == {"size", "over_merge"} and stop.approved_at is None  # the second was not shown
    Stops(home).approve(NAME, "li", "both are right")
    _select(home, *PEOPLE[:120])
    assert _publish(home).members == 120
    with sqlite3.connect(home.state) as connection:
        ends = connection.execute("select would_be, ended from audience_stops order by stop").fetchall()
    assert ends == [(200, "other"), (100, "other"), (140, "approved")]


def test_an_approval_that_was_not_used_is_void_when_the_cause_is_gone(home: Home) -> None:
    _select(home, *PEOPLE[:100])
    _publish(home)
    Stops(home).approve(NAME, "li", "the campaign ended")
    _select(home, *PEOPLE)
    assert _publish(home).stop is None
    _select(home, *PEOPLE[:100])
    assert _publish(home).stop.version == 2


def test_consent_withdrawn_after_the_approval_counts_in_the_approved_version(home: Home) -> None:
    _select(home, *PEOPLE[:100])
    _publish(home)
    Stops(home).approve(NAME, "li", "the campaign ended")
    _withdraw(home, *PEOPLE[:10])
    publication = _publish(home)
    assert (publication.stop, publication.version, publication.members) == (None, 2, 90)


class _Killed(BaseException):
    """The process ended here."""


def _kill(*arguments: Any, **named: Any) -> None:
    raise _Killed


def test_killed_between_approval_and_commit_it_is_published_by_the_next_run(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _select(home, *PEOPLE[:100])
    _publish(home)
    Stops(home).approve(NAME, "li", "the campaign ended")
    with monkeypatch.context() as patch:
        patch.setattr(publish, "_commit_version", _kill)
        with pytest.raises(_Killed):
            _publish(home)
    assert _members(home) == set(PEOPLE)
    assert _publish(home).version == 2 and _members(home) == set(PEOPLE[:100])


def test_killed_between_commit_and_note_the_approval_is_spent_all_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _refresh(home, _churn(0.5, is_spike=True))
    _select(home, *PEOPLE[:100])
    _publish(home)
    Stops(home).approve(NAME, "li", "the campaign ended")
    with monkeypatch.context() as patch:
        patch.setattr(Stops, "note_passed", _kill)
        with pytest.raises(_Killed):
            _publish(home)
    assert _members(home) == set(PEOPLE[:100])
    _refresh(home, _churn(0.6, is_spike=True))  # of the same kind, and later
    stop = _publish(home).stop
    assert stop.approved_at is None and "in refresh 8" in stop.reason


@pytest.mark.parametrize("at", ["_commit_version", "_deliver"])
def test_killed_while_removals_go_out_the_audience_stays_stopped(home: Home, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """What was committed then must not pass for what was judged: the next run would compare with it."""
    _refresh(home, _match_rate(0.8))
    _publish(home)
    _refresh(home, _match_rate(0.5))
    _withdraw(home, *PEOPLE[:5])
    with monkeypatch.context() as patch:
        patch.setattr(publish, at, _kill)
        with pytest.raises(_Killed):
            _publish(home)
    publication = _publish(home)
    assert publication.stop.kinds == {"match_rate"} and publication.stop.version == 3
    assert _members(home) == set(PEOPLE[5:])
    assert (home.deliveries / NAME / "v000002.csv").exists()


# Dagster ------------------------------------------------------------------------------------------------------------


def test_the_continuous_mode_tells_dagster_the_same(home: Home) -> None:
    _select(home, *PEOPLE[:100])
    refresh = State(home).last_finished_refresh()
    done = Pass(refresh, [], publications=[_publish(home), publish.publish(home, _other(home), refresh)])
    with dg.instance_for_test() as instance:
        report_pass(instance, done)
        records = {
            name: instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(dg.AssetKey(["deliveries", name]), "breaker"), limit=1
            )[0].event.asset_check_evaluation
            for name in (NAME, "lapsed_buyers")
        }
        assert instance.get_latest_materialization_event(dg.AssetKey(["deliveries", NAME])) is None
        assert instance.get_latest_materialization_event(dg.AssetKey(["deliveries", "lapsed_buyers"])) is not None
    assert not records[NAME].passed and "fall from 300 to 100" in records[NAME].description
    assert records[NAME].metadata["version_stopped"].value == 2
    assert records["lapsed_buyers"].passed


def _other(home: Home) -> Audience:
    return next(audience for audience in publish.audiences(dbt.manifest(home)) if audience.name == "lapsed_buyers")


def test_a_stop_ends_with_its_audience(home: Home) -> None:
    _select(home, *PEOPLE[:100])
    _publish(home)
    Stops(home).forget_all_but({"lapsed_buyers"})
    assert stopped(home) == {}


def test_an_approval_asks_for_a_publication(home: Home) -> None:
    def requested() -> str | None:
        with dg.instance_for_test() as instance:
            found = automation.finished_refresh.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests
        return found[0].run_key if found else None

    refresh = _refresh(home)
    _select(home, *PEOPLE[:100])
    assert requested() == f"publish-{refresh.number}"
    _publish(home)
    State(home).advance("published", refresh.number)  # stopped or not, the others are
    assert requested() is None
    stop = Stops(home).approve(NAME, "li", "the campaign ended")
    assert requested() == f"publish-{refresh.number}-{stop.number}"
    _publish(home)
    assert requested() is None


# What is declared ---------------------------------------------------------------------------------------------------


def _declared(text: str, parse: Callable = form.parse) -> dict[str, Any]:
    """The exposure's meta of an audience in YAML."""
    base = {"label": "a", "owner": {"name": "m", "email": "m@mail.cn"}, "purpose": "marketing"}
    declared = parse({**base, **json.loads(text)}, "a.yaml")
    return {key: value for key, value in {"band": declared.band, "fresh": project._fresh(declared)}.items() if value}


SEARCHED = '{"event": {"name": "searched", "within_days": 30, "where": {"channel": ["web", "app"]}}}'


def test_channels_that_conditions_name_have_to_be_coming() -> None:
    assert _declared(f'{{"who": {{"not": {SEARCHED}}}}}') == {"fresh": {"channels": ["web", "app"]}}
    fresh = _declared(f'{{"who": {SEARCHED}, "fresh": {{"within_hours": 6, "channels": "pos"}}}}')["fresh"]
    assert fresh == {"within_hours": 6, "channels": ["pos", "web", "app"]}
    assert _declared('{"who": {"consent": {"purpose": "marketing"}}}') == {}


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"band": {"shrink": 1.5}}, "band.shrink: Input should be less than or equal to 1"),
        ({"band": {"growth": 1}}, "unknown key 'growth': did you mean 'grow'?"),
        ({"fresh": {"within_hours": 0}}, "within_hours: Input should be greater than 0"),
        ({"fresh": {"channels": ["wbe"]}}, "there is no channel 'wbe'"),
    ],
)
def test_a_wrong_declaration_of_an_exposure_is_named(home: Home, meta: dict, said: str) -> None:
    manifest = json.loads(json.dumps(dbt.manifest(home)))
    exposure = next(e for e in manifest["exposures"].values() if e["name"] == NAME)
    exposure["config"]["meta"] |= meta
    with pytest.raises(OnefoldError, match=f"exposure {NAME}") as error:
        publish.audiences(manifest)
    assert said.removeprefix("band.") in str(error.value)


def test_a_declared_band_reaches_the_breaker(home: Home) -> None:
    manifest = json.loads(json.dumps(dbt.manifest(home)))
    exposure = next(e for e in manifest["exposures"].values() if e["name"] == NAME)
    exposure["config"]["meta"] |= {"band": {"shrink": 0.9}, "fresh": {"channels": "web"}}
    [audience] = [a for a in publish.audiences(manifest) if a.name == NAME]
    assert audience.band == Band(grow=0.5, shrink=0.9, least=50) and audience.fresh == Fresh(within_hours=48, channels=("web",))
