"""Finding a source's files, on this machine or behind any fsspec URL."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
        import fsspec

        home.temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.temporary) as folder:
            copy = Path(folder) / self.uri.rsplit("/", 1)[-1]
            try:
                with fsspec.open(self.uri, "rb") as remote, copy.open("wb") as target:
                    shutil.copyfileobj(remote, target, 1 << 20)
            except Exception as error:  # every store raises its own
                raise UnreachableError(f"{self.uri}: cannot be fetched: {error}; the next run tries again") from error
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
        return _remote_files(source.location)
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


def _remote_files(location: str) -> list[LandedFile]:
    import fsspec

    try:
        system, pattern = fsspec.core.url_to_fs(location)
        found = system.glob(pattern, detail=True)
    except Exception as error:  # every store raises its own
        message = f"{location}: cannot be listed: {error}; check the address and the credentials"
        raise UnreachableError(message) from error
    files = []
    for name, info in sorted(found.items()):
        if info["type"] != "file" or _is_unfinished(name, pattern):
            continue
        version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created") or ""
        files.append(LandedFile(system.unstrip_protocol(name), info["size"] or 0, str(version), None))
    return files
