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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted
from dagster_project.lib.identity import rounds_sql as sql
from dagster_project.lib.identity.solve import DAY, SHARED, Limit

Execute = Callable[[str], Sequence[tuple]]

MOST_ROUNDS = 500  # ten or so are usual; so many mean a value that far too many people share


@dataclass(frozen=True)
class Inputs:
    """The names of the tables of a candidate graph, which `solve.Graph` explains; nothing in them is null.

    Args:
        nodes: id (bigint, from 0 on), kind, is_person, value, first_seen, name_hash.
        links: id, left_id, right_id, rank, confidence, linked_at, tie_hash. The hashes are what `Graph.keyed` makes of names
            and of pairs of names; they are made in Python, so that their key is in no query log.
        apart: left_id, right_id.
        eras: before_id, after_id, both of them persons.
    """

    nodes: str
    links: str
    apart: str
    eras: str


def solve(
    execute: Execute,
    inputs: Inputs,
    into: str,
    limits: Sequence[Limit],
    kind_names: Sequence[str],
    most_rounds: int = MOST_ROUNDS,
) -> int:
    """Write `<into>_clusters` (id, cluster: its least id, or SHARED) and `<into>_refusals` (left_id, right_id, reason, detail,
    link_id, through_id: a `solve.Refusal`).

    Args:
        execute: runs one statement; returns the rows of a query.
        into: what the names of all tables that are made begin with; the two are left.
        limits, kind_names: as for `solve.solve`.

    Returns:
        How many rounds it took, 0 where nothing can break.

    Raises:
        OnefoldError: `most_rounds` were not enough.
    """
    return _Rounds(execute, inputs, into, limits, kind_names).solve(most_rounds)


class _Rounds:
    """Statements name in braces the tables that are given, and the latest form of those that were made."""

    def __init__(self, execute: Execute, inputs: Inputs, into: str, limits: Sequence[Limit], kind_names: Sequence[str]) -> None:
        self.execute, self.into = execute, into
        # Of several limits that break the first is told. One is of no kind, so that there always is one to count.
        kinds = dict.fromkeys(limit.kind for limit in limits)
        self.limits = [Limit(kind=-1, most=0), *(limit for kind in kinds for limit in limits if limit.kind == kind)]
        least = {kind: min(limit.most for limit in limits if limit.kind == kind) for kind in kinds}
        self.made: dict[str, str] = {}
        self.words = vars(inputs) | {
            "shared": SHARED,
            "limited": ", ".join(str(limit.kind) for limit in self.limits),
            "most_carriers": "".join(f" when kind = {kind} then {most}" for kind, most in least.items()),
            "kind_name": "case kind" + "".join(f" when {k} then '{quoted(n)}'" for k, n in enumerate(kind_names)) + " end",
        }

    def solve(self, most_rounds: int) -> int:
        self._components("component", "select id from {nodes}", sql.CANDIDATES)
        self._make("identifiers", sql.IDENTIFIERS)
        self._make("ties", sql.TIES)
        self._components("carriers", "select id from {identifiers} where not is_person", sql.AMONG_CARRIERS)
        self._make("touching", sql.TOUCHING)
        self._make("held", sql.HELD)
        self._make("forbidden", sql.FORBIDDEN)
        self._make("moves", sql.NO_MOVES)
        self._make("refused", sql.NO_REFUSALS)
        rounds = 0
        while self._count("select count(*) from {touching}"):
            if rounds == most_rounds:
                raise self._undecided(rounds)
            self._round()
            rounds += 1
        # No cluster moves twice, and SHARED is less than any id: moves connect a cluster, or all shared carriers.
        self._components("merged", "select id from {identifiers} union all select {shared}", sql.MOVES)
        for name, query in (("clusters", sql.CLUSTERS), ("refusals", "select * from {refused}")):
            self._run(f"drop table if exists {self.into}_{name}")
            self._run(f"create table {self.into}_{name} as {query}")
        for table in self.made.values():
            self._run(f"drop table {table}")
        return rounds

    def _round(self) -> None:
        self._make("turn", sql.TURN)
        self._make("own", self._counted("held", by="cluster"))
        self._make("united", sql.UNITED)
        self._make("totals", self._counted("united", by="place"))
        self._make("broken", sql.BROKEN)
        self._make("outcomes", sql.OUTCOMES)
        self._make("moved", sql.MOVED)
        self._run("insert into {moves} select cluster, target from {moved}")
        self._run("insert into {refused} " + sql.REFUSED)
        self._make("touching", sql.STILL_TOUCHING)
        self._make("held", sql.STILL_HELD)
        self._make("forbidden", sql.STILL_FORBIDDEN)

    def _components(self, name: str, nodes: str, edges: str) -> None:
        """Make a table (id, label): for each node the least id that it is connected to.

        Each time a node takes the least label that its own label or a neighbour's label has, so that along a chain labels go
        twice as far each time; they only become less, so it ends.
        """
        self._make("edges", f"select one, other from ({edges}) as edges union select other, one from ({edges}) as edges")
        self.words["labels"] = self._make(name, f"select id, id as label from ({nodes}) as nodes")
        is_moving = True
        while is_moving:
            self._make("further", sql.FURTHER)
            self.words["labels"] = self._make(name, sql.LEAST)
            is_moving = self._count(sql.MOVING) > 0

    def _counted(self, source: str, by: str) -> str:
        """A query of how many values count against each limit: all, or the most that were first seen within its days."""
        return " union all ".join(
            sql.COUNTED.format(
                source=self.words[source],
                by=by,
                number=number,
                kind=limit.kind,
                most=limit.most,
                days=limit.days or 0,
                before=limit.days * DAY - 1 if limit.days else "unbounded",
            )
            for number, limit in enumerate(self.limits)
        )

    def _undecided(self, rounds: int) -> OnefoldError:
        ((proposals, identifier),) = self.execute(sql.MOST_UNDECIDED.format_map(self.words))
        return OnefoldError(
            f"identity: after {rounds} rounds {proposals} unions around identifier {identifier} are undecided. So many rounds "
            "mean a value that far too many people share: block it in identity.yaml, or solve this home on DuckDB"
        )

    def _make(self, name: str, query: str) -> str:
        """Make a table, perhaps from its former self: Spark replaces no table that it reads. Returns its full name."""
        former = self.made.get(name, "")
        table = f"{self.into}_{name}_{'b' if former.endswith('_a') else 'a'}"
        self._run(f"drop table if exists {table}")
        self._run(f"create table {table} as {query}")
        if former:
            self._run(f"drop table {former}")
        self.made[name] = self.words[name] = table
        return table

    def _run(self, statement: str) -> None:
        self.execute(statement.format_map(self.words))

    def _count(self, query: str) -> int:
        return int(self.execute(query.format_map(self.words))[0][0])
