"""What the statements of the matching run on, and Splink beside them. Their text is one for DuckDB 1.5 and Spark 4.1.

Where the two have other words for a thing, a backend says its own. Splink's conditions (`likeness`) name functions of DuckDB;
each backend sees to it that they give DuckDB's values.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from dagster_project.lib.identity.comparable import prepare
from dagster_project.lib.identity.components import connected_components


class Backend(ABC):
    """Where profiles are compared. Intermediate results have bare names; the tables that are kept are named by the caller."""

    profile: str  # SQL: what tells the rows of prepared profiles apart
    hash: str  # the function that makes 64 bits of values
    each: str  # the function that makes a row of each element of a list
    empty: str  # SQL: a list of nothing

    @abstractmethod
    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query that has few."""

    def row(self, query: str) -> tuple[Any, ...]:
        """The one row that a query gives."""
        (row,) = self.rows(query)
        return row

    @abstractmethod
    def make(self, name: str, query: str) -> None:
        """Keep what a query gives under a name, in place of what was there."""

    @abstractmethod
    def values(self, name: str, columns: Mapping[str, tuple[str, Sequence[Any]]]) -> None:
        """As `make`, of values by column, each with its type in SQL."""

    @abstractmethod
    def drop(self, *names: str) -> None:
        """Forget what `make` and `values` kept."""

    @abstractmethod
    def number(self, name: str, table: str, by: str) -> None:
        """Make a table of the rows of a table with `id`, from 1 on, in the order of a column that tells them apart."""

    @abstractmethod
    def connect(self, name: str, nodes: str, edges: str) -> None:
        """Make a table (id, label): for each node the least id that it is connected to.

        Args:
            nodes: table whose `id` are the numbers from 1 on.
            edges: SELECT of one, other.
        """

    @abstractmethod
    def prepare(self, profiles: str, prepared: str, changed: str | None = None) -> None:
        """Keep profiles in comparable form; the arguments as of `comparable.prepare`."""

    @abstractmethod
    def linker(self, table: str, settings: Mapping[str, Any]) -> Any:
        """Splink's Linker over a table that `make` made."""

    @abstractmethod
    def tidy(self) -> None:
        """Drop what Splink leaves behind."""

    @abstractmethod
    def listed(self, columns: Sequence[str], most: str) -> str:
        """SQL: the list of structs of some columns of a group, by one of them, the greatest first; then by the others."""

    @abstractmethod
    def heaviest(self, parts: Sequence[tuple[str, str, str]]) -> str:
        """SQL: the list of structs (weight, comparison, level) of expressions, the greatest first; none without a level."""

    @abstractmethod
    def told(self, parts: str) -> str:
        """SQL: such a list in words."""

    @abstractmethod
    def is_there(self, table: str) -> bool:
        """Whether a table that is kept is there."""

    @abstractmethod
    def kept(self, table: str) -> str:
        """The name under which a table that is kept is read, with what this run changed."""

    @abstractmethod
    def replace(self, table: str, query: str) -> None:
        """Keep a table: a query's rows."""

    @abstractmethod
    def exchange(self, table: str, query: str, gone: str) -> None:
        """Take from a table the rows for which a condition holds, then add a query's rows."""


class DuckDB(Backend):
    """A connection to a warehouse; what is intermediate is temporary."""

    profile = "rowid"
    hash = "hash"
    each = "unnest"
    empty = "[]"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    def make(self, name: str, query: str) -> None:
        self.connection.execute(f"create or replace temp table {name} as {query}")

    def values(self, name: str, columns: Mapping[str, tuple[str, Sequence[Any]]]) -> None:
        shown = ", ".join(f"unnest(${at}::{kind}[]) as {column}" for at, (column, (kind, _)) in enumerate(columns.items(), 1))
        self.connection.execute(
            f"create or replace temp table {name} as select {shown}", [list(given) for _, given in columns.values()]
        )

    def drop(self, *names: str) -> None:
        for name in names:
            self.connection.execute(f"drop table if exists temp.{name}")

    def number(self, name: str, table: str, by: str) -> None:
        self.make(name, f"select row_number() over (order by {by}) as id, * from {table}")

    def connect(self, name: str, nodes: str, edges: str) -> None:
        (count,) = self.row(f"select count(*) from {nodes}")
        found = self.connection.execute(f"select one - 1 as one, other - 1 as other from ({edges})").fetchnumpy()
        component = connected_components(count, found["one"].astype(np.int64), found["other"].astype(np.int64))
        least = np.unique(component, return_index=True)[1] + 1
        self.values(name, {"id": ("bigint", range(1, count + 1)), "label": ("bigint", least[component].tolist())})

    def prepare(self, profiles: str, prepared: str, changed: str | None = None) -> None:
        prepare(self.connection, profiles, prepared, changed)

    def linker(self, table: str, settings: Mapping[str, Any]) -> Any:
        from splink import DuckDBAPI, Linker

        class InTemporaryTables(DuckDBAPI):
            """Keeps Splink's tables beside the warehouse, not in it."""

            def _setup_for_execute_sql(self, sql: str, physical_name: str) -> str:
                return super()._setup_for_execute_sql(sql, physical_name).replace("CREATE TABLE", "CREATE TEMP TABLE", 1)

        api = InTemporaryTables(connection=self.connection)
        return Linker(api.register(table), settings, log_level=logging.ERROR, validate_settings=False)

    def tidy(self) -> None:
        # They would grow in a process that stays warm.
        left = "select table_name from duckdb_tables() where temporary and starts_with(table_name, '__splink__')"
        for (table,) in self.rows(left):
            self.connection.execute(f"drop table temp.{table}")

    def listed(self, columns: Sequence[str], most: str) -> str:
        fields = ", ".join(f"{column}: {column}" for column in columns)
        order = ", ".join([f"{most} desc", *(column for column in columns if column != most)])
        return f"list({{{fields}}} order by {order})"

    def heaviest(self, parts: Sequence[tuple[str, str, str]]) -> str:
        structs = ", ".join(f"{{weight: {weight}, comparison: {name}, level: {level}}}" for weight, name, level in parts)
        return f"list_reverse_sort(list_filter([{structs}], lambda each: each.level is not null))"

    def told(self, parts: str) -> str:
        return f"array_to_string(list_transform({parts}, lambda each: concat(each.comparison, ': ', each.level)), ', ')"

    def is_there(self, table: str) -> bool:
        schema, _, name = table.rpartition(".")
        where = f"and schema_name = '{schema}'" if schema else ""
        return self.row(f"select count(*) > 0 from duckdb_tables() where table_name = '{name}' {where}")[0]

    def kept(self, table: str) -> str:
        return table

    def replace(self, table: str, query: str) -> None:
        self.connection.execute(f"create or replace table {table} as {query}")

    def exchange(self, table: str, query: str, gone: str) -> None:
        self.connection.execute(f"delete from {table} where {gone}")
        self.connection.execute(f"insert into {table} {query}")
