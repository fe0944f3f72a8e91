"""One dbt command on Spark, from the ledger's loads to views over what it built."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
def building(home: Home, running: "SparkSession", seq: int, views: Sequence[tuple[str, str]]) -> Iterator[int]:
    """Have dbt's target spark build on a session, and DuckDB read afterwards what is there; gives the number of threads.

    Args:
        running: the session.
        seq: the number of this write.
        views: the project's views as DuckDB reads them, (schema.table, query).
    """
    catalogue = Catalogue(home)
    catalogue.register(running)
    with home.connect("staging for Spark") as connection:
        stage(home, connection, running, seq)
    try:
        with adapter.building(adapter.Build(home, running, seq, catalogue)):
            yield Settings.of(home).spark.threads
    finally:
        catalogue.agree(running)
        with home.connect("views over Spark's tables") as connection, transaction(connection):
            catalogue.mirror(connection)
            for name, query in views:
                if catalogue.note(name):
                    connection.execute(f"create or replace view {name} as {query}")
