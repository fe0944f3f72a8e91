"""The state store: progress, refreshes, files seen; and the home's key and lock beside it."""

import stat
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib.home import Home
from dagster_project.lib.state import State

AS_OF = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(values=st.lists(st.integers(0, 1000), min_size=1, max_size=8))
@settings(max_examples=20)
def test_progress_never_goes_back(new_home, values):
    state, shown = State(new_home()), []
    for value in values:
        state.advance("loaded", value)
        shown.append(state.progress("loaded"))
    assert shown == [max(values[: n + 1]) for n in range(len(values))]


def test_progress_is_zero_before_its_first_time(home):
    assert State(home).progress("loaded") == 0


def test_a_run_has_one_refresh_however_often_it_asks(home):
    state = State(home)
    assert state.refresh("run", AS_OF) == state.refresh("run")


def test_a_refresh_keeps_the_clock_and_the_loads_that_it_began_with(home):
    state = State(home)
    state.advance("loaded", 7)
    state.refresh("run", AS_OF)
    state.advance("loaded", 9)
    begun = state.refresh("run", datetime(2030, 1, 1, tzinfo=UTC))
    assert (begun.as_of, begun.loaded) == (AS_OF, 7)


def test_refreshes_are_numbered_upwards(home):
    state = State(home)
    assert state.refresh("a").number < state.refresh("b").number < state.refresh("c").number


def test_a_finished_refresh_moves_progress_to_what_it_took_in(home):
    state = State(home)
    state.advance("loaded", 7)
    refresh = state.refresh("run")
    state.advance("loaded", 9)
    state.finish_refresh(refresh)
    assert state.progress("refreshed") == 7


def test_an_unfinished_refresh_is_not_the_last_finished_one(home):
    state = State(home)
    finished = state.refresh("a")
    state.finish_refresh(finished)
    state.refresh("b")
    assert state.last_finished_refresh() == finished


def test_a_file_is_seen_only_under_the_contract_that_read_it(home):
    state = State(home)
    state.remember_file("shop_things/landing", "a.csv", 10, "1", "old")
    state.remember_file("shop_things/landing", "a.csv", 12, "2", "new")
    assert state.seen_files("shop_things/landing", "old") == set()
    assert state.seen_files("shop_things/landing", "new") == {("a.csv", 12, "2")}


def test_state_survives_its_process(home):
    State(home).advance("loaded", 5)
    assert State(Home(home.path)).progress("loaded") == 5


def test_two_homes_share_no_state(new_home):
    one, other = new_home(), new_home()
    State(one).advance("loaded", 5)
    assert State(other).progress("loaded") == 0


@pytest.fixture
def keyless(home, monkeypatch):
    monkeypatch.delenv("ONEFOLD_KEY")
    return home


def test_a_homes_key_can_be_read_by_its_owner_only(keyless):
    assert keyless.key
    assert stat.S_IMODE((keyless.path / "secret.key").stat().st_mode) == 0o600


def test_a_homes_key_stays_the_same(keyless):
    assert Home(keyless.path).key == Home(keyless.path).key


def test_two_homes_have_different_keys(keyless, new_home):
    assert keyless.key != new_home().key


def test_making_a_key_leaves_nothing_else_behind(keyless):
    before = set(keyless.path.iterdir())
    assert keyless.key
    assert set(keyless.path.iterdir()) - before == {keyless.path / "secret.key"}


def test_the_environments_key_is_used_and_not_written_down(home):
    assert home.key == b"a key that only tests use"
    assert not (home.path / "secret.key").exists()
