"""Where Spark's staging and tables lie: a folder, or any URL that fsspec reads."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.settings import Settings

_MARK = "_onefold_home"  # file in the storage: whose it is


@dataclass(frozen=True)
class Storage:
    """The root under its two names: ours for fsspec and DuckDB, and Spark's."""

    ours: str
    sparks: str
    home: Path
    is_apart: bool  # named by the settings, and not a folder of the home

    @classmethod
    def of(cls, home: Home) -> "Storage":
        settings = Settings.of(home).spark
        ours = (settings.storage or str(home.path / "spark")).rstrip("/")
        return cls(ours, (settings.storage_in_spark or ours).rstrip("/"), home.path.resolve(), bool(settings.storage))

    @cached_property
    def files(self) -> Any:
        """The file system, as fsspec has it.

        Raises:
            ImportError: fsspec knows the URL's protocol, and its package is not installed; says which.
        """
        import fsspec

        return fsspec.core.url_to_fs(self.ours)[0]

    @property
    def is_local(self) -> bool:
        return "file" in self.files.protocol

    def path(self, relative: str) -> str:
        """One of ours, as fsspec's methods and DuckDB take it."""
        return f"{self.ours}/{relative}"

    def in_spark(self, relative: str) -> str:
        """The same as Spark names it."""
        return f"{self.sparks}/{relative}"

    def parts(self, folder: str) -> list[str]:
        """The Parquet files of one folder, relative names; none where it is not there."""
        root = self.files._strip_protocol(self.ours).rstrip("/")
        return sorted(
            str(name)[len(root) + 1 :]
            for name in self.files.glob(f"{root}/{folder}/*.parquet")
            if not str(name).rsplit("/", 1)[-1].startswith(("_", "."))
        )

    def folders(self, pattern: str) -> list[str]:
        """The folders, and files, of a pattern, relative names."""
        root = self.files._strip_protocol(self.ours).rstrip("/")
        return [str(name).rstrip("/")[len(root) + 1 :] for name in self.files.glob(f"{root}/{pattern}")]

    def remove(self, relative: str) -> None:
        """Remove a folder with all in it, if it is there."""
        if self.files.exists(self.path(relative)):
            self.files.rm(self.path(relative), recursive=True)

    def claim(self) -> None:
        """Keep the storage for one home, and the home to one storage.

        Raises:
            OnefoldError: it is another home's, or the home's tables are elsewhere.
        """
        written = self._record.read_text(encoding="utf-8").split("\n") if self._record.exists() else [self._name]
        kept, tokens = written[0], written[1:]
        if kept != self._name:
            raise OnefoldError(
                f"the tables of {self.home} are in {kept or 'its folder spark/'}, and spark.storage says "
                f"{self._name or 'nothing'}: set it back, or copy all files there and write its new name into {self._record}"
            )
        token, said = uuid4().hex, ""
        if self.is_apart:
            mark = self.path(_MARK)
            owner, _, said = (self.files.cat_file(mark).decode() if self.files.exists(mark) else "").partition("\n")
            if any(tokens[:1]) and not owner:  # the first claim may have been killed before its mark
                raise OnefoldError(f"{self.ours} is not there, or not what {self.home} has written: {mark} is missing")
            if owner and (owner != str(self.home) or said not in tokens):
                raise OnefoldError(
                    f"{self.ours} is the storage of the home {owner}, which used it last: give {self.home} one of its own "
                    f"(spark.storage), or, where this is that home in another place, write '{self.home}' and, in a second "
                    f"line, the last line of {self._record} into {mark}"
                )
        # Both know the token of before until the storage has the new one.
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text("\n".join([self._name, said, token]), encoding="utf-8")
        if self.is_apart:
            self.files.makedirs(self.ours, exist_ok=True)
            self.files.pipe_file(mark, f"{self.home}\n{token}".encode())

    def release(self) -> None:
        """Leave the storage to any home."""
        self.remove(_MARK)
        self._record.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        return self.ours if self.is_apart else ""

    @property
    def _record(self) -> Path:
        return self.home / "spark" / "storage"

    def register(self, connection: Any) -> None:
        """Let a DuckDB connection read and write here."""
        protocols = {self.files.protocol} if isinstance(self.files.protocol, str) else set(self.files.protocol)
        if not self.is_local and not protocols & set(connection.list_filesystems()):
            connection.register_filesystem(self.files)
