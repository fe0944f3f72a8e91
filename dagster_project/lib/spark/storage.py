"""Where Spark's staging and tables lie: a folder, or any URL that fsspec reads."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dagster_project.lib.home import Home
from dagster_project.lib.settings import Settings


@dataclass(frozen=True)
class Storage:
    """The root under its two names: ours for fsspec and DuckDB, and Spark's."""

    ours: str
    sparks: str

    @classmethod
    def of(cls, home: Home) -> "Storage":
        settings = Settings.of(home).spark
        ours = (settings.storage or str(home.path / "spark")).rstrip("/")
        return cls(ours, (settings.storage_in_spark or ours).rstrip("/"))

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

    def remove(self, relative: str) -> None:
        """Remove a folder with all in it, if it is there."""
        if self.files.exists(self.path(relative)):
            self.files.rm(self.path(relative), recursive=True)

    def register(self, connection: Any) -> None:
        """Let a DuckDB connection read and write here."""
        protocols = {self.files.protocol} if isinstance(self.files.protocol, str) else set(self.files.protocol)
        if not self.is_local and not protocols & set(connection.list_filesystems()):
            connection.register_filesystem(self.files)
