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

from dagster_project.lib.delivery.destination import ACCEPTED, Outcome, Refused, Unavailable, rejected, try_again
from dagster_project.lib.delivery.ledger import Ledger, Target
from dagster_project.lib.delivery.planning import plan
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

    def __init__(self, file: Path, semantics: str, keyed_by: tuple[str, ...] = ("customer_id",), batch_size: int = 2) -> None:
        self.file, self.semantics, self.keyed_by, self.batch_size = file, semantics, keyed_by, batch_size
        self.columns = COLUMNS
        with self._open() as far:
            far.execute("create table if not exists effects (key text, operation text, name text, row text)")
            far.execute("create table if not exists content (name text primary key, row text)")

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
            known = far.execute("select count(*) from effects where key = ?", (key,)).fetchone()[0]
            if self.semantics != "deduplicates" or not known:
                for row in rows:
                    name = "|".join(row[column] for column in self.keyed_by)
                    if operation == "remove":
                        assert set(row) == set(self.keyed_by)
                        far.execute("delete from content where name = ?", (name,))
                    else:
                        far.execute("insert or replace into content values (?, ?)", (name, json.dumps(row)))
                    far.execute("insert into effects values (?, ?, ?, ?)", (key, operation, name, json.dumps(row)))
        step()
        return Outcome(f"request {key}", [ACCEPTED] * len(rows))

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
    """Have something die after so many steps, every tenth time as a process that is killed; False if it ended before."""
    Steps.left, Steps.is_real = after, after % 10 == 0
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
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "far")
        sender = Sender(ledger, far, on_uncertain, **options)
        report = sender.send(target)
        if ledger.open_version(target) is None:
            plan(ledger, target, far, town)
            report = sender.send(target)
        return report


def first_town() -> Town:
    return Town().set(a="a@x.cn", b="b@x.cn", c="c@x.cn", d="d@x.cn", e="e@x.cn")


def changed_town() -> Town:
    """Two leave, one has a new address, one takes over the address of somebody who left, one comes."""
    return first_town().set(a=None, b=None, c="new@x.cn", f="a@x.cn", g="g@x.cn")


EFFECTS = Counter({("remove", "a"): 1, ("remove", "b"): 1, ("update", "c"): 1, ("add", "f"): 1, ("add", "g"): 1})


@pytest.fixture(params=["set", "set of addresses", "deduplicates", "appends, resend", "appends, hold"])
def scene(request, tmp_path, home):
    """A home that delivered the first town, and how to copy it with its destination."""
    semantics, _, on_uncertain = request.param.partition(", ")
    keys = ("email", "city") if semantics == "set of addresses" else ("customer_id",)
    semantics = semantics.partition(" ")[0]
    make = functools.partial(Far, semantics=semantics, keyed_by=keys)
    assert deliver(home, make(tmp_path / "far"), first_town()).is_finished

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
            assert sorted(far.content(), key=lambda row: row["customer_id"]) == wanted
            if semantics == "deduplicates" or on_uncertain == "hold":
                if far.keyed_by == ("customer_id",) and semantics != "set":
                    assert Counter((operation, name) for _, operation, name in effects) == EFFECTS
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
