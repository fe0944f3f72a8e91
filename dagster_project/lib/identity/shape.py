"""What a customer looks like as a graph: how dense, and whether single links hold large parts together."""

from dataclasses import dataclass

import numpy as np

from dagster_project.lib.identity.components import connected_components


@dataclass(frozen=True)
class Shapes:
    """One entry a cluster, int64.

    `bridges` are links without which the cluster falls apart; `largest_side` is the number of identifiers on the smaller side
    of the one that cuts it most evenly: 1 for an identifier that hangs by one link, many where two people were joined by
    mistake.
    """

    cluster: np.ndarray
    identifiers: np.ndarray
    links: np.ndarray
    bridges: np.ndarray
    largest_side: np.ndarray


def shapes(clusters: np.ndarray, left: np.ndarray, right: np.ndarray) -> Shapes:
    """The shape of each cluster.

    Args:
        clusters: int64 (n), not negative; entries below 0 are identifiers of no one cluster and left out.
        left, right: int64 (m), positions of linked identifiers; links between clusters do not count.

    Method: a link of a spanning tree is a bridge if no other link goes around it. Each other link gets a random number; the sum
    (exclusive or) of those below a node is nonzero, up to one chance in 2^64, exactly if one leaves its subtree.
    """
    from scipy.sparse import coo_array, csgraph

    count = len(clusters)
    ids, cluster_of = np.unique(clusters, return_inverse=True)
    within = (clusters[left] == clusters[right]) & (clusters[left] >= 0) & (left != right)
    # A pair as one number: rows of pairs take several times the memory to sort.
    one, other = left[within].astype(np.int64), right[within].astype(np.int64)
    one, other = np.divmod(np.unique(np.minimum(one, other) * count + np.maximum(one, other)), max(count, 1))
    # A root above all parts makes one tree of them.
    parts = connected_components(count, one, other)
    sizes = np.bincount(parts, minlength=1) if count else np.empty(0, dtype=np.int64)
    heads = np.unique(parts, return_index=True)[1]
    ends = np.concatenate([one, np.full(len(heads), count)]), np.concatenate([other, heads])
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(count + 1, count + 1)).tocsr()
    order, parent = csgraph.breadth_first_order(graph, count, directed=False)
    is_tree = (parent[one] == other) | (parent[other] == one)
    labels = np.zeros(count + 1, dtype=np.uint64)
    around = np.random.default_rng(0).integers(1, 2**64, size=int((~is_tree).sum()), dtype=np.uint64)
    for side in (one, other):
        np.bitwise_xor.at(labels, side[~is_tree], around)
    below = np.ones(count + 1, dtype=np.int64)
    for start, end in reversed(_levels(order, parent)):
        nodes = order[start:end]
        np.bitwise_xor.at(labels, parent[nodes], labels[nodes])
        np.add.at(below, parent[nodes], below[nodes])
    nodes = order[1:]
    nodes = nodes[(parent[nodes] != count) & (labels[nodes] == 0)]
    largest = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(largest, cluster_of[nodes], np.minimum(below[nodes], sizes[parts[nodes]] - below[nodes]))
    real = ids >= 0
    return Shapes(
        ids[real],
        np.bincount(cluster_of, minlength=len(ids))[real],
        np.bincount(cluster_of[one], minlength=len(ids))[real],
        np.bincount(cluster_of[nodes], minlength=len(ids))[real],
        largest[real],
    )


def _levels(order: np.ndarray, parent: np.ndarray) -> list[tuple[int, int]]:
    """Start and end, in breadth-first order, of the nodes at each distance from the root; without the root itself."""
    place = np.empty(len(parent), dtype=np.int64)
    place[order] = np.arange(len(order))
    above = place[parent[order[1:]]]  # grows along the order
    levels, start = [], 1
    while start < len(order):
        end = int(np.searchsorted(above, start)) + 1
        levels.append((start, end))
        start = end
    return levels
