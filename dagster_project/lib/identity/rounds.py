"""Who is one customer, in rounds of SQL that DuckDB and Spark both read: `solve.solve` for graphs larger than one machine.

What may unite is a proposal: a link, two eras of one value, or a group of carriers with the persons that it touches. It is a
set of clusters, with a place in the order of its component. Each round decides every proposal that is the first of all clusters
that it touches: taken one after the other it would find the same clusters, so clusters and refusals are the same. Two kinds
need not be the first, else a value with a thousand neighbours would cost a thousand rounds:

- doomed: it breaks a rule, and no union that may come before it mends that. It changes no cluster, so nothing waits for it.
- certain: a group of carriers that touches one customer at most is joined whatever the limits. Several join in one round.

A component goes through its stages in turn (decisions, other links between persons, eras, carriers): while decisions are left,
which are bound to no limit, no limit dooms anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted
from dagster_project.lib.identity import rounds_sql as sql
from dagster_project.lib.identity.solve import DAY, SHARED, Limit

MOST_ROUNDS = 500  # ten or so are usual; so many mean a value that far too many people share
MOST_STEPS = 100  # of labels, which go twice as far each time: four or five are usual
_AT_ONCE = 30  # rounds whose moves are read by one statement


class Statements(Protocol):
    """What the statements run on."""

    def execute(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a query that has few."""

    def make(self, name: str, query: str) -> str:
        """Keep what a query gives in a new table; returns its full name. No name is given twice in a run."""


@dataclass(frozen=True)
class Inputs:
    """The tables (or subqueries) of a candidate graph, which `solve.Graph` explains; nothing in them is null.

    Args:
        nodes: id (bigint, not negative), kind, is_person, value, first_seen, name.
        links: id, left_id, right_id, rank, confidence, linked_at.
        apart: left_id, right_id; None where there are none.
        eras: before_id, after_id, both of them persons; None where there are none.
        keyed: the SQL function that is `Graph.keyed`, of one text; made in Python, so that its key is in no query log.
    """

    nodes: str
    links: str
    apart: str | None = None
    eras: str | None = None
    keyed: str = "keyed"


@dataclass(frozen=True)
class Solved:
    """The tables of a solution.

    `clusters` has id, and cluster: its least id, or SHARED. `refusals` has left_id, right_id, reason, detail, link_id,
    through_id (a `solve.Refusal`) and is None where nothing was refused; it may be a subquery. `rounds` is 0 where nothing can
    break.
    """

    clusters: str
    refusals: str | None
    rounds: int


def solve(
    run: Statements, inputs: Inputs, limits: Sequence[Limit], kind_names: Sequence[str], most_rounds: int = MOST_ROUNDS
) -> Solved:
    """Solve a candidate graph; limits and kind_names as for `solve.solve`.

    Raises:
        OnefoldError: `most_rounds` were not enough.
    """
    return _Rounds(run, inputs, limits, kind_names).solve(most_rounds)


def components(run: Statements, name: str, nodes: str, edges: str) -> str:
    """Make a table (id, label): for each node the least id that it is connected to.

    Each time a node takes the least label that its own label or a neighbour's label has, so that along a chain labels go twice
    as far each time; they only become less, so it ends.

    Args:
        name: what the names of the tables begin with.
        nodes: SELECT of id, numbers or texts.
        edges: SELECT of one, other.

    Raises:
        OnefoldError: `MOST_STEPS` were not enough.
    """
    ends = sql.ENDS.format(nodes=nodes, edges=edges)
    labels = run.make(f"{name}_0", sql.NEAREST.format(ends=ends))
    for step in range(1, MOST_STEPS + 1):
        labels = run.make(f"{name}_{step}", sql.LEAST.format(ends=ends, labels=labels))
        if not run.execute(f"select count(*) from {labels} where is_moving")[0][0]:
            return labels
    raise OnefoldError(
        f"identity: {name}: after {MOST_STEPS} steps it is still open which identifiers are connected. Look for identifiers "
        "that form one long chain in identity.edges, or solve this home on DuckDB"
    )


class _Rounds:
    """Statements name in braces what is given, and the latest form of what was made."""

    def __init__(self, run: Statements, inputs: Inputs, limits: Sequence[Limit], kind_names: Sequence[str]) -> None:
        self.run, self.inputs = run, inputs
        # Of several limits that break the first is told. One is of no kind, so that there always is one to count.
        kinds = dict.fromkeys(limit.kind for limit in limits)
        self.limits = [Limit(kind=-1, most=0), *(limit for kind in kinds for limit in limits if limit.kind == kind)]
        least = {kind: min(limit.most for limit in limits if limit.kind == kind) for kind in kinds}
        self.made = 0
        self.words = {
            "nodes": inputs.nodes,
            "links": inputs.links,
            "apart": inputs.apart or f"(select left_id, right_id from {inputs.links} where false)",
            "eras": inputs.eras or f"(select left_id as before_id, right_id as after_id from {inputs.links} where false)",
            "keyed": inputs.keyed,
            "shared": str(SHARED),
            "limited": ", ".join(str(limit.kind) for limit in self.limits),
            "most_carriers": "".join(f" when kind = {kind} then {most}" for kind, most in least.items()),
            "kind_name": "case kind" + "".join(f" when {k} then '{quoted(n)}'" for k, n in enumerate(kind_names)) + " end",
        }
        self.moves: list[str] = []  # queries
        self.refusals: list[str] = []

    def solve(self, most_rounds: int) -> Solved:
        self._components("component", "select id from {nodes}", sql.CANDIDATES)
        self._make("identifiers", sql.IDENTIFIERS)
        if not self._count("select count(*) from {identifiers}"):
            return Solved(self._make("clusters", "select id, label as cluster from {component}"), None, 0)
        self._make("ties", sql.TIES)
        self._components("carriers", "select id from {identifiers} where not is_person", sql.AMONG_CARRIERS)
        self._make("touching", sql.TOUCHING)
        self._inline("held", sql.HELD)
        if self.inputs.apart:
            self._make("forbidden", sql.FORBIDDEN)
        else:
            self._inline("forbidden", sql.NOTHING_FORBIDDEN)
        rounds = 0
        while self._count("select count(*) from {touching}"):
            if rounds == most_rounds:
                raise self._undecided(rounds)
            self._round()
            rounds += 1
        self._inline("merged", "select id, id as label from {identifiers}")
        if self.moves:
            # No cluster moves twice, and SHARED is less than any id: moves connect a cluster, or all shared carriers.
            self.words["moves"] = " union all ".join(self.moves)
            self._components("merged", "select id from {identifiers} union all select {shared}", sql.MOVES)
        clusters = self._make("clusters", sql.CLUSTERS)
        return Solved(clusters, f"({' union all '.join(self.refusals)})" if self.refusals else None, rounds)

    def _round(self) -> None:
        self._make("turn", sql.TURN)
        self._inline("holdings", sql.HOLDINGS)
        self._make("counted", self._counted())
        self._inline("broken", sql.BROKEN)
        self._make("outcomes", sql.OUTCOMES)
        self._inline("moved", sql.MOVED)
        self.moves.append(sql.MOVED.format_map(self.words))
        self.refusals.append(sql.REFUSED.format_map(self.words))
        self._make("touching", sql.STILL_TOUCHING)
        self._make("held", sql.STILL_HELD)
        if self.inputs.apart:
            self._make("forbidden", sql.STILL_FORBIDDEN)
        if len(self.moves) == _AT_ONCE:
            self.moves, self.refusals = (
                [f"select * from {self._make(name, ' union all '.join(queries))}"]
                for name, queries in (("all_moved", self.moves), ("all_refused", self.refusals))
            )

    def _components(self, name: str, nodes: str, edges: str) -> None:
        self.made += 1
        queries = nodes.format_map(self.words), edges.format_map(self.words)
        self.words[name] = components(self.run, f"{name}_{self.made}", *queries)

    def _counted(self) -> str:
        """A query of how many values count against each limit: of each cluster, and of those of each proposal together."""
        queries = []
        for days in [None, *sorted({limit.days for limit in self.limits if limit.days})]:
            limits = [(number, limit) for number, limit in enumerate(self.limits) if limit.days == days]
            rows = ", ".join(f"({number}, {limit.kind}, {limit.most})" for number, limit in limits)
            words = {"holdings": self.words["holdings"], "limits": rows}
            queries.append(sql.WITHIN.format(**words, days=days, before=days * DAY - 1) if days else sql.EVER.format(**words))
        return " union all ".join(queries)

    def _undecided(self, rounds: int) -> OnefoldError:
        ((proposals, identifier),) = self.run.execute(sql.MOST_UNDECIDED.format_map(self.words))
        return OnefoldError(
            f"identity: after {rounds} rounds {proposals} unions around identifier {identifier} are undecided. So many rounds "
            "mean a value that far too many people share: block it in identity.yaml, or solve this home on DuckDB"
        )

    def _make(self, name: str, query: str) -> str:
        """Make a table, perhaps from its former self. Returns its full name."""
        self.made += 1
        self.words[name] = self.run.make(f"{name}_{self.made}", query.format_map(self.words))
        return self.words[name]

    def _inline(self, name: str, query: str) -> None:
        """A subquery instead of a table: each statement has its cost, and on small graphs that is all it costs."""
        self.words[name] = f"({query.format_map(self.words)})"

    def _count(self, query: str) -> int:
        return int(self.run.execute(query.format_map(self.words))[0][0])
