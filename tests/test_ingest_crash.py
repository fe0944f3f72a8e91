"""A run that is killed at any moment loses nothing and loads nothing twice; a home has one writer."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.files import landed_files
from dagster_project.lib.home import PROJECT_ROOT
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

FILES, ROWS = 30, 25
INGEST = """
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.progress import listening
from dagster_project.lib.settings import Settings

home = Home.from_environment()
channel = load_channels(home)["loyalty"]
print("ready", flush=True)
with listening(lambda what, done, total: print(done, flush=True)):
    ingest_channel(home, channel, Settings())
"""
# One run for each statement, which kills itself just before it; the parent only forks. The first file's transaction, and
# what is noted of it after, are well within these statements.
KILL_BEFORE_EACH_STATEMENT = """
import os, signal, sys
import pandas  # DuckDB imports it: here once, instead of in every child
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings

home = Home.from_environment()
channel = load_channels(home)["loyalty"]


def ingest_and_die(statements):
    def count(frame, event, called):
        nonlocal statements
        if event == "c_call" and called.__name__ == "execute":
            statements -= 1
            if not statements:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    ingest_channel(home, channel, Settings())
    os._exit(0)


killed = 0
for statements in range(20, 42):
    if not os.fork():
        ingest_and_die(statements)
    killed += os.WIFSIGNALED(os.wait()[1])
print(killed)
"""
HOLD = """
import sys
from dagster_project.lib.home import Home

with Home.from_environment().writing("the spring cleaning"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def process(home, code: str):
    environment = os.environ | {"ONEFOLD_HOME": str(home.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def land_members(home, land) -> None:
    """Files with good rows, a repeated one, a row without its key and a broken line each."""
    for number in range(FILES):
        lines = [f"m{number}-{row},1380013{number:02d}{row:02d},gold,{row}" for row in range(ROWS)]
        lines += [
            lines[0],
            ",13800138000,gold,1",
            f"m{number}-x,1,2,3,4,5",
            f"m{number}-y,138 0013 8{number:03d},silver,1",
        ]
        land(home, f"loyalty/members/{number:02d}.csv", "member_id,phone,tier,points\n" + "\n".join(lines) + "\n")


def ingest(home) -> None:
    ingest_channel(home, load_channels(home)["loyalty"], Settings())


CONTENTS = {
    "rows": "select member_id, phone, tier, points, _source_uri, _source_row from staging.loyalty_members order by all",
    "quarantine": "select source_uri, source_row, kind, reason, payload from staging._rejected order by all",
    "ledger": """
        select batch_id, source_uri, status, rows_in_file, rows_read, rows_accepted, rows_rejected, rows_duplicate
        from staging._loads order by all""",
    "phones": "select * from staging._phones order by all",
}


def contents(home) -> dict[str, list[tuple]]:
    with home.connect("test") as connection:
        return {name: connection.execute(sql).fetchall() for name, sql in CONTENTS.items()}


@pytest.fixture(scope="module")
def undisturbed(new_home, land):
    home = new_home()
    land_members(home, land)
    ingest(home)
    return contents(home)


def kill_at_random_moments(home) -> None:
    chance = random.Random(1)
    for _ in range(4):
        with process(home, INGEST) as child:
            assert child.stdout.readline() == "ready\n"
            for _ in range(chance.randint(0, 6)):
                child.stdout.readline()
            time.sleep(chance.uniform(0, 0.04))  # somewhere within the loading of a file, or before the first
            child.send_signal(signal.SIGKILL)


def kill_before_each_statement(home) -> None:
    with process(home, KILL_BEFORE_EACH_STATEMENT) as child:
        assert child.communicate()[0] == "22\n", "every run was killed before its end"


@pytest.fixture(scope="module", params=["random moments", "each statement"])
def disturbed(request, new_home, land):
    """A home where several runs were killed, each at another moment, before a last one came to its end."""
    home = new_home()
    land_members(home, land)
    if request.param == "each statement":
        kill_before_each_statement(home)
    else:
        kill_at_random_moments(home)
    loaded_before = len(State(home).seen_files("loyalty_members/landing", fingerprint(home)))
    assert loaded_before < FILES, "the runs were killed before they were done"
    ingest(home)
    return home


def fingerprint(home) -> str:
    return load_channels(home)["loyalty"].entities["members"].fingerprint


@pytest.mark.parametrize("what", CONTENTS)
def test_after_killed_runs_a_plain_run_ends_where_an_undisturbed_one_does(disturbed, undisturbed, what):
    assert contents(disturbed)[what] == undisturbed[what]


def test_after_killed_runs_the_ledger_accounts_for_every_row(disturbed):
    staged, rejected = FILES * (ROWS + 1), FILES * 2
    with disturbed.connect("test") as connection:
        sums = connection.execute(
            "select sum(rows_read)::int, sum(rows_accepted)::int, sum(rows_rejected)::int, sum(rows_duplicate)::int "
            "from staging._loads"
        ).fetchone()
        wrong = connection.execute(
            """
            select batch_id from staging._loads
            where rows_read <> rows_accepted + rows_rejected + rows_duplicate
                or rows_accepted <> (select count(*) from staging.loyalty_members where _batch_id = _loads.batch_id)
                or rows_rejected <> (select count(*) from staging._rejected as r where r.batch_id = _loads.batch_id)
            """
        ).fetchall()
    assert (sums, wrong) == ((staged + rejected + FILES, staged, rejected, FILES), [])


def test_after_killed_runs_no_file_is_new(disturbed):
    channel = load_channels(disturbed)["loyalty"]
    source = channel.entities["members"].sources[0]
    found = {f.identity for f in landed_files(disturbed, channel, "members", source)}
    assert State(disturbed).seen_files("loyalty_members/landing", fingerprint(disturbed)) == found


def test_after_killed_runs_the_progress_is_that_of_the_last_write(disturbed):
    with disturbed.connect("test") as connection:
        (last,) = connection.execute("select max(seq) from staging._loads").fetchone()
    assert State(disturbed).progress("loaded") == last


@pytest.fixture
def held(home):
    with process(home, HOLD) as child:
        assert child.stdout.readline() == "held\n"
        yield child


def test_a_writer_is_refused_after_its_patience_and_told_who_holds_the_home(home, held):
    message = rf"{re.escape(str(home.path))}: still held by the spring cleaning \(process {held.pid}\) .*wait for it to end"
    with pytest.raises(OnefoldError, match=message), home.writing("test", patience=0.3):
        pass


def test_a_writer_goes_on_once_the_holder_is_done(home, held):
    held.stdin.write("done\n")
    held.stdin.flush()
    with home.writing("test", patience=60):
        assert held.wait(timeout=60) == 0


def test_a_killed_holder_holds_nothing(home, held):
    held.kill()
    held.wait()
    with home.writing("test", patience=0), (home.path / ".lock").open() as lock:
        assert lock.read() == f"test (process {os.getpid()})"


def test_a_held_home_does_not_hold_another(held, new_home):
    with new_home().writing("test", patience=0):
        assert held.poll() is None


def test_a_writer_may_take_its_own_lock_again(home):
    with home.writing("outer", patience=0), home.writing("inner", patience=0), home.connect("innermost") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_two_threads_do_not_write_at_once(home):
    """flock alone knows processes only."""
    inside, most = 0, 0
    begin = threading.Barrier(4)

    def write() -> None:
        nonlocal inside, most
        begin.wait()
        for _ in range(20):
            with home.writing("test"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
