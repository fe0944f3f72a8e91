"""The solver against an independent, slow one that is easy to believe, on random graphs under random rules."""

import pytest

from dagster_project.lib.identity.solve import DAY, SHARED, Graph, Limit, solve
from tests.graphs import KINDS, PERSONS, keyed, random_case

EXAMPLES = 400


def believable(graph: Graph, limits: list[Limit]) -> tuple[set[frozenset[int]], set[int], set[tuple]]:
    """Clusters, shared carriers and refused links, worked out from the rules' words with plain sets."""
    cluster_of = {node: frozenset([node]) for node in range(graph.count)}

    def unite(*clusters: frozenset[int]) -> None:
        united = frozenset().union(*clusters)
        for node in united:
            cluster_of[node] = united

    def over(cluster: frozenset[int], limit: Limit) -> int:
        times: dict[int, int] = {}
        for node in cluster:
            if graph.kinds[node] == limit.kind:
                value = graph.values[node]
                times[value] = min(graph.first_seen[node], times.get(value, graph.first_seen[node]))
        if limit.days is None:
            return len(times)
        return max((sum(0 <= t - start < limit.days * DAY for t in times.values()) for start in times.values()), default=0)

    def forbidden(clusters: list[frozenset[int]]) -> bool:
        union = frozenset().union(*clusters)
        return any(a in union and b in union and not any(a in c and b in c for c in clusters) for a, b in graph.apart)

    def too_many(clusters: list[frozenset[int]]) -> bool:
        union = frozenset().union(*clusters)
        return any(
            over(union, limit) > limit.most and over(union, limit) > max(over(c, limit) for c in clusters) for limit in limits
        )

    def differ(clusters: list[frozenset[int]]) -> bool:
        for kind in range(PERSONS):
            held = [{graph.values[node] for node in c if graph.kinds[node] == kind} for c in clusters]
            held = [values for values in held if values]
            if any(one != other or len(one) > 1 for i, one in enumerate(held) for other in held[i + 1 :]):
                return True
        return False

    refused = set()
    names = [f"node {node}" for node in range(graph.count)]
    ends = list(zip(graph.left.tolist(), graph.right.tolist(), strict=True))
    ties = keyed([f"{min(names[a], names[b])} {max(names[a], names[b])}" for a, b in ends])
    order = sorted(range(len(ends)), key=lambda i: (graph.rank[i], -graph.confidence[i], graph.linked_at[i], ties[i]))
    for link in order:
        a, b = ends[link]
        is_decision = graph.rank[link] == 0
        persons = graph.is_person[a] + int(graph.is_person[b])
        if not (persons == 2 or (is_decision and persons)) or cluster_of[a] == cluster_of[b]:
            continue
        clusters = [cluster_of[a], cluster_of[b]]
        if forbidden(clusters) or (not is_decision and too_many(clusters)):
            refused.add((a, b))
        else:
            unite(*clusters)
    for before, after in sorted(graph.eras, key=lambda pair: (graph.first_seen[pair[1]], keyed([names[pair[1]]])[0])):
        clusters = [cluster_of[before], cluster_of[after]]
        if clusters[0] == clusters[1]:
            continue
        if differ(clusters) or forbidden(clusters) or too_many(clusters):
            refused.add((before, after))
        else:
            unite(*clusters)

    carriers = [node for node in range(graph.count) if not graph.is_person[node]]
    group_of = {node: frozenset([node]) for node in carriers}
    for a, b in ends:
        if a in group_of and b in group_of:
            group = group_of[a] | group_of[b]
            for node in group:
                group_of[node] = group

    def age(node: int) -> tuple[int, str]:
        return graph.first_seen[node], keyed([names[node]])[0]

    shared: set[int] = set()
    for group in sorted(set(group_of.values()), key=lambda group: min(map(age, group))):
        touched = {cluster_of[p] for link, (a, b) in enumerate(ends) if graph.rank[link]
                   for c, p in ((a, b), (b, a)) if c in group and graph.is_person[p]}  # fmt: skip
        touched |= {cluster_of[node] for node in group if any(graph.is_person[other] for other in cluster_of[node])}
        customers = list(touched)
        own = list({cluster_of[node] for node in group} - touched)
        if len(customers) < 2:
            own.sort(key=lambda cluster: min(age(node) for node in cluster & group))
            base = min([*customers, *own][0])
            for other in [*customers, *own][1:]:
                if not forbidden([cluster_of[base], other]):
                    unite(cluster_of[base], other)
        elif differ(customers) or forbidden([*customers, *own]) or too_many([*customers, *own]):
            shared |= {node for node in group if not any(graph.is_person[other] for other in cluster_of[node])}
        else:
            unite(*customers, *own)
    return {cluster - shared for cluster in cluster_of.values() if cluster - shared}, shared, refused


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_clusters_refusals_and_shared_carriers_are_those_of_the_believable_solver(seed: int) -> None:
    graph, limits = random_case(seed)
    solution = solve(graph, limits, KINDS)
    clusters, shared, refused = believable(graph, limits)
    found: dict[int, set[int]] = {}
    for node, cluster in enumerate(solution.clusters.tolist()):
        found.setdefault(cluster, set()).add(node)
    assert found.pop(SHARED, set()) == shared
    assert {frozenset(cluster) for cluster in found.values()} == clusters
    links = {(int(graph.left[r.link]), int(graph.right[r.link])) for r in solution.refusals if r.link is not None}
    eras = {(r.left, r.right) for r in solution.refusals if (r.left, r.right) in set(graph.eras) and r.link is None}
    assert links | eras == refused
