"""The shape of a customer, against networkx."""

import networkx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib.identity.shape import shapes


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 14).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(-1, 2), min_size=n, max_size=n),
            st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=24),
        )
    )
)
def test_links_bridges_and_sides_are_those_of_networkx(drawn: tuple) -> None:
    clusters, pairs = np.array(drawn[0]), np.array(drawn[1], dtype=np.int64).reshape(-1, 2)
    found = shapes(clusters, pairs[:, 0], pairs[:, 1])
    assert found.cluster.tolist() == sorted({c for c in drawn[0] if c >= 0})
    for at, cluster in enumerate(found.cluster):
        graph = networkx.Graph()
        graph.add_nodes_from(np.flatnonzero(clusters == cluster).tolist())
        graph.add_edges_from((a, b) for a, b in pairs.tolist() if a != b and clusters[a] == clusters[b] == cluster)
        sides = []
        for bridge in networkx.bridges(graph):
            cut = graph.copy()
            cut.remove_edge(*bridge)
            sides.append(min(len(networkx.node_connected_component(cut, end)) for end in bridge))
        assert found.identifiers[at] == len(graph)
        assert found.links[at] == graph.number_of_edges()
        assert found.bridges[at] == len(sides)
        assert found.largest_side[at] == max(sides, default=0)


def test_two_people_who_one_link_joins_show_it() -> None:
    left = np.array([0, 1, 2, 3, 4, 5, 0])
    right = np.array([1, 2, 0, 4, 5, 3, 3])
    found = shapes(np.zeros(6, dtype=np.int64), left, right)
    assert (found.bridges.tolist(), found.largest_side.tolist()) == ([1], [3])
