"""The delivery ledger: whatever is killed or fails, what a destination holds in the end is what the audience says."""

import contextlib
import functools
import json
import os
import shutil
import signal
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib.delivery.destination import ACCEPTED, Outcome, Refused, Result, Unavailable, rejected, try_again
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.planning import plan, recheck, withdraw
from dagster_project.lib.delivery.sending import Pacer, Retries, Sender, Work, send_all
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

COLUMNS = ("customer_id", "email", "city")
_connect = sqlite3.connect


@dataclass
class Town:
    """Members in memory that remember who changed when."""

    people: dict[str, dict] = field(default_factory=dict)
    changes: list[tuple[int, str]] = field(default_factory=list)
    moment: int = 0
    shape: str = "town"
    asked: list[str] = field(default_factory=list)  # whom `changed` was asked for

    def set(self, **people: str | None) -> "Town":
        """Give people an address, or (None) let them leave."""
        self.moment += 1
        for customer_id, email in people.items():
            if email is None:
                self.people.pop(customer_id, None)
            else:
                self.people[customer_id] = {"customer_id": customer_id, "email": email, "city": "上海"}
            self.changes.append((self.moment, customer_id))
        return self

    @property
    def position(self) -> str:
        return str(self.moment)

    def is_empty(self) -> bool:
        return not self.people

    def everyone(self):
        yield from sorted(self.people.items())

    def changed(self, since, besides):
        who = {customer for moment, customer in self.changes if moment > int(since)} | set(besides)
        self.asked = sorted(who)
        yield from ((customer, self.people.get(customer)) for customer in self.asked)


class Far:
    """A destination on disk, so that it outlives whoever sends to it."""

    batch_size = 2

    def __init__(
        self, file: Path, semantics: str, keyed_by: tuple[str, ...] = ("customer_id",), is_picky: bool = False
    ) -> None:
        self.file, self.semantics, self.keyed_by, self.is_picky = file, semantics, keyed_by, is_picky
        self.columns = COLUMNS
        with self._open() as far:
            far.execute("create table if not exists effects (key text, operation text, name text, row text)")
            far.execute("create table if not exists content (name text primary key, row text)")
            far.execute("create table if not exists answers (key text primary key, statuses text)")

    @contextlib.contextmanager
    def _open(self):
        with contextlib.closing(_connect(self.file, isolation_level=None)) as far:
            far.execute("pragma synchronous = off")
            far.execute("begin")
            yield far
            far.execute("commit")

    def send(self, operation, rows, key):
        step()
        with self._open() as far:
            known = far.execute("select statuses from answers where key = ?", (key,)).fetchone()
            if known and self.semantics == "deduplicates":
                statuses = json.loads(known[0])
            else:
                statuses = [self._take(far, operation, row, key) for row in rows]
                far.execute("insert or replace into answers values (?, ?)", (key, json.dumps(statuses)))
        step()
        return Outcome(f"request {key}", [Result(status) for status in statuses])

    def _take(self, far, operation, row, key) -> str:
        name = "|".join(row[column] for column in self.keyed_by)
        if self.is_picky and name == "f":
            return "rejected"
        if self.is_picky and name in "ag" and "." not in key:
            return "try again"
        if operation == "remove":
            assert set(row) == set(self.keyed_by)
            far.execute("delete from content where name = ?", (name,))
        else:
            far.execute("insert or replace into content values (?, ?)", (name, json.dumps(row)))
        far.execute("insert into effects values (?, ?, ?, ?)", (key, operation, name, json.dumps(row)))
        return "accepted"

    def content(self) -> list[dict]:
        with self._open() as far:
            return [json.loads(row) for (row,) in far.execute("select row from content order by name")]

    def effects(self) -> list[tuple[str, str, str]]:
        """(key, operation, what names the row) of everything that ever took effect."""
        with self._open() as far:
            return far.execute("select key, operation, name from effects order by rowid").fetchall()


class Killed(BaseException):
    """The process that this is raised in does nothing any more."""


class Steps:
    left: int | None = None  # until this process is killed
    is_real = False  # by the operating system


def step() -> None:
    if Steps.left is not None:
        if Steps.left == 0:
            if Steps.is_real:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed  # again at whatever it tries to do then
        Steps.left -= 1


class Stepping(sqlite3.Connection):
    """Counts what is asked of the state store."""

    def execute(self, *arguments):
        step()
        if arguments[0] == "pragma synchronous = full":  # a killed process loses nothing without, and tests are faster
            arguments = ("pragma synchronous = off",)
        return super().execute(*arguments)

    def executemany(self, *arguments):
        step()
        return super().executemany(*arguments)


@pytest.fixture(autouse=True)
def _stepping(monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", functools.partial(_connect, factory=Stepping))


def is_killed(work, after: int) -> bool:
    """Have something die after so many steps, every twentieth time as a process that is killed; False if it ended before."""
    Steps.left, Steps.is_real = after, after % 20 == 0
    try:
        if not Steps.is_real:
            work()
            return False
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    except Killed:
        return True
    finally:
        Steps.left = None


def deliver(home: Home, far, town: Town, on_uncertain: str = "hold", **options):
    """Send what is open, plan, send; as a run does."""
    options.setdefault("retries", Retries(first_wait_seconds=1e-6))
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        sender = Sender(ledger, far, on_uncertain, **options)
        report = sender.send(target)
        if ledger.open_version(target) is None:
            before, report = report, sender.send(target) if plan(ledger, target, far, town) else report
            report.requests += before.requests if before is not report else 0
        return report


def first_town() -> Town:
    return Town().set(a="a@x.cn", b="b@x.cn", c="c@x.cn", d="d@x.cn", e="e@x.cn")


def changed_town() -> Town:
    """Two leave, one has a new address, one takes over the address of somebody who left, one comes."""
    return first_town().set(a=None, b=None, c="new@x.cn", f="a@x.cn", g="g@x.cn")


EFFECTS = Counter({("remove", "a"): 1, ("remove", "b"): 1, ("update", "c"): 1, ("add", "f"): 1, ("add", "g"): 1})


@pytest.fixture(params=["set", "set of addresses", "deduplicates", "picky deduplicates", "appends, resend", "appends, hold"])
def scene(request, tmp_path, home):
    """A home that delivered the first town, and how to copy it with its destination."""
    semantics, _, on_uncertain = request.param.partition(", ")
    keys = ("email", "city") if semantics == "set of addresses" else ("customer_id",)
    is_picky = semantics.startswith("picky")
    semantics = semantics.removeprefix("picky ").partition(" ")[0]
    make = functools.partial(Far, semantics=semantics, keyed_by=keys)
    assert deliver(home, make(tmp_path / "far"), first_town()).is_finished
    make = functools.partial(make, is_picky=is_picky)

    def copy(number: int):
        folder = tmp_path / str(number)
        folder.mkdir()
        with _connect(home.state) as source, _connect(folder / "state.sqlite") as target:
            source.backup(target)
        shutil.copyfile(tmp_path / "far", folder / "far")
        return Home(folder), make(folder / "far")

    return semantics, on_uncertain or "hold", copy, len(make(tmp_path / "far").effects())


def test_killed_at_any_step_nothing_is_lost_and_nothing_unlisted_is_twice_in_effect(scene):
    semantics, on_uncertain, copy, before = scene
    town, wanted = changed_town(), sorted(changed_town().people.values(), key=lambda row: row["customer_id"])
    seen_uncertain = 0
    for after in range(10_000):
        home, far = copy(after)
        killed = is_killed(lambda home=home, far=far: deliver(home, far, town, on_uncertain), after)
        report = deliver(home, far, town, on_uncertain)
        with Ledger(home) as ledger:
            target = ledger.target("regulars", "far")
            listed = ledger.uncertain(target)
            effects = far.effects()[before:]
            if on_uncertain == "hold" and listed:
                assert not report.is_finished
                assert max(Counter(effects).values()) == 1  # nothing is twice
                (doubtful,) = listed
                was_sent = doubtful.key in {key for key, _, _ in effects}
                ledger.settle(target, doubtful.key, was_sent=was_sent)
                report = deliver(home, far, town, on_uncertain)
                effects = far.effects()[before:]
            seen_uncertain += len(listed)
            assert report.stopped is None
            assert ledger.open_version(target) is None
            refused = [("f", "add")] if far.is_picky else []
            assert [(letter.customer_id, letter.operation) for letter in ledger.letters(target)] == refused
            known = {row[0] for row in ledger.connection.execute("select customer_id from delivery_held")}
            assert known == {"c", "d", "e", "f", "g"} - {customer_id for customer_id, _ in refused}
            assert sorted(far.content(), key=lambda row: row["customer_id"]) == [
                row for row in wanted if row["customer_id"] in known
            ]
            if semantics == "deduplicates" or (semantics == "appends" and on_uncertain == "hold"):
                expected = Counter({what: 1 for what in EFFECTS if what[::-1] not in refused})
                assert Counter((operation, name) for _, operation, name in effects) == expected
            if semantics == "appends":  # nothing is lost, and what came twice is of a batch that is listed
                twice = {key for (key, *_), count in Counter(effects).items() if count > 1}
                assert twice <= {batch.key for batch in listed}
                assert {(operation, name) for _, operation, name in effects} == set(EFFECTS)
            assert deliver(home, far, town, on_uncertain).requests == 0  # and all of it is known to be there
        shutil.rmtree(home.path)
        if not killed:
            break
    assert after > 50
    assert (seen_uncertain > 0) == (semantics == "appends")


def test_the_first_delivery_killed_at_any_step_ends_with_everybody_once(tmp_path):
    town = first_town()
    for after in range(10_000):
        home = Home(tmp_path / str(after))
        home.path.mkdir()
        far = Far(home.path / "far", "deduplicates")
        killed = is_killed(lambda home=home, far=far: deliver(home, far, town), after)
        assert deliver(home, far, town).stopped is None
        assert Counter(name for _, _, name in far.effects()) == Counter("abcde")
        if not killed:
            break
    assert after > 50


# ------------------------------------------------------------------ what is planned


def names(batches: list[tuple]) -> list[tuple[str, list[str]]]:
    return [(operation, [row["customer_id"] for row in rows]) for operation, rows, _ in batches]


class Scripted:
    """A destination that answers by a script, then takes everything; keeps what it was asked."""

    def __init__(self, *answers, semantics="set", keyed_by=("customer_id",), batch_size=2) -> None:
        self.answers, self.asked = list(answers), []
        self.semantics, self.keyed_by, self.batch_size, self.columns = semantics, keyed_by, batch_size, COLUMNS

    def send(self, operation, rows, key):
        self.asked.append((operation, rows, key))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return Outcome(f"r{len(self.asked)}", answer or [ACCEPTED] * len(rows))


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now, self.slept = 1_000.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def run(home, far, town, clock=None, retries=None, **options):
    clock = clock or Clock()
    return deliver(home, far, town, retries=retries or Retries(), clock=clock, sleep=clock.sleep, **options)


def letters(home: Home) -> list[tuple[str, str, str]]:
    with Ledger(home) as ledger:
        return [(one.customer_id, one.operation, one.reason) for one in ledger.letters(ledger.target("regulars", "far"))]


def held(home: Home) -> set[str]:
    with Ledger(home) as ledger:
        return {row[0] for row in ledger.connection.execute("select customer_id from delivery_held")}


def test_a_version_has_removals_before_updates_before_additions_in_batches(home):
    far = Scripted()
    run(home, far, first_town())
    assert names(far.asked) == [("add", ["a", "b"]), ("add", ["c", "d"]), ("add", ["e"])]
    far.asked.clear()
    run(home, far, changed_town())
    assert names(far.asked) == [("remove", ["a", "b"]), ("update", ["c"]), ("add", ["f", "g"])]


def test_a_later_plan_asks_only_for_whom_something_changed(home):
    far, town = Scripted(), first_town()
    run(home, far, town)
    run(home, far, town.set(c="c2@x.cn"))
    assert town.asked == ["c"]
    with Ledger(home) as ledger:
        statements = []
        ledger.connection.set_trace_callback(statements.append)
        plan(ledger, ledger.target("regulars", "far"), far, town.set(d="d2@x.cn"))
    assert len(statements) < 40


def test_nothing_new_is_no_version(home):
    far, town = Scripted(), first_town()
    assert run(home, far, town).version == 1
    assert run(home, far, town).version is None
    assert run(home, far, town.set(c="c@x.cn")).version is None  # touched, and the same
    assert len(far.asked) == 3


def test_an_empty_source_removes_nobody(home):
    far = Scripted()
    run(home, far, first_town())
    with pytest.raises(OnefoldError, match="an empty source removes nobody; 5 rows stay there"):
        run(home, far, first_town().set(a=None, b=None, c=None, d=None, e=None))
    anew = first_town().set(a=None, b=None, c=None, d=None, e=None)
    anew.shape, anew.is_empty = "another", lambda: False
    with pytest.raises(OnefoldError, match="an empty source removes nobody"):
        run(home, far, anew)
    assert len(far.asked) == 3
    assert held(home) == set("abcde")


def test_an_audience_that_is_withdrawn_is_removed_whole_and_may_come_back(home):
    far, town = Scripted([rejected("bad"), ACCEPTED]), first_town()
    run(home, far, town)
    far.asked.clear()
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        assert withdraw(ledger, target, far).removes == 4
        assert Sender(ledger, far).send(target).is_finished
    assert names(far.asked) == [("remove", ["b", "c"]), ("remove", ["d", "e"])]
    assert held(home) == set()
    run(home, far, town)
    assert held(home) == set("bcde")


def test_only_what_was_sent_is_removed(home):
    far = Scripted([rejected("no such address"), ACCEPTED])
    run(home, far, first_town())
    far.asked.clear()
    run(home, far, first_town().set(a=None, b=None, z=None))
    assert names(far.asked) == [("remove", ["b"])]


def test_a_removal_says_what_was_sent_and_not_what_is_known_now(home):
    far = Scripted(keyed_by=("email",))
    run(home, far, Town().set(a="old@x.cn"))
    run(home, far, Town().set(a="old@x.cn").set(a="new@x.cn"))
    assert [(operation, rows) for operation, rows, _ in far.asked[1:]] == [
        ("remove", [{"email": "old@x.cn"}]),
        ("add", [{"customer_id": "a", "email": "new@x.cn", "city": "上海"}]),
    ]


def test_an_address_that_somebody_else_still_has_there_is_not_removed(home):
    far = Scripted(keyed_by=("email",))
    town = Town().set(a="ours@x.cn", b="ours@x.cn", c="c@x.cn")
    run(home, far, town)
    far.asked.clear()
    run(home, far, town.set(a=None))
    assert far.asked == []
    run(home, far, town.set(b=None))
    assert [(operation, rows) for operation, rows, _ in far.asked] == [("remove", [{"email": "ours@x.cn"}])]


def test_the_ledger_keeps_no_contact_data_of_who_is_keyed_by_customer(home):
    run(home, Scripted([rejected("no address a@x.cn"), ACCEPTED]), first_town())
    with Ledger(home) as ledger:
        dump = "\n".join(ledger.connection.iterdump())
    assert "x.cn" not in dump
    assert letters(home) == [("a", "add", "no address …")]


def test_another_shape_compares_everybody(home):
    far, town = Scripted(), first_town()
    run(home, far, town)
    far.asked.clear()
    town.people.pop("a")  # told by no change
    town.shape = "another"
    run(home, far, town)
    assert names(far.asked) == [("remove", ["a"])]


def test_a_key_that_changed_is_refused_as_what_was_sent_could_not_be_removed(home):
    far, town = Scripted(keyed_by=("email",)), first_town()
    run(home, far, town)
    far.keyed_by = ("customer_id",)
    with pytest.raises(OnefoldError, match="the key was email and is customer_id now"):
        run(home, far, town)


def test_members_out_of_order_are_refused_since_they_would_look_gone(home):
    far, town = Scripted(), first_town()
    town.everyone = lambda: iter(sorted(town.people.items(), reverse=True))
    with pytest.raises(OnefoldError, match="by customer id upwards"):
        run(home, far, town)
    assert far.asked == []


def test_the_next_version_waits_for_the_one_before(home):
    far, town = Scripted(Refused("401")), first_town()
    run(home, far, town)
    with Ledger(home) as ledger, pytest.raises(OnefoldError, match="version 1 is not finished"):
        plan(ledger, ledger.target("regulars", "far"), far, town)


@settings(max_examples=40)
@given(
    rounds=st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("uvwxyz"), min_size=1), min_size=1, max_size=6
    ),
    keyed_by=st.sampled_from([("customer_id",), ("email",), ("email", "city")]),
    failing=st.lists(st.booleans(), max_size=12),
)
def test_whatever_changes_and_fails_the_destination_ends_with_what_the_audience_says(new_home, rounds, keyed_by, failing):
    home, town, content, failures = new_home(), Town().set(keeper="keeper"), {}, iter(failing)

    class Fickle(Scripted):
        def send(self, operation, rows, key):
            if next(failures, False):
                raise Unavailable("502")
            for row in rows:
                name = tuple(row[column] for column in self.keyed_by)
                content.pop(name, None) if operation == "remove" else content.__setitem__(name, row)
            return Outcome(None, [ACCEPTED] * len(rows))

    far = Fickle(keyed_by=keyed_by)
    for people in rounds:
        town.set(**people)
        run(home, far, town, retries=Retries(attempts=1, runs=2))
    for _ in range(20):
        run(home, far, town, retries=Retries(attempts=1, runs=2))
    wanted = {tuple(row[column] for column in keyed_by) for row in town.people.values()}
    assert set(content) == wanted


# ------------------------------------------------------------------ what goes wrong


def test_a_row_that_is_refused_is_a_dead_letter_until_it_changes_or_is_replayed(home):
    far, town = Scripted([ACCEPTED, rejected("bad")]), first_town()
    report = run(home, far, town)
    assert (report.accepted, report.rejected, report.is_finished) == (4, 1, True)
    assert letters(home) == [("b", "add", "bad")]
    far.asked.clear()
    run(home, far, town.set(b="b@x.cn"))  # the same row
    assert far.asked == []
    with Ledger(home) as ledger:
        assert ledger.replay(ledger.target("regulars", "far")) == 1
    run(home, far, town)
    assert names(far.asked) == [("add", ["b"])]
    assert letters(home) == []
    assert held(home) == set("abcde")


def test_a_replay_sends_the_row_as_it_is_now_or_not_at_all(home):
    far, town = Scripted([rejected("bad"), rejected("bad")]), first_town()
    run(home, far, town)
    far.asked.clear()
    with Ledger(home) as ledger:
        ledger.replay(ledger.target("regulars", "far"))
    run(home, far, town.set(a=None, b="right@x.cn"))
    assert [(operation, [row["email"] for row in rows]) for operation, rows, _ in far.asked] == [("add", ["right@x.cn"])]
    assert letters(home) == []


def test_rows_asked_for_again_are_sent_alone_under_a_key_of_their_own_after_the_pause(home):
    clock, far = Clock(), Scripted([ACCEPTED, try_again("busy", after=7)])
    report = run(home, far, first_town(), clock)
    (_, _, first), (_, rows, second) = far.asked[0], far.asked[-1]
    assert [row["customer_id"] for row in rows] == ["b"]
    assert second == f"{first}.1"
    assert clock.slept[0] >= 7
    assert report.accepted == 5


def test_rows_that_wait_let_others_of_their_operation_pass_and_none_of_the_next(home):
    clock, far, town = Clock(), Scripted(batch_size=1), first_town()
    run(home, far, town, clock)
    far.asked.clear()
    far.answers = [[try_again("busy", after=60)], [ACCEPTED], [try_again("busy", after=20)]]
    town.set(a=None, b=None, c=None, f="f@x.cn")
    assert run(home, far, town, clock).is_finished
    assert names(far.asked) == [*[("remove", [name]) for name in "abcca"], ("add", ["f"])]
    assert clock.slept == [pytest.approx(20), pytest.approx(40)]


def test_whole_batches_that_fail_hold_up_the_rest(home):
    far = Scripted([try_again("busy", after=60)], Unavailable("down", is_certain=True), batch_size=1)
    run(home, far, first_town())
    assert [rows[0]["customer_id"] for _, rows, _ in far.asked] == ["a", "b", "b", "c", "d", "e", "a"]


def test_many_small_batches_are_looked_at_again_together(home):
    far, town = Scripted(batch_size=1), first_town()
    questions = []

    def these(customers):
        questions.append(customers)
        return ((customer, None if customer in "bd" else town.people[customer]) for customer in customers)

    town.these = these
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        plan(ledger, target, far, town)
        assert recheck(ledger, target, far, town) == 2
    assert questions == [["a", "b", "c", "d", "e"]]
    run(home, far, town)
    assert names(far.asked)[:3] == [("add", ["a"]), ("add", ["c"]), ("add", ["e"])]


def test_rows_asked_for_again_too_often_are_given_up_and_planned_anew(home):
    again = [try_again("busy")] * 2
    far, town = Scripted(again, None, None, again, again), first_town()
    report = run(home, far, town, retries=Retries(attempts=3))
    assert (report.dead, report.is_finished) == (2, True)
    keys = [key for _, rows, key in far.asked if rows[0]["customer_id"] == "a"]
    assert [key.rpartition("-")[2][24:] for key in keys] == ["", ".1", ".2"]
    far.asked.clear()
    run(home, far, town)
    assert names(far.asked) == [("add", ["a", "b"])]
    assert letters(home) == []


def test_too_many_requests_wait_as_long_as_they_are_told_under_the_same_key(home):
    clock, far = Clock(), Scripted(Unavailable("429", after=30, is_certain=True))
    assert run(home, far, first_town(), clock).is_finished
    assert far.asked[0] == far.asked[1]
    assert 30 <= sum(clock.slept) < 31


def test_back_off_grows_with_jitter_up_to_its_limit(home):
    clock, far = Clock(), Scripted(*[Unavailable("503")] * 9)
    retries = Retries(attempts=10, first_wait_seconds=1, longest_wait_seconds=20)
    assert run(home, far, first_town(), clock, retries).is_finished
    for pause, longest in zip(clock.slept, (1, 2, 4, 8, 16, 20, 20, 20, 20), strict=True):
        assert longest / 2 <= pause <= longest
    assert len(set(clock.slept)) == 9


def test_a_pause_longer_than_patience_ends_the_run_and_holds_for_the_next(home):
    clock, far = Clock(), Scripted(Unavailable("429", after=3600, is_certain=True))
    report = run(home, far, first_town(), clock)
    assert (report.is_finished, report.requests) == (False, 1)
    assert "3600 s" in report.stopped
    assert run(home, far, first_town(), clock).requests == 0
    clock.now += 3600
    assert run(home, far, first_town(), clock).is_finished


def test_a_destination_that_is_down_is_left_after_its_attempts_and_goes_on_with_the_next_run(home):
    far, town = Scripted(*[Unavailable("down", is_certain=True)] * 3), first_town()
    report = run(home, far, town, retries=Retries(attempts=3, runs=9))
    assert (report.requests, report.accepted, report.stopped) == (3, 0, "down")
    report = run(home, far, town)
    assert (report.accepted, report.is_finished) == (5, True)
    assert len({key for _, _, key in far.asked[:4]}) == 1


def test_a_batch_that_always_fails_is_given_up_after_so_many_runs_and_the_others_are_sent(home):
    far, town, clock = Scripted(*[Unavailable("500")] * 4), first_town(), Clock()
    retries = Retries(attempts=2, runs=2)
    assert run(home, far, town, clock, retries).requests == 2
    with Ledger(home) as ledger:
        sender = Sender(ledger, far, retries=retries, clock=clock, sleep=clock.sleep)
        report = sender.send(ledger.target("regulars", "far"))
    assert (report.dead, report.accepted, report.is_finished) == (2, 3, True)
    assert [letter[2] for letter in letters(home)] == ["500", "500"]
    far.asked.clear()
    run(home, far, town.set(a=None), clock, retries)
    # What nobody knows of was perhaps received: it is removed when they leave, and sent when they stay.
    assert names(far.asked) == [("remove", ["a"]), ("add", ["b"])]


def test_refused_credentials_stop_the_run_and_make_no_dead_letters(home):
    far, town = Scripted(Refused("the token has expired")), first_town()
    assert run(home, far, town).stopped == "the token has expired"
    assert letters(home) == []
    assert run(home, far, town).is_finished


def test_an_answer_for_too_few_rows_counts_as_none(home):
    far = Scripted([ACCEPTED])
    assert run(home, far, first_town()).accepted == 5
    assert far.asked[0] == far.asked[1]


def test_a_library_s_own_error_is_an_unknown_outcome(home):
    report = run(home, Scripted(KeyError("a@x.cn"), semantics="appends"), first_town(), on_uncertain="hold")
    assert (report.uncertain, report.accepted) == (1, 3)
    with Ledger(home) as ledger:
        reasons = [
            reason for (reason,) in ledger.connection.execute("select reason from delivery_log where reason is not null")
        ]
    assert reasons == ["KeyError: '…'"]


def test_a_certain_failure_is_tried_again_even_where_uncertain_ones_are_held(home):
    far = Scripted(Unavailable("no connection", is_certain=True), semantics="appends")
    assert run(home, far, first_town(), on_uncertain="hold").is_finished


def test_a_destination_that_appends_and_hangs_is_left_before_all_batches_are_uncertain(home):
    town = Town().set(**{f"p{number:02}": "x" for number in range(40)})
    far = Scripted(*[Unavailable("timed out")] * 20, semantics="appends")
    report = run(home, far, town, on_uncertain="hold", retries=Retries(attempts=3))
    assert (report.requests, report.uncertain, report.stopped) == (3, 3, "timed out")


@pytest.mark.parametrize("was_sent", [True, False])
def test_a_held_batch_is_settled_by_a_person(home, was_sent):
    far, town = Scripted(Unavailable("timed out"), semantics="appends"), first_town()
    report = run(home, far, town, on_uncertain="hold")
    assert report.stopped.startswith("may have been received: 1 of its batches")
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        (batch,) = ledger.uncertain(target)
        with pytest.raises(OnefoldError, match="no batch"):
            ledger.settle(target, "another", was_sent=True)
        ledger.settle(target, batch.key, was_sent)
    far.asked.clear()
    assert run(home, far, town, on_uncertain="hold").is_finished
    assert [key for _, _, key in far.asked] == ([] if was_sent else [batch.key])
    assert held(home) == set("abcde")


def test_a_version_that_is_given_up_is_planned_anew_and_what_may_be_there_is_removed(home):
    far, town = Scripted(Unavailable("timed out"), Refused("gone"), semantics="appends"), first_town()
    run(home, far, town, on_uncertain="hold")
    with Ledger(home) as ledger:
        assert ledger.give_up(ledger.target("regulars", "far")) == 5
    far.asked.clear()
    run(home, far, town.set(a=None, c=None), on_uncertain="hold")
    assert names(far.asked) == [("remove", ["a"]), ("add", ["b", "d"]), ("add", ["e"])]
    assert letters(home) == []


def test_who_takes_consent_back_before_sending_is_not_sent(home):
    far, town = Scripted(), first_town()
    report = run(
        home, far, town, withhold=lambda rows: {row.customer_id: "consent withdrawn" for row in rows if row.customer_id in "be"}
    )
    assert names(far.asked) == [("add", ["a"]), ("add", ["c", "d"])]
    assert (report.withheld, report.accepted, report.is_finished) == (2, 3, True)
    assert letters(home) == [("b", "add", "consent withdrawn"), ("e", "add", "consent withdrawn")]
    run(home, far, town.set(b=None, e=None))
    assert letters(home) == []


def test_who_takes_consent_back_after_an_attempt_without_answer_is_removed(home):
    far, town = Scripted(Unavailable("timed out")), first_town()
    run(home, far, town, retries=Retries(attempts=1))
    run(home, far, town, withhold=lambda rows: {"a": "consent withdrawn"})
    run(home, far, town.set(a=None))
    assert names(far.asked)[-1] == ("remove", ["a"])


def test_more_batches_than_are_looked_at_at_once_are_all_given_up(home):
    town = Town().set(**{f"p{number:05}": f"{number}@x.cn" for number in range(1_203)})
    far = Scripted(batch_size=1)
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        plan(ledger, target, far, town)
        assert len(list(ledger.open_batches(target))) == 1_203
        assert ledger.give_up(target) == 1_203
        assert ledger.connection.execute("select count(*) from delivery_rows").fetchone() == (0,)
        assert len(ledger.letters(target)) == 1_203


def test_the_log_has_request_ids_and_no_personal_data(home):
    far = Scripted(Unavailable("cannot take a@x.cn of 上海 or +86 139 0000 0000"), [ACCEPTED, rejected("b@x.cn is no address")])
    run(home, far, first_town())
    with Ledger(home) as ledger:
        rows = ledger.connection.execute("select outcome, request_id, accepted, rejected, reason from delivery_log").fetchall()
    assert rows == [
        ("unavailable", None, 0, 0, "cannot take … of … or …"),
        ("answered", "r2", 1, 1, None),
        ("answered", "r3", 2, 0, None),
        ("answered", "r4", 1, 0, None),
    ]
    assert letters(home) == [("b", "add", "… is no address")]


def test_old_requests_and_answered_batches_are_dropped_and_the_open_ones_stay(home):
    far, town = Scripted(), first_town()
    run(home, far, town)
    far = Scripted(Unavailable("down", is_certain=True))
    run(home, far, town.set(a=None), retries=Retries(attempts=1))
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        ledger.trim(days=1)
        assert len(ledger.log_of(target)) == 4 and len(ledger.versions(target)) == 2
        ledger.trim(days=-1)
        assert ledger.log_of(target) == []
        assert [(v["version"], v["status"], v["accepted"]) for v in ledger.versions(target)] == [
            (1, "finished", 0),
            (2, "open", 0),
        ]
        assert ledger.next_batch(target, 2, moment=0).operation == "remove"
        assert ledger.is_left_over()


def test_requests_keep_to_the_rate(home):
    clock = Clock()
    pacer = Pacer(4, clock, clock.sleep)
    for _ in range(9):
        pacer.wait()
    assert clock.now - 1_000 == pytest.approx(2.0)


def test_a_destination_that_is_down_does_not_hold_up_the_others(home):
    released = threading.Event()

    class Stuck(Scripted):
        def send(self, operation, rows, key):
            assert released.wait(20)
            raise Unavailable("down", is_certain=True)

    class Releasing(Scripted):
        def send(self, operation, rows, key):
            released.set()
            return super().send(operation, rows, key)

    def broken():
        raise OnefoldError("destination broken: the environment variable X is not set")

    far = {"stuck": Stuck(), "far": Releasing()}
    with Ledger(home) as ledger:
        for name, destination in far.items():
            plan(ledger, ledger.target("regulars", name), destination, first_town())
    once = Retries(attempts=1)
    works = [Work("regulars", name, lambda name=name: far[name], retries=once) for name in far]
    reports = send_all(home, [Work("regulars", "broken", broken), *works])
    assert {report.destination: (report.is_finished, report.stopped) for report in reports} == {
        "broken": (False, "destination broken: the environment variable X is not set"),
        "stuck": (False, "down"),
        "far": (True, None),
    }


def test_one_target_is_delivered_by_one_process_at_a_time(home):
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        with ledger.turn(target), pytest.raises(OnefoldError, match="is being delivered already"):
            run(home, Scripted(), first_town())


def test_a_plan_that_was_killed_counts_for_nothing_and_leaves_nothing_behind(home):
    town = Town().set(**{f"p{number:05}": f"{number}@x.cn" for number in range(12_000)})
    far = Scripted(batch_size=1_000)

    def stopping():
        yield from list(sorted(town.people.items()))[:7_000]
        raise Killed

    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(town, "everyone", stopping)
            plan(ledger, target, far, town)
        assert ledger.connection.execute("select count(*) from delivery_rows").fetchone() == (5_000,)
        assert ledger.open_version(target) is None
        town.set(p00000=None)
        assert plan(ledger, target, far, town).adds == 11_999
        assert ledger.connection.execute("select count(*) from delivery_rows").fetchone() == (11_999,)
