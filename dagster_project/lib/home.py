"""A home: the folder that holds all data of one installation, and the lock that its writers take."""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb

from dagster_project.lib.errors import OnefoldError

log = logging.getLogger("onefold")

PROJECT_ROOT = Path(__file__).resolve().parents[2]


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

    def prepare(self) -> "Home":
        """Create the folders that do not exist yet and hand Dagster its settings."""
        for folder in (self.landing, self.sources, self.serving, self.deliveries, self.dagster, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        shipped = PROJECT_ROOT / "dagster_project" / "dagster.yaml"
        installed = self.dagster / "dagster.yaml"
        if not installed.exists() or installed.read_bytes() != shipped.read_bytes():
            shutil.copyfile(shipped, installed)
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
        self.path.mkdir(parents=True, exist_ok=True)
        threads = _THREADS.setdefault(self.path, threading.RLock())
        if not threads.acquire(timeout=patience):
            raise OnefoldError(f"{self.path}: another thread still writes after {patience:.0f} s; run again when it has ended")
        try:
            if self.path in _HELD:
                yield
                return
            with (self.path / ".lock").open("a+") as handle:
                _acquire(handle, self.path, patience)
                _HELD.add(self.path)
                handle.seek(0)
                handle.truncate()
                handle.write(f"{purpose} (process {os.getpid()})")
                handle.flush()
                try:
                    yield
                finally:
                    _HELD.discard(self.path)
                    fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            threads.release()

    @contextlib.contextmanager
    def connect(self, purpose: str, patience: float = 600.0) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the warehouse for writing, under the lock, with UTC as the session's time zone."""
        with self.writing(purpose, patience):
            self.temporary.mkdir(parents=True, exist_ok=True)
            connection = duckdb.connect(str(self.warehouse))
            try:
                self.warehouse.chmod(0o600)  # it holds contact data
                connection.execute("set TimeZone = 'UTC'")
                connection.execute(f"set temp_directory = '{quoted(self.temporary / 'spill')}'")
                yield connection
            finally:
                connection.close()


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


# The homes that this process holds, and who of its threads may: flock alone knows processes only.
_HELD: set[Path] = set()
_THREADS: dict[Path, threading.RLock] = {}


def _acquire(handle, home: Path, patience: float) -> None:
    deadline, told = time.monotonic() + patience, False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read() or "another process"
            if time.monotonic() > deadline:
                raise OnefoldError(
                    f"{home}: still held by {holder} after {patience:.0f} s; wait for it to end, or stop it, and run again"
                ) from None
            if not told:
                log.warning("waiting for %s", holder)
                told = True
            time.sleep(0.2)


def quoted(value: object) -> str:
    """A value as the inside of a SQL string literal."""
    return str(value).replace("'", "''")
