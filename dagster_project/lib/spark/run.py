"""One dbt command on Spark, from the ledger's loads to views over what it built."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.settings import Settings
from dagster_project.lib.spark import adapter
from dagster_project.lib.spark.catalogue import Catalogue
from dagster_project.lib.spark.session import session
from dagster_project.lib.spark.staging import stage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["building", "session"]


@contextmanager
def building(
    home: Home, running: "SparkSession", seq: int, schemas: Iterable[str], views: Sequence[tuple[str, str]]
) -> Iterator[int]:
    """Have dbt's target spark build on a session, and DuckDB read afterwards what is there; gives the number of threads.

    Args:
        running: the session.
        seq: the number of this write.
        schemas: those of the project.
        views: the project's views as DuckDB reads them, (schema.table, query).

    Raises:
        OnefoldError: the storage is another home's, or is not what this warehouse has written.
    """
    catalogue = Catalogue(home)
    catalogue.storage.claim()
    if ahead := [note.node for note in catalogue.notes() if note.seq >= seq]:
        raise OnefoldError(
            f"{home.path}: Spark's tables ({ahead[0]} and {len(ahead) - 1} others) are from later writes than the warehouse's, "
            "which was lost or restored alone; restore the home and its storage from one moment"
        )
    catalogue.sweep()
    catalogue.register(running, schemas)
    with home.connect("staging for Spark") as connection:
        stage(home, connection, running, seq)
    try:
        with adapter.building(adapter.Build(home, running, seq, catalogue)):
            yield Settings.of(home).spark.threads
    finally:
        with home.connect("views over Spark's tables") as connection, transaction(connection):
            catalogue.mirror(connection)
            for name, query in views:
                if catalogue.note(name):
                    connection.execute(f"create or replace view {name} as {query}")
