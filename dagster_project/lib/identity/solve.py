"""Who is one customer: clusters of identifiers under rules.

The clusters are a pure function of the candidate graph, the limits and the forbidden pairs. Person identifiers are united in
a total order of their links, unless a limit or a forbidden pair breaks; the link is then refused and kept. Carriers
(browsers, devices) come afterwards: a group of them joins the one customer it touches; several customers it unites only if
no two of them hold different values of one person type and nothing breaks; otherwise it is shared between them.

Nearly all components cannot break any rule. They are plain connected components, found by arrays; only the others are taken
link by link, each once: limits only count upwards, so that a refused link stays refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dagster_project.lib.identity.components import connected_components

NEVER = np.iinfo(np.int64).max  # a time that is not known; comes last
SHARED = -1  # instead of a cluster: a carrier that is cut into spans
MANY = -1  # instead of a value: several of them
DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Limit:
    """How many values of one identifier type a customer may have, ever or first seen within so many days."""

    kind: int
    most: int
    days: int | None = None


@dataclass(frozen=True)
class Graph:
    """The candidate graph: n identifiers and m links, refused ones too.

    Args:
        kinds: int64 (n), the number of the identifier's type.
        is_person: bool (n); the others are carriers.
        values: int64 (n); identifiers that are eras of one recycled value have the same number.
        first_seen: int64 (n), microseconds since 1970, or NEVER.
        left, right: int64 (m), positions of identifiers.
        rank: int64 (m), less is taken earlier: 0 a decision, then the rules.
        confidence: float64 (m), more is taken earlier within a rank.
        linked_at: int64 (m), microseconds since 1970, or NEVER: less is taken earlier within a confidence.
        apart: pairs of positions that may not become one.
        eras: pairs of positions: two eras that follow each other of one value.
        name: gives names of identifiers by their positions (int64), as many; ties are broken by keyed hashes of them.
        keyed: gives those hashes.
    """

    kinds: np.ndarray
    is_person: np.ndarray
    values: np.ndarray
    first_seen: np.ndarray
    left: np.ndarray
    right: np.ndarray
    rank: np.ndarray
    confidence: np.ndarray
    linked_at: np.ndarray
    name: Callable[[np.ndarray], Sequence[str]]
    keyed: Callable[[Sequence[str]], Sequence[str]]
    apart: Sequence[tuple[int, int]] = ()
    eras: Sequence[tuple[int, int]] = ()

    @property
    def count(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True)
class Refusal:
    """A union that a rule forbade; `left` and `right` are positions of identifiers, one in each of the two clusters.

    `link` is the position of the refused link; None where a group of carriers (its oldest is `through`) or an era would
    have united them.
    """

    left: int
    right: int
    reason: str  # limit, window, decision or conflict
    detail: str
    link: int | None = None
    through: int | None = None


@dataclass
class Solution:
    """`clusters` is int64 (n), numbers without meaning, SHARED for carriers that several customers share."""

    clusters: np.ndarray
    refusals: list[Refusal] = field(default_factory=list)


def solve(graph: Graph, limits: Sequence[Limit], kind_names: Sequence[str]) -> Solution:
    """Solve a candidate graph; `kind_names` are the identifier types by their numbers, for what refusals say."""
    links = [graph.left, graph.right]
    if graph.eras:
        links = [np.concatenate([side, [pair[at] for pair in graph.eras]]) for at, side in enumerate(links)]
    components = connected_components(graph.count, *links)
    at_risk = _at_risk(graph, components, limits)
    clusters = components.astype(np.int64)
    if not at_risk.any():
        return Solution(clusters)
    nodes = np.flatnonzero(at_risk[components])
    careful = _LinkByLink(graph, limits, kind_names, nodes)
    found = careful.solve(np.flatnonzero(at_risk[components[graph.left]]), at_risk[components])
    clusters[nodes] = np.where(found == SHARED, SHARED, found + len(at_risk))
    return Solution(clusters, careful.refusals)


def _at_risk(graph: Graph, components: np.ndarray, limits: Sequence[Limit]) -> np.ndarray:
    """Bool for each component: whether anything can break in it. Where nothing can, it is one customer."""
    count = int(components.max()) + 1 if len(components) else 0
    person_kinds = {int(kind) for kind in np.unique(graph.kinds[graph.is_person])}
    values = {kind: _values(graph, components, kind, count) for kind in person_kinds | {limit.kind for limit in limits}}
    at_risk, several = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for kind in person_kinds:
        several |= values[kind] > 1
    for limit in limits:
        exceeded = values[limit.kind] > limit.most
        if limit.kind in person_kinds:
            at_risk |= exceeded
        else:
            several |= exceeded
    # Carriers and eras come into question only where they would unite what persons alone do not.
    at_risk |= several & _persons_apart(graph, components, count)
    given = (graph.rank == 0) & (graph.is_person[graph.left] != graph.is_person[graph.right])
    at_risk[components[graph.left[given]]] = True  # few, and such carriers count like persons
    for one, other in graph.apart:
        at_risk[components[one]] |= components[one] == components[other]
    return at_risk


def _values(graph: Graph, components: np.ndarray, kind: int, count: int) -> np.ndarray:
    """How many values of a kind each component has."""
    of_kind = np.flatnonzero(graph.kinds == kind)
    if graph.eras:
        of_kind = of_kind[np.unique(graph.values[of_kind] * count + components[of_kind], return_index=True)[1]]
    return np.bincount(components[of_kind], minlength=count)


def _persons_apart(graph: Graph, components: np.ndarray, count: int) -> np.ndarray:
    """Whether the person identifiers of a component are several clusters without carriers and eras."""
    among_persons = graph.is_person[graph.left] & graph.is_person[graph.right]
    persons = connected_components(graph.count, graph.left[among_persons], graph.right[among_persons])
    one_of_each = np.unique(persons[graph.is_person], return_index=True)[1]
    return np.bincount(components[graph.is_person][one_of_each], minlength=count) > 1


class _LinkByLink:
    """The components in which something can break, one link after the other."""

    def __init__(self, graph: Graph, limits: Sequence[Limit], kind_names: Sequence[str], nodes: np.ndarray) -> None:
        self.graph, self.kind_names, self.nodes = graph, kind_names, nodes
        self.limits: dict[int, list[Limit]] = {}
        for limit in limits:
            self.limits.setdefault(limit.kind, []).append(limit)
        self.names = dict(zip(nodes.tolist(), graph.name(nodes), strict=True))
        self.refusals: list[Refusal] = []
        self.parent = {int(node): int(node) for node in nodes}
        # Of each cluster, by its root: times of the values of limited kinds, its person kinds, and what it must be apart from.
        self.held: dict[int, dict[int, dict[int, int]]] = {}
        self.kinds: dict[int, dict[int, int]] = {}
        self.apart: dict[int, set[int]] = {}
        for node in self.parent:
            kind, value = int(graph.kinds[node]), int(graph.values[node])
            self.held[node] = {kind: {value: int(graph.first_seen[node])}} if kind in self.limits else {}
            self.kinds[node] = {kind: value} if graph.is_person[node] else {}
        for one, other in graph.apart:
            if one in self.parent and other in self.parent:
                self.apart.setdefault(one, set()).add(other)
                self.apart.setdefault(other, set()).add(one)

    def solve(self, links: np.ndarray, is_mine: np.ndarray) -> np.ndarray:
        """The cluster of each of `nodes`: the position of one of its identifiers, or SHARED."""
        graph = self.graph
        persons = graph.is_person[graph.left[links]].astype(int) + graph.is_person[graph.right[links]]
        # A decision gives a carrier to a person as if it were one of their identifiers.
        among_persons = (persons == 2) | ((persons == 1) & (graph.rank[links] == 0))
        self._persons(links[among_persons])
        self._eras([pair for pair in graph.eras if is_mine[pair[0]]])
        shared = self._carriers(links[~among_persons])
        return np.array([SHARED if node in shared else self._root(node) for node in self.parent], dtype=np.int64)

    def _persons(self, links: np.ndarray) -> None:
        graph = self.graph
        ends = ((self.names[one], self.names[other]) for one, other in zip(graph.left[links], graph.right[links], strict=True))
        ties = graph.keyed([f"{min(pair)} {max(pair)}" for pair in ends])
        keys = zip(graph.rank[links], -graph.confidence[links], graph.linked_at[links], ties, links, strict=True)
        for *_, link in sorted(keys):
            one, other = self._root(int(graph.left[link])), self._root(int(graph.right[link]))
            if one == other:
                continue
            if broken := self._broken([one, other], only_decisions=graph.rank[link] == 0):
                self.refusals.append(Refusal(int(graph.left[link]), int(graph.right[link]), *broken, link=int(link)))
            else:
                self._unite(one, other)

    def _eras(self, eras: Iterable[tuple[int, int]]) -> None:
        """What was one value with a long silence in it becomes one again, unless its holders differ."""
        eras = list(eras)
        ties = self.graph.keyed([self.names[later] for _, later in eras])
        for _, _, (before, after) in sorted(
            zip([int(self.graph.first_seen[later]) for _, later in eras], ties, eras, strict=True)
        ):
            one, other = self._root(before), self._root(after)
            if one == other:
                continue
            if broken := self._conflict([one, other]) or self._broken([one, other]):
                self.refusals.append(Refusal(before, after, *broken, through=after))
            else:
                self._unite(one, other)

    def _carriers(self, links: np.ndarray) -> set[int]:
        """Join groups of carriers to whom they touch; returns the carriers that are shared."""
        graph = self.graph
        carriers = np.array([node for node in self.parent if not graph.is_person[node]], dtype=np.int64)
        place = np.full(graph.count, -1)
        place[carriers] = np.arange(len(carriers))
        to_persons = graph.is_person[graph.left[links]] | graph.is_person[graph.right[links]]
        among = links[~to_persons]
        group_of = connected_components(len(carriers), place[graph.left[among]], place[graph.right[among]])
        groups: dict[int, list[int]] = {}
        for carrier, group in zip(carriers.tolist(), group_of.tolist(), strict=True):
            groups.setdefault(group, []).append(carrier)
        touched: dict[int, set[int]] = {}
        for link in links[to_persons]:
            left, right = int(graph.left[link]), int(graph.right[link])
            carrier, person = (right, left) if graph.is_person[left] else (left, right)
            touched.setdefault(int(group_of[place[carrier]]), set()).add(person)
        oldest = {self._by_age(members)[0]: group for group, members in groups.items()}
        order = [(node, oldest[node]) for node in self._by_age(list(oldest))]
        shared: set[int] = set()
        for node, group in order:
            given = {member for member in groups[group] if self.kinds[self._root(member)]}  # to somebody, by a decision
            shown: dict[int, int] = {}  # of each customer, the identifier by which the group touches it
            for person in self._by_age(sorted(touched.get(group, set()) | given)):
                shown.setdefault(self._root(person), person)
            roots = list(shown)
            own = list(dict.fromkeys(map(self._root, self._by_age(groups[group]))))
            own = [root for root in own if root not in roots]
            if len(roots) < 2:  # joined whatever the limits; only somebody's decision keeps one of them from it
                base = [*roots, *own][0]
                for other in [*roots, *own][1:]:
                    if broken := self._broken([self._root(base), other], only_decisions=True):
                        self.refusals.append(Refusal(shown.get(base, base), other, *broken, through=node))
                    else:
                        self._unite(self._root(base), other)
            elif broken := self._conflict(roots) or self._broken([*roots, *own]):
                shared.update(set(groups[group]) - given)
                self.refusals += [Refusal(shown[roots[0]], shown[other], *broken, through=node) for other in roots[1:]]
            else:
                for other in [*roots, *own][1:]:
                    self._unite(self._root(roots[0]), other)
        return shared

    def _by_age(self, nodes: list[int]) -> list[int]:
        """Identifiers by when they were first seen; ties by keyed hash."""
        ties = self.graph.keyed([self.names[node] for node in nodes])
        ages = zip((int(self.graph.first_seen[node]) for node in nodes), ties, nodes, strict=True)
        return [node for *_, node in sorted(ages)]

    def _conflict(self, roots: list[int]) -> tuple[str, str] | None:
        """Whether two clusters hold different values of one person type."""
        seen: dict[int, int] = {}
        differing: set[str] = set()
        for root in roots:
            for kind, value in self.kinds[root].items():
                if kind in seen and (value == MANY or seen[kind] != value):
                    differing.add(self.kind_names[kind])
                seen[kind] = value
        return ("conflict", f"each has its own {min(differing)}") if differing else None

    def _broken(self, roots: list[int], only_decisions: bool = False) -> tuple[str, str] | None:
        """What a union would break, and how."""
        among = set(roots)
        if any(self._root(node) in among for root in roots for node in self.apart.get(root, ())):
            return "decision", "somebody decided that they are different"
        if only_decisions:
            return None
        for kind, limits in self.limits.items():
            held = [self.held[root][kind] for root in roots if kind in self.held[root]]
            if len(held) < 2:
                continue
            merged: dict[int, int] = {}
            for values in held:
                for value, time in values.items():
                    merged[value] = min(time, merged.get(value, NEVER))
            for limit in limits:
                # What somebody decided may be over a limit already; it counts only what a union adds to that.
                most = max(limit.most, *(_count(values, limit) for values in held))
                if (found := _count(merged, limit)) > most:
                    within = f" first seen within {limit.days} days" if limit.days else ""
                    detail = f"{found} values of {self.kind_names[kind]}{within}, of at most {limit.most}"
                    return "window" if limit.days else "limit", detail
        return None

    def _unite(self, one: int, other: int) -> None:
        if self._size(one) < self._size(other):
            one, other = other, one
        self.parent[other] = one
        for kind, values in self.held.pop(other).items():
            mine = self.held[one].setdefault(kind, {})
            for value, time in values.items():
                mine[value] = min(time, mine.get(value, NEVER))
        mine = self.kinds[one]
        for kind, value in self.kinds.pop(other).items():
            mine[kind] = value if mine.get(kind, value) == value else MANY
        if other in self.apart:
            self.apart.setdefault(one, set()).update(self.apart.pop(other))

    def _size(self, root: int) -> int:
        return sum(len(values) for values in self.held[root].values()) + len(self.apart.get(root, ()))

    def _root(self, node: int) -> int:
        root = node
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[node] != root:
            self.parent[node], node = root, self.parent[node]
        return root


def _count(times: dict[int, int], limit: Limit) -> int:
    """How many values count against a limit: all, or the most that were first seen within its days."""
    if limit.days is None:
        return len(times)
    ordered, most, first = sorted(times.values()), 0, 0
    for last, time in enumerate(ordered):
        while time - ordered[first] >= limit.days * DAY:
            first += 1
        most = max(most, last - first + 1)
    return most
