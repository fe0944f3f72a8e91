"""Finding a source's files, on this machine or behind any fsspec URL."""

import functools
import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dagster_project.lib.contracts import ChannelContract, Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

# Names that tools give to a file they are still writing.
_UNFINISHED = (".part", ".tmp", ".partial", ".crdownload", ".filepart")


class UnreachableError(OnefoldError):
    """A location that cannot be listed or a file that cannot be fetched now; another time it may be."""


@dataclass(frozen=True)
class LandedFile:
    """A file that a source names; `modified` is compared, never read as a time."""

    uri: str
    size: int
    modified: str
    path: Path | None  # None: remote
    name: str = field(default="", compare=False)  # of a remote file: as its store calls it
    store: Any = field(default=None, compare=False, repr=False)  # of a remote file: the file system that listed it

    @property
    def identity(self) -> tuple[str, int, str]:
        return (self.uri, self.size, self.modified)

    def is_unchanged(self) -> bool:
        """Whether a file on this machine is still the one that was listed; a remote one was fetched whole."""
        if self.path is None:
            return True
        stat = self.path.stat()
        return (stat.st_size, str(stat.st_mtime_ns)) == (self.size, self.modified)

    @contextmanager
    def local(self, home: Home) -> Iterator[Path]:
        """The file on this machine; a remote one is fetched to a temporary folder for as long as it is used.

        Raises:
            UnreachableError: it is gone, or cannot be fetched.
        """
        if self.path is not None:
            if not self.path.exists():
                raise UnreachableError(f"{self.uri}: is gone since it was listed; land it again if it is still wanted")
            yield self.path
            return
        with home.scratch() as folder:
            copy = folder / self.uri.rsplit("/", 1)[-1]
            try:
                with self.store.open(self.name, "rb") as remote, copy.open("wb") as target:
                    shutil.copyfileobj(remote, target, 1 << 20)
                self.store.invalidate_cache()
                now = self.store.info(self.name)
            except Exception as error:  # every store raises its own
                message = f"{self.uri}: cannot be fetched: {without_credentials(error)}; the next run tries again"
                raise UnreachableError(message) from error
            if (copy.stat().st_size, now["size"] or 0, _version(now)) != (self.size, self.size, self.modified):
                raise UnreachableError(f"{self.uri}: changed while it was fetched; the next run fetches it again")
            yield copy


def landed_files(
    home: Home, channel: ChannelContract, entity: str, source: Source, settle_seconds: float = 0
) -> list[LandedFile]:
    """The files of one source that are complete, by name.

    A file that another source of the entity names by a location of its own is left to that source.

    Raises:
        UnreachableError: a location cannot be listed.
    """
    if source.is_remote:
        return _remote_files(source.location, settle_seconds)
    found = _local_files(home, _pattern(channel, entity, source), settle_seconds)
    if source.location is None:
        for other in channel.entities[entity].sources:
            if other.location and not other.is_remote:
                claimed = {f.path for f in _local_files(home, other.location, 0)}
                found = [f for f in found if f.path not in claimed]
    return found


def content_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _pattern(channel: ChannelContract, entity: str, source: Source) -> str:
    return source.location or f"{channel.channel}/{entity}/**/*"


def _local_files(home: Home, pattern: str, settle_seconds: float) -> list[LandedFile]:
    absolute = Path(pattern).is_absolute()
    root = Path(Path(pattern).anchor) if absolute else home.landing
    relative = str(Path(pattern).relative_to(root)) if absolute else pattern
    settled_before = time.time() - settle_seconds
    files = []
    for path in sorted(root.glob(relative)):
        if _is_unfinished(str(path.relative_to(root)), relative) or not path.is_file():
            continue
        stat = path.stat()
        if settle_seconds and stat.st_mtime > settled_before:
            continue
        uri = str(path) if absolute else str(path.relative_to(home.path))
        files.append(LandedFile(uri, stat.st_size, str(stat.st_mtime_ns), path))
    return files


def _is_unfinished(path: str, pattern: str) -> bool:
    """Whether a file or a folder it is in is named as work in progress, such as Spark's _temporary.

    Names that the pattern spells out are meant.
    """
    spelled = pattern.split("/")
    return path.endswith(_UNFINISHED) or any(name.startswith((".", "_")) for name in path.split("/") if name not in spelled)


def _remote_files(location: str, settle_seconds: float) -> list[LandedFile]:
    shown = without_credentials(location)
    try:
        store, pattern = open_store(location)
        found = store.glob(pattern, detail=True)
    except Exception as error:  # every store raises its own
        message = f"{shown}: cannot be listed: {without_credentials(error)}; check the address and the credentials"
        raise UnreachableError(message) from error
    settled_before, files = time.time() - settle_seconds, {}
    for name, info in sorted(found.items()):
        if info["type"] != "file" or _is_unfinished(name, pattern):
            continue
        modified_at = _modified_at(info)
        if settle_seconds and modified_at is not None and modified_at > settled_before:
            continue
        uri = _uri(store, shown, name)
        files[uri] = LandedFile(uri, info["size"] or 0, _version(info), None, name, store)
    return list(files.values())


def open_store(location: str) -> tuple[Any, str]:
    """The file system behind a URL, newly connected, and the path in it.

    A connection kept from an earlier run may be broken by now, and a listing kept from it old.
    """
    import fsspec

    if location.startswith(("sftp://", "ssh://")):
        fsspec.register_implementation("sftp", _sftp(), clobber=True)
        fsspec.register_implementation("ssh", _sftp(), clobber=True)
    return fsspec.core.url_to_fs(location, skip_instance_cache=True, use_listings_cache=False)


@functools.cache
def _sftp() -> type:
    """fsspec's SFTP, which by itself trusts whatever server answers, made to talk to known hosts only."""
    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    class KnownHostsOnly(SFTPFileSystem):
        def _connect(self) -> None:
            settings = {"timeout": 30, "banner_timeout": 30, "auth_timeout": 30} | self.ssh_kwargs
            settings = {name: value for name, value in settings.items() if name not in ("use_listings_cache", "known_hosts")}
            self.client = paramiko.SSHClient()
            self.client.load_system_host_keys(self.ssh_kwargs.get("known_hosts"))
            self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
            self.client.connect(self.host, **settings)
            self.ftp = self.client.open_sftp()

    return KnownHostsOnly


def _uri(store: Any, location: str, name: str) -> str:
    """A remote file's URL; that of a server names it, as the same path may be on another."""
    if getattr(store, "host", None):
        return re.match(r"[^/]*//[^/]*", location)[0] + name
    return store.unstrip_protocol(name)


def without_credentials(text: object) -> str:
    """A text without the user and password that its URLs carry: it is shown, logged and stored."""
    return re.sub(r"(://)[^/\s]*@", r"\1", str(text))


def _version(info: dict) -> str:
    """What a store says of a file that differs once the file was written again; compared, never read."""
    modified_at = _modified_at(info)
    return str(info.get("ETag") or ("" if modified_at is None else f"{modified_at:.3f}"))


def _modified_at(info: dict) -> float | None:
    """When a file was last written, in seconds since 1970, where its store tells."""
    for name in ("LastModified", "mtime", "modified", "created"):
        match info.get(name):
            case datetime() as moment:
                return moment.timestamp()
            case float() | int() as seconds:
                return float(seconds)
    return None
