"""Random candidate graphs under random rules, dense enough that rules break."""

import hashlib
import random
from collections.abc import Sequence

import numpy as np

from dagster_project.lib.identity.solve import DAY, Graph, Limit

KINDS = ("user_id", "email", "phone", "anonymous_id", "device_id")
PERSONS = 3  # the first kinds name persons


def keyed(names: Sequence[str]) -> list[str]:
    return [hashlib.md5(str(name).encode()).hexdigest() for name in names]


def named(positions: Sequence[int]) -> list[str]:
    return [f"node {position}" for position in positions]


def random_graph(chance: random.Random) -> Graph:
    """A graph of some components, with ties in every order."""
    n = chance.randint(1, 24)
    kinds = np.array([chance.randrange(len(KINDS)) for _ in range(n)])
    values = np.arange(n)
    eras = []
    for node in range(1, n):  # some are a later era of the one before
        if kinds[node] == kinds[node - 1] < PERSONS and chance.random() < 0.3:
            values[node] = values[node - 1]
            eras.append((node - 1, node))
    pairs = {tuple(sorted(chance.sample(range(n), 2))) for _ in range(chance.randint(0, 40))} if n > 1 else set()
    pairs = sorted(pairs, key=lambda pair: chance.random())
    return Graph(
        kinds=kinds,
        is_person=kinds < PERSONS,
        values=values,
        first_seen=np.array([chance.randrange(6) * DAY for _ in range(n)]),
        left=np.array([pair[0] for pair in pairs], dtype=np.int64),
        right=np.array([pair[1] for pair in pairs], dtype=np.int64),
        rank=np.array([chance.choice([0, 1, 1, 1, 2]) for _ in pairs], dtype=np.int64),
        confidence=np.array([chance.choice([1.0, 1.0, 0.9]) for _ in pairs]),
        linked_at=np.array([chance.randrange(4) * DAY for _ in pairs], dtype=np.int64),
        name=named,
        keyed=keyed,
        apart=[tuple(chance.sample(range(n), 2)) for _ in range(chance.choice([0, 0, 1, 2]))] if n > 1 else [],
        eras=eras,
    )


def random_limits(chance: random.Random) -> list[Limit]:
    return [
        Limit(kind, chance.randint(1, 3), chance.choice([None, None, 2])) for kind in range(len(KINDS)) if chance.random() < 0.6
    ]


def random_case(seed: int) -> tuple[Graph, list[Limit]]:
    chance = random.Random(seed)
    return random_graph(chance), random_limits(chance)


def side_by_side(graphs: Sequence[Graph]) -> Graph:
    """Several graphs as one that has no links between them."""
    starts = np.cumsum([0, *(graph.count for graph in graphs)])

    def all_of(field: str, moved: bool = False) -> np.ndarray:
        return np.concatenate([getattr(graph, field) + start * moved for graph, start in zip(graphs, starts, strict=False)])

    def pairs_of(field: str) -> list[tuple[int, int]]:
        return [
            (int(one + start), int(other + start))
            for graph, start in zip(graphs, starts, strict=False)
            for one, other in getattr(graph, field)
        ]

    return Graph(
        kinds=all_of("kinds"),
        is_person=all_of("is_person").astype(bool),
        values=all_of("values", moved=True),
        first_seen=all_of("first_seen"),
        left=all_of("left", moved=True),
        right=all_of("right", moved=True),
        rank=all_of("rank"),
        confidence=all_of("confidence"),
        linked_at=all_of("linked_at"),
        name=named,
        keyed=keyed,
        apart=pairs_of("apart"),
        eras=pairs_of("eras"),
    )
