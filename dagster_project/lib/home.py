"""A home: the folder that holds all data of one installation, and the lock that its writers take."""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import duckdb

from dagster_project.lib.errors import OnefoldError, remedy

log = logging.getLogger("onefold")

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MEMORY = "3GB"  # what DuckDB may take before it spills to disk, unless ONEFOLD_MEMORY says otherwise


@dataclass(frozen=True)
class Home:
    """All paths of one installation. Two homes never share anything."""

    path: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """The home that `ONEFOLD_HOME` names, else `warehouse/` of this project."""
        return cls(Path(os.environ.get("ONEFOLD_HOME") or PROJECT_ROOT / "warehouse").resolve())

    @property
    def landing(self) -> Path:
        return self.path / "landing"

    @property
    def sources(self) -> Path:
        return self.path / "sources"

    @property
    def warehouse(self) -> Path:
        return self.path / "onefold.duckdb"

    @property
    def state(self) -> Path:
        return self.path / "state.sqlite"

    @property
    def serving(self) -> Path:
        return self.path / "serving"

    @property
    def deliveries(self) -> Path:
        return self.path / "deliveries"

    @property
    def quality(self) -> Path:
        return self.path / "quality"

    @property
    def dagster(self) -> Path:
        return self.path / "dagster"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def workspace(self) -> Path:
        """What only the holder of the write lock uses: blocks that DuckDB spills, files rewritten to be read."""
        return self.temporary / "writing"

    def prepare(self) -> "Home":
        """Create the folders that do not exist yet and hand Dagster its settings."""
        for folder in (self.landing, self.sources, self.serving, self.deliveries, self.dagster, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        shipped = PROJECT_ROOT / "dagster_project" / "dagster.yaml"
        installed = self.dagster / "dagster.yaml"
        if not installed.exists() or installed.read_bytes() != shipped.read_bytes():
            draft = installed.with_name(f".{os.getpid()}")  # another process may read it just now
            shutil.copyfile(shipped, draft)
            draft.replace(installed)
        return self

    @cached_property
    def key(self) -> bytes:
        """The secret behind tokens and customer ids: `ONEFOLD_KEY`, else a file that only its owner can read."""
        if given := os.environ.get("ONEFOLD_KEY"):
            return given.encode()
        file = self.path / "secret.key"
        if not file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(f".{os.getpid()}")
            draft.unlink(missing_ok=True)  # of a killed process that had the same number
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
                handle.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # another process was first: its key is the key
                os.link(draft, file)
            draft.unlink()
        return file.read_text().strip().encode()

    @contextlib.contextmanager
    def writing(self, purpose: str, patience: float = 600.0) -> Iterator[None]:
        """Hold the home's one write lock; re-entrant within a thread.

        The operating system frees it when the process ends, however it ends. Never hold it during a network call.

        Args:
            purpose: what the holder does, shown to whoever waits.
            patience: seconds to wait for another writer.

        Raises:
            OnefoldError: another writer still holds the lock after `patience` seconds.
        """
        with self._holding(self.path / ".lock", purpose, patience) as is_outermost:
            if is_outermost:  # nobody else writes: what lies there was left by a killed process
                shutil.rmtree(self.workspace, ignore_errors=True)
                self.workspace.mkdir(parents=True)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for as long as it is used; those of killed processes are removed."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        for left_behind in self.temporary.glob("scratch-*"):
            with contextlib.suppress(OSError), _locked_folder(left_behind):
                shutil.rmtree(left_behind)
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=self.temporary) as folder, _locked_folder(Path(folder)):
            yield Path(folder)

    @contextlib.contextmanager
    def turn(self, purpose: str, patience: float = 600.0) -> Iterator[None]:
        """Hold the home's one turn to refresh or publish, from the first step to the last; re-entrant within a thread.

        Between its steps a refresh lets other writers go on, but another refresh would replace the tables under it.

        Raises:
            OnefoldError: another process still has its turn after `patience` seconds.
        """
        with self._holding(self.path / ".turn", purpose, patience):
            yield

    def keep_turn(self, purpose: str) -> None:
        """Take the turn until this process ends, unless it has it: for a step, which cannot know when its run ends."""
        if self.path / ".turn" not in _HELD:
            _KEPT.enter_context(self.turn(purpose))

    def attend(self, run_id: str) -> None:
        """Show, until this process ends however it ends, that it carries out a Dagster run."""
        if run_id not in _ATTENDED:
            self._attendance.mkdir(parents=True, exist_ok=True)
            file, handle = self._attendance / run_id, None
            # Whoever cleans up may have removed the file before it was locked.
            while handle is None or not file.exists() or not os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                handle = file.open("a")
                fcntl.flock(handle, fcntl.LOCK_EX)
            _ATTENDED[run_id] = handle

    def leave(self, run_id: str) -> None:
        """Say that a run has ended and that Dagster knows."""
        if handle := _ATTENDED.pop(run_id, None):
            handle.close()
        (self._attendance / run_id).unlink(missing_ok=True)

    def is_attended(self, run_id: str) -> bool | None:
        """Whether a process carries out a run; None if none ever said so."""
        try:
            with (self._attendance / run_id).open("r+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return True
        return False

    def forget_the_unattended(self) -> None:
        """Remove what processes left behind that ended without leaving."""
        for file in self._attendance.glob("*"):
            if self.is_attended(file.name) is False:
                file.unlink(missing_ok=True)

    @property
    def _attendance(self) -> Path:
        return self.dagster / "attended"

    @contextlib.contextmanager
    def _holding(self, file: Path, purpose: str, patience: float) -> Iterator[bool]:
        """Hold a lock file; gives whether this process did not hold it yet."""
        self.path.mkdir(parents=True, exist_ok=True)
        threads = _THREADS.setdefault(file, threading.RLock())
        if not threads.acquire(timeout=patience):
            raise OnefoldError(f"{self.path}: another thread still writes after {patience:.0f} s; run again when it has ended")
        try:
            if file in _HELD:
                yield False
                return
            with file.open("a+") as handle:
                _acquire(handle, self.path, patience)
                _HELD.add(file)
                try:
                    handle.seek(0)
                    handle.truncate()
                    handle.write(f"{purpose} (process {os.getpid()})")
                    handle.flush()
                    yield True
                finally:
                    _HELD.discard(file)
                    fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            threads.release()

    @contextlib.contextmanager
    def connect(self, purpose: str, patience: float = 600.0) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the warehouse for writing, under the lock, with UTC as the session's time zone.

        Raises:
            OnefoldError: another writer holds the lock, or a program that knows no lock has the file open.
        """
        with self.writing(purpose, patience):
            held = _WAREHOUSES.get(self.warehouse)
            connection = held.cursor() if held else self._open()
            try:
                self.warehouse.chmod(0o600)  # it holds contact data
                connection.execute("set TimeZone = 'UTC'")
                yield connection
            finally:
                connection.close()

    @contextlib.contextmanager
    def keep_open(self, purpose: str) -> Iterator[None]:
        """Hold the write lock and have `connect` share one open warehouse, as opening and closing takes a tenth of a second.

        What is committed inside lies in DuckDB's write-ahead log, and is written into the warehouse's file at the end.
        Re-entrant within a thread.
        """
        with self.writing(purpose):
            if self.warehouse in _WAREHOUSES:
                yield
                return
            _WAREHOUSES[self.warehouse] = self._open()
            try:
                _WAREHOUSES[self.warehouse].execute("set wal_autocheckpoint = '1TB'")
                yield
            finally:
                _WAREHOUSES.pop(self.warehouse).close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        memory, spill = os.environ.get("ONEFOLD_MEMORY", MEMORY), str(self.workspace / "spill")
        deadline = time.monotonic() + _GLANCE
        while True:
            try:
                return duckdb.connect(str(self.warehouse), config={"memory_limit": memory, "temp_directory": spill})
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise OnefoldError(remedy(str(error))) from error
                time.sleep(0.2)


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what happens inside as one, or nothing of it."""
    connection.execute("begin")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


# The lock files that this process holds, and who of its threads may: flock alone knows processes only.
_HELD: set[Path] = set()
_THREADS: dict[Path, threading.RLock] = {}
_WAREHOUSES: dict[Path, duckdb.DuckDBPyConnection] = {}  # those kept open, under their write locks
_KEPT = contextlib.ExitStack()  # never closed: the operating system does it
_ATTENDED: dict[str, IO[str]] = {}
_GLANCE = 5.0  # seconds; somebody who only looked into the warehouse with another program is waited for


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder; another process that does raises BlockingIOError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _acquire(handle, home: Path, patience: float) -> None:
    begun, told = time.monotonic(), False
    deadline = begun + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            handle.seek(0)
            written = handle.read()
            holder = written or "another process"
            if time.monotonic() > deadline:
                raise OnefoldError(
                    f"{home}: still held by {holder} after {patience:.0f} s; wait for it to end, or stop it, and run again"
                ) from None
            if not told and (written or time.monotonic() > begun + 1):  # a holder writes its name after it took the lock
                log.warning("waiting for %s", holder)
                told = True
            time.sleep(0.2)


def quoted(value: object) -> str:
    """A value as the inside of a SQL string literal."""
    return str(value).replace("'", "''")
