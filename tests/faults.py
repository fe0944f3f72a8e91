"""Runs commands of `onefold` as processes that can be killed at a chosen moment.

Started as a program it is a warm parent: it imports everything and loads the definitions of one home once, then forks a
process for each command it is told, so that hundreds of runs need not pay the start-up. The product has no hook for this:
the child wraps what reaches the disk (SQL statements, renames, links, commits) and counts.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """How a command ended. `points` counts what it did that reaches the disk; `output` is all that it printed."""

    was_killed: bool
    code: int
    points: int
    output: str


@dataclass(frozen=True)
class Order:
    """A command to run.

    Args:
        kill_at: the point (from 1) at which it is killed with SIGKILL; None: never.
        delay: seconds that pass after that point, so that it dies within what the point began.
        before: Python that the process runs first.
    """

    arguments: tuple[str, ...]
    kill_at: int | None = None
    delay: float = 0
    before: str = ""


class Runner:
    """Runs commands on one home."""

    def __init__(self, home: Path) -> None:
        self._log = home.with_name(f"{home.name}.log")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(home), str(self._log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, **named: Any) -> Run:
        """Run one command to its end; `named` are the fields of an order."""
        return self.run_at_once(Order(arguments, **named))[0]

    def run_at_once(self, *orders: Order) -> list[Run]:
        """Run several commands at the same time."""
        self._process.stdin.write(json.dumps([asdict(order) for order in orders]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the runner died: {self._log.read_text()[-2000:]}")
        return [Run(**ended) for ended in json.loads(answer)]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


@contextlib.contextmanager
def runner(home: Path) -> Iterator[Runner]:
    started = Runner(home)
    try:
        yield started
    finally:
        started.close()


_AT_MOST = 1800  # seconds; a run that hangs is ended, so that its test fails

# The process ----------------------------------------------------------------------------------------------------------


def _serve(home: Path, log: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    _warm(home, log)
    for line in sys.stdin:
        begun = []
        for number, order in enumerate(json.loads(line)):
            points, told = os.pipe()
            output = log.with_suffix(f".{number}")
            child = os.fork()
            if not child:
                os.close(points)
                _run(home, output, order, told)
            os.close(told)
            begun.append((child, points, output))
        answers.write(json.dumps([_ended(*run) for run in begun]) + "\n")
        answers.flush()


def _ended(child: int, points: int, output: Path) -> dict:
    with os.fdopen(points, "rb") as handle:
        counted = len(handle.read())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"was_killed": code == -signal.SIGKILL, "code": code, "points": counted, "output": output.read_text()}


def _warm(home: Path, log: Path) -> None:
    with log.open("w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.environ |= {"ONEFOLD_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "GX_ANALYTICS_ENABLED": "false"}
    os.environ["DBT_STATIC_PARSER"] = "false"  # its threads do not survive a fork: a child that parses would wait for ever
    import great_expectations  # noqa: F401
    import pandas  # noqa: F401
    import scipy.sparse.csgraph  # noqa: F401

    from dagster_project import cli  # noqa: F401
    from dagster_project.jobs import _definitions
    from dagster_project.lib.home import Home

    _definitions(Home(home).prepare())


def _run(home: Path, output: Path, order: dict, told: int) -> None:
    """In the child: never returns."""
    os.setsid()
    signal.alarm(_AT_MOST)
    with output.open("w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    code = 70
    try:
        from dagster_project.cli import main

        exec(order["before"], {})
        _count(told, order["kill_at"], order["delay"])
        try:
            main(["--home", str(home), *order["arguments"]])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _count(told: int, kill_at: int | None, delay: float) -> None:
    """Tell of every point, and die at the one that was asked for."""
    import sqlite3

    import duckdb

    lock, reached = threading.Lock(), 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def point() -> None:
        nonlocal reached
        with lock:
            reached += 1
            os.write(told, b".")
            if reached == kill_at:
                threading.Timer(delay, kill).start() if delay else kill()

    def counted(what: Callable) -> Callable:
        def call(*arguments: object, **named: object) -> object:
            point()
            return what(*arguments, **named)

        return call

    class Connection(sqlite3.Connection):
        execute, commit = counted(sqlite3.Connection.execute), counted(sqlite3.Connection.commit)

    connect = sqlite3.dbapi2.connect
    sqlite3.connect = sqlite3.dbapi2.connect = lambda *a, **k: connect(*a, **{"factory": Connection, **k})
    for name in ("execute", "close"):
        setattr(duckdb.DuckDBPyConnection, name, counted(getattr(duckdb.DuckDBPyConnection, name)))
    for name in ("replace", "rename", "link", "symlink", "unlink", "rmdir", "mkdir", "fsync"):
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
