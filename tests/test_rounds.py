"""The rounds of SQL against the solver that takes one link after the other, and examples worked out by hand."""

import random
from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib import portability
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.identity import rounds
from dagster_project.lib.identity.solve import DAY, SHARED, Graph, Limit, Refusal, solve
from tests.graphs import KINDS, PERSONS, keyed, random_graph, random_limits, side_by_side

USER, EMAIL, PHONE, COOKIE, DEVICE = range(len(KINDS))


def tables(graph: Graph) -> dict[str, pd.DataFrame]:
    """A graph as the tables that the rounds read."""
    names = graph.name(np.arange(graph.count))
    return {
        "nodes": pd.DataFrame(
            {
                "id": np.arange(graph.count),
                "kind": graph.kinds,
                "is_person": graph.is_person,
                "value": graph.values,
                "first_seen": graph.first_seen,
                "name": names,
            }
        ),
        "links": pd.DataFrame(
            {
                "id": np.arange(len(graph.left)),
                "left_id": graph.left,
                "right_id": graph.right,
                "rank": graph.rank,
                "confidence": graph.confidence,
                "linked_at": graph.linked_at,
            }
        ),
        "apart": pd.DataFrame(graph.apart, columns=["left_id", "right_id"], dtype=np.int64),
        "eras": pd.DataFrame(graph.eras, columns=["before_id", "after_id"], dtype=np.int64),
    }


class Warehouse:
    """What rounds run on: a database of their own. Remembers the statements."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.statements: list[str] = []

    def execute(self, statement: str) -> list[tuple]:
        self.statements.append(statement)
        return self.connection.execute(statement).fetchall()

    def make(self, name: str, query: str) -> str:
        self.statements.append(query)
        self.connection.execute(f"create table {name} as {query}")
        return name


def solve_in_rounds(
    graph: Graph, limits: Sequence[Limit], statements: list[str] | None = None, **settings: int
) -> tuple[list[int], list[Refusal], int]:
    """Clusters under their least positions, refusals, and the number of rounds."""
    warehouse = Warehouse()
    with warehouse.connection as connection:
        for name, table in tables(graph).items():
            connection.register("given", table)
            connection.execute(f"create table {name} as select * from given")
        few = {"apart": "apart" if len(graph.apart) else None, "eras": "eras" if len(graph.eras) else None}
        inputs = rounds.Inputs("nodes", "links", **few, keyed="md5")  # as tests.graphs.keyed
        solved = rounds.solve(warehouse, inputs, limits, KINDS, **settings)
        if statements is not None:
            statements += warehouse.statements
        query = f"select cluster from {solved.clusters} order by id"
        clusters = [cluster for (cluster,) in connection.execute(query).fetchall()]
        found = connection.execute(f"select * from {solved.refusals}").fetchall() if solved.refusals else []
    return clusters, [Refusal(*row) for row in found], solved.rounds


def assert_same(graph: Graph, limits: Sequence[Limit]) -> int:
    """Compare with `solve`; returns the number of rounds."""
    expected = solve(graph, limits, KINDS)
    clusters, refusals, count = solve_in_rounds(graph, limits)
    first: dict[int, int] = {SHARED: SHARED}
    assert clusters == [first.setdefault(cluster, position) for position, cluster in enumerate(expected.clusters.tolist())]
    assert sorted(map(str, refusals)) == sorted(map(str, expected.refusals))
    return count


# Several graphs at once, as a round costs what it costs: fifteen find as much in a fifth of the time.
@settings(max_examples=30)
@given(st.randoms(use_true_random=True))
def test_rounds_give_the_clusters_and_refusals_of_one_link_after_the_other(chance: random.Random) -> None:
    graphs = [random_graph(chance) for _ in range(15)]
    assert_same(side_by_side(graphs), random_limits(chance))


def graph_of(
    kinds: Sequence[int],
    links: Sequence[tuple[int, int]],
    decided: Sequence[tuple[int, int]] = (),
    apart: Sequence[tuple[int, int]] = (),
    eras: Sequence[tuple[int, int]] = (),
    days: Sequence[int] | None = None,
) -> Graph:
    """A graph whose links are taken in the order that they are given in, after those that somebody decided."""
    values = np.arange(len(kinds))
    for before, after in eras:
        values[after] = values[before]
    every = [*decided, *links]
    return Graph(
        kinds=np.array(kinds),
        is_person=np.array(kinds) < PERSONS,
        values=values,
        first_seen=np.array(range(len(kinds)) if days is None else days) * DAY,
        left=np.array([left for left, _ in every], dtype=np.int64),
        right=np.array([right for _, right in every], dtype=np.int64),
        rank=np.array([0] * len(decided) + [1] * len(links), dtype=np.int64),
        confidence=np.ones(len(every)),
        linked_at=np.arange(len(every)) * DAY,
        name=lambda positions: [f"identifier {position}" for position in positions],
        keyed=keyed,
        apart=apart,
        eras=eras,
    )


# Name: the graph, the limits, and what a person who reads the rules finds: clusters and refusals.
EXAMPLES = {
    "a chain is cut where its limit breaks": (
        graph_of([USER, EMAIL, USER, EMAIL, USER], [(0, 1), (1, 2), (2, 3), (3, 4)]),
        [Limit(USER, 1)],
        [0, 0, 2, 2, 4],
        [
            Refusal(1, 2, "limit", "2 values of user_id, of at most 1", link=1),
            Refusal(3, 4, "limit", "2 values of user_id, of at most 1", link=3),
        ],
    ),
    "a limit within days counts what was first seen in them": (
        graph_of([USER, EMAIL, EMAIL, EMAIL], [(0, 1), (0, 2), (0, 3)], days=[0, 0, 1, 9]),
        [Limit(EMAIL, 1, days=2)],
        [0, 0, 2, 0],
        [Refusal(0, 2, "window", "2 values of email first seen within 2 days, of at most 1", link=1)],
    ),
    "a decision is bound to no limit, and what others add to it is": (
        graph_of([USER, USER, EMAIL, USER], [(1, 2), (2, 3)], decided=[(0, 1)]),
        [Limit(USER, 1)],
        [0, 0, 0, 3],
        [Refusal(2, 3, "limit", "3 values of user_id, of at most 1", link=2)],
    ),
    "who somebody says are different stay apart, whatever links them": (
        graph_of([USER, EMAIL, PHONE], [(0, 1), (1, 2)], apart=[(2, 0)]),
        [],
        [0, 0, 2],
        [Refusal(1, 2, "decision", "somebody decided that they are different", link=1)],
    ),
    "a decided carrier stays with its person": (
        graph_of([USER, COOKIE, USER], [(1, 2)], decided=[(0, 1)]),
        [],
        [0, 0, 2],
        [Refusal(1, 2, "conflict", "each has its own user_id", through=1)],
    ),
    "eras of one value become one unless their holders differ": (
        graph_of([USER, PHONE, PHONE, USER, PHONE, EMAIL], [(0, 1), (2, 3), (4, 5)], eras=[(1, 2), (2, 4)]),
        [],
        [0, 0, 2, 2, 2, 2],
        [Refusal(1, 2, "conflict", "each has its own user_id", through=2)],
    ),
    "carriers are shared between customers who differ": (
        graph_of([USER, DEVICE, USER, COOKIE], [(0, 1), (1, 2), (3, 1)]),
        [],
        [0, SHARED, 2, SHARED],
        [Refusal(0, 2, "conflict", "each has its own user_id", through=1)],
    ),
    "carriers unite customers who do not differ": (
        graph_of([USER, DEVICE, EMAIL, PHONE, PHONE], [(0, 1), (1, 2), (0, 3), (0, 4)]),
        [],
        [0, 0, 0, 0, 0],
        [],
    ),
    "of carriers that are kept apart the later one is left out": (
        graph_of([USER, COOKIE, COOKIE, COOKIE], [(0, 1), (0, 2), (2, 3)], apart=[(2, 1), (3, 2)]),
        [],
        [0, 0, 2, 0],
        [Refusal(0, 2, "decision", "somebody decided that they are different", through=2)],
    ),
    "the others of its group are counted before later carriers": (
        graph_of([USER, EMAIL, DEVICE, DEVICE, DEVICE], [(0, 2), (2, 3), (0, 4), (1, 4)], apart=[(2, 3)]),
        [Limit(DEVICE, 1)],
        [0, 1, 0, 3, SHARED],
        [
            Refusal(0, 3, "decision", "somebody decided that they are different", through=2),
            Refusal(0, 1, "limit", "2 values of device_id, of at most 1", through=4),
        ],
    ),
    "what carriers bring to a customer counts before the next unite them": (
        graph_of([USER, EMAIL, DEVICE, DEVICE], [(0, 2), (0, 3), (1, 3)]),
        [Limit(DEVICE, 1)],
        [0, 1, 0, SHARED],
        [Refusal(0, 1, "limit", "2 values of device_id, of at most 1", through=3)],
    ),
    "carriers that join whatever the limits may lift one for the next": (
        graph_of(
            [USER, DEVICE, EMAIL, DEVICE, DEVICE, DEVICE],
            [(2, 3), (3, 4), (0, 5), (2, 5)],
            decided=[(0, 1)],
            days=[0, 10, 0, 0, 0, 11],
        ),
        [Limit(DEVICE, 1, days=2)],
        [0, 0, 0, 0, 0, 0],
        [],
    ),
    "a decision over a limit may lift it for others": (
        graph_of([USER] * 5, [(1, 3), (0, 1), (0, 4)], decided=[(2, 3)], eras=[(0, 2), (1, 3)]),
        [Limit(USER, 1)],
        [0, 0, 0, 0, 4],
        [Refusal(0, 4, "limit", "3 values of user_id, of at most 1", link=3)],
    ),
    "an earlier era may take a value out of the days of a limit": (
        graph_of(
            [EMAIL, EMAIL, PHONE, EMAIL, EMAIL, PHONE],
            [(1, 2), (4, 5), (3, 1), (0, 1), (0, 4)],
            eras=[(3, 1)],
            days=[5, 5, 5, 0, 5, 5],
        ),
        [Limit(PHONE, 1), Limit(EMAIL, 1, days=2)],
        [0, 0, 0, 0, 4, 4],
        [Refusal(0, 4, "limit", "2 values of phone, of at most 1", link=4)],
    ),
    "a refusal tells of the clusters at its turn, not of what came later": (
        graph_of([EMAIL, EMAIL, EMAIL, PHONE, EMAIL], [(1, 2), (2, 3), (0, 1), (0, 4)]),
        [Limit(EMAIL, 2)],
        [0, 1, 1, 1, 0],
        [Refusal(0, 1, "limit", "3 values of email, of at most 2", link=2)],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_come_out_as_the_rules_say(name: str) -> None:
    graph, limits, clusters, refusals = EXAMPLES[name]
    found, refused, _ = solve_in_rounds(graph, limits)
    assert (found, sorted(map(str, refused))) == (clusters, sorted(map(str, refusals)))
    assert_same(graph, limits)


MANY = 60
HUBS = {
    "an email of many users": (graph_of([EMAIL] + [USER] * MANY, [(0, user) for user in range(1, MANY + 1)]), [Limit(USER, 1)]),
    "a user of many emails": (
        graph_of([USER] + [EMAIL] * MANY, [(0, email) for email in range(1, MANY + 1)], days=[0] * (MANY + 1)),
        [Limit(EMAIL, 1, days=30)],
    ),
    "two users of many browsers": (
        graph_of([USER, USER] + [COOKIE] * MANY, [(user, cookie) for cookie in range(2, MANY + 2) for user in (0, 1)]),
        [Limit(COOKIE, 1)],
    ),
    "a user of many browsers, and one that another has": (
        graph_of([USER, USER] + [COOKIE] * MANY, [(0, cookie) for cookie in range(2, MANY + 2)] + [(1, MANY + 1)]),
        [Limit(COOKIE, 1)],
    ),
}


@pytest.mark.parametrize("name", HUBS)
def test_a_value_with_many_neighbours_takes_few_rounds(name: str) -> None:
    assert assert_same(*HUBS[name]) <= 2


def test_what_cannot_break_takes_no_round() -> None:
    graph = graph_of([USER, PHONE, PHONE, EMAIL, COOKIE], [(0, 1), (2, 3), (3, 4)], eras=[(1, 2)])
    assert solve_in_rounds(graph, [Limit(PHONE, 1)]) == ([0] * 5, [], 0)


def test_too_few_rounds_are_an_error_that_names_the_place_and_the_remedy() -> None:
    graph = graph_of([USER, EMAIL, USER, EMAIL, USER], [(0, 1), (1, 2), (2, 3), (3, 4)])
    with pytest.raises(OnefoldError, match=r"after 1 rounds .* around identifier 0 are undecided.*block it in identity.yaml"):
        solve_in_rounds(graph, [Limit(USER, 1)], most_rounds=1)


def test_every_statement_is_one_that_spark_reads_too() -> None:
    statements: list[str] = []
    solve_in_rounds(EXAMPLES["an earlier era may take a value out of the days of a limit"][0], [Limit(EMAIL, 1, 2)], statements)
    for statement in statements:
        assert isinstance(sqlglot.parse_one(statement, read="spark"), sqlglot.exp.Query)
        assert list(portability._scan(statement, "sql", {"limits"})) == [], statement


def test_moves_of_many_rounds_are_kept_together() -> None:
    # A chain in which each link waits for the one before it.
    graph = graph_of([USER, EMAIL] * 40, [(at, at + 1) for at in range(79)])
    assert assert_same(graph, [Limit(USER, 1)]) > rounds._AT_ONCE
