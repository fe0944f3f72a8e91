"""Identity on DuckDB: intermediate results are temporary tables; the candidate graph is solved as arrays in this process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from datetime import datetime
from typing import Any

import duckdb
import numpy as np

from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.identity.engine import DIFFERENT, FOLLOWERS, Clustered, Engine
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.shape import shapes
from dagster_project.lib.identity.solve import NEVER, SHARED, Graph, Limit, solve
from dagster_project.lib.keyed import hasher, tokens
from dagster_project.lib.state import Decision


class Arrays(Engine):
    """One run on a connection, under a key."""

    age = "places.place"

    def __init__(self, connection: duckdb.DuckDBPyConnection, key: bytes) -> None:
        self.connection, self.key = connection, key

    @classmethod
    @contextmanager
    def on(cls, connection: duckdb.DuckDBPyConnection, key: bytes) -> Iterator["Arrays"]:
        """A run whose statements may call `keyed`; nobody else's can."""
        connection = getattr(connection, "_cursor", connection)  # dbt's wrapper of it makes no functions
        # Not one of Arrow batches: within coalesce() its results come out broken (DuckDB 1.5.5).
        connection.create_function("keyed", hasher(key), ["varchar"], "varchar")
        try:
            yield cls(connection, key)
        finally:
            connection.remove_function("keyed")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    def make(self, name: str, query: str) -> None:
        self.connection.execute(f"create or replace temp table {name} as {query}")

    view = make

    def decisions(self, decisions: Sequence[Decision]) -> None:
        self.make("given", "select * from identity._decisions limit 0")
        rows = [[at.replace(tzinfo=None) if isinstance(at, datetime) else at for at in astuple(d)] for d in decisions]
        if rows:
            self.connection.executemany("insert into given values (?, ?, ?, ?, ?, ?, ?)", rows)

    def number(self, order: str) -> str:
        return f"row_number() over (order by {order}) - 1"

    def micros(self, moment: str) -> str:
        return f"epoch_us({moment})"

    def reach(self, name: str, start: str, pairs: str) -> None:
        query = f"select other from tied join {pairs} as pairs on pairs.one = tied.name"
        self.make(name, f"with recursive tied as (select name from ({start}) as start union {query}) select name from tied")

    def append(self, table: str, rows: str, order: str = "") -> None:
        self.connection.execute(f"insert into identity.{table} by name {rows}{order and f' order by {order}'}")

    def replace(self, table: str, rows: str) -> None:
        self.connection.execute(f"delete from identity.{table}")
        self.append(table, rows)

    def exchange(self, table: str, rows: str, gone: Mapping[str, str]) -> None:
        is_gone = " or ".join(f"{column} in ({query})" for column, query in gone.items())
        self.connection.execute(f"delete from identity.{table} where {is_gone}")
        self.append(table, rows)

    def standing(self, table: str) -> int:
        return self.count(f"select count(*) from identity.{table}")

    def cluster(self, rules: Rules, has_eras: bool) -> Clustered:
        kind_names = [name for (name,) in self.rows("select distinct identifier_type from places order by 1")]
        candidates = self._graph(kind_names)
        limits = [
            Limit(kind, limit.most, limit.days) for kind, name in enumerate(kind_names) for limit in rules.of_type(name).limits
        ]
        solution = solve(candidates, limits, kind_names)
        self._keep("clusters", {"place": np.arange(candidates.count), "cluster": solution.clusters})
        eras = np.array(candidates.eras, dtype=np.int64).reshape(-1, 2)
        ends = [np.concatenate([side, eras[:, at]]) for at, side in enumerate((candidates.left, candidates.right))]
        self._keep("shaped", vars(shapes(solution.clusters, *ends)))
        is_shared = solution.clusters == SHARED
        among = is_shared[candidates.left] & is_shared[candidates.right]
        companies = connected_components(candidates.count, candidates.left[among], candidates.right[among])
        self._keep("shared", {"place": np.flatnonzero(is_shared), "company": companies[is_shared].astype(np.int64)})
        # Another way may have united them since.
        refusals = [r for r in solution.refusals if solution.clusters[r.left] != solution.clusters[r.right]]
        columns = {
            "left_place": [r.left for r in refusals],
            "right_place": [r.right for r in refusals],
            "through_place": [-1 if r.through is None else r.through for r in refusals],
            "link": [-1 if r.link is None else r.link for r in refusals],
        }
        words = {"reason": [r.reason for r in refusals], "detail": [r.detail for r in refusals]}
        self._keep(
            "found",
            {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
            | {name: np.array(values, dtype=object) for name, values in words.items()},
        )
        return Clustered(int(is_shared.sum()), len(refusals))

    def _graph(self, kind_names: Sequence[str]) -> Graph:
        found = self.connection.execute(
            f"""
            select
                list_position($kinds, identifier_type) - 1 as kind, is_person, node,
                coalesce(epoch_us(coalesce(begins, first_seen_at)), {NEVER}) as since
            from places order by place
            """,
            {"kinds": kind_names},
        ).fetchnumpy()
        links = self.connection.execute(
            "select left_place, right_place, rank, confidence, linked_at from links order by link"
        ).fetchnumpy()
        followers = self.rows(FOLLOWERS)
        return Graph(
            kinds=np.asarray(found["kind"], dtype=np.int64),
            is_person=np.asarray(found["is_person"], dtype=bool),
            values=np.asarray(found["node"], dtype=np.int64),
            first_seen=np.asarray(found["since"], dtype=np.int64),
            left=np.asarray(links["left_place"], dtype=np.int64),
            right=np.asarray(links["right_place"], dtype=np.int64),
            rank=np.asarray(links["rank"], dtype=np.int64),
            confidence=np.asarray(links["confidence"], dtype=np.float64),
            linked_at=np.asarray(links["linked_at"], dtype=np.int64),
            name=self._names,
            keyed=lambda texts: tokens(self.key, texts),
            # What somebody says was handed on stays apart; a silence alone proves nothing.
            apart=self.rows(DIFFERENT) + [(before, later) for before, later, is_stated in followers if is_stated],
            eras=[(before, later) for before, later, is_stated in followers if not is_stated],
        )

    def _names(self, places: np.ndarray) -> np.ndarray:
        """Names of places, in the order of the places."""
        self.connection.register("asked", {"number": np.arange(len(places)), "place": np.asarray(places, dtype=np.int64)})
        try:
            query = "select name from asked join places using (place) order by number"
            return self.connection.execute(query).fetchnumpy()["name"]
        finally:
            self.connection.unregister("asked")

    def _keep(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        self.connection.register("kept", dict(columns))
        self.make(name, "select * from kept")
        self.connection.unregister("kept")
