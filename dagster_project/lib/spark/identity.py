"""Who is who on Spark: `identity.steps.assign`, with the same customers, ids, refusals and ledger as on DuckDB.

The statements are those of `lib/identity/`; no row comes to the driver but counts, kinds of identifiers and the version of the
rules. The graph is solved in rounds of SQL (`identity.rounds`), connected components by labels. Bridges of customers are found
by the same arrays as on DuckDB, customer by customer on the executors: the links of one customer are one row there, so that a
customer of a hundred million links would be too many for an executor.
"""

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import duckdb

from dagster_project.lib import keyed as keyed_hashes
from dagster_project.lib.home import Home
from dagster_project.lib.identity import components, ledger, rounds, shape
from dagster_project.lib.identity.engine import DIFFERENT, FOLLOWERS, Clustered, Engine
from dagster_project.lib.identity.resolve import Resolution, bring_up
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.solve import NEVER, SHARED, Limit
from dagster_project.lib.spark.catalogue import STAMP
from dagster_project.lib.spark.steps import Append, Whole
from dagster_project.lib.state import Decision, State

log = logging.getLogger("onefold")

_SPARK_TYPES = {"VARCHAR": "string", "TIMESTAMP": "timestamp", "BIGINT": "bigint", "BOOLEAN": "boolean", "DOUBLE": "double"}
_DECISIONS = (
    "array<struct<kind:string, left_node_id:string, right_node_id:string, effective_at:bigint, decided_by:string, "
    "reason:string, decided_at:bigint>>"
)


class Work(Protocol):
    """What a step on Spark works with."""

    def execute(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement; the rows of a query that has few."""

    def make(self, name: str, query: str) -> str:
        """Write what a query gives to a new scratch table, once; returns its full name."""

    def shuffled(self) -> int | None:
        """How many bytes this session has shuffled so far; None where nobody can tell."""

    def register(self, name: str, function: Any, type: str | None) -> None:
        """Let statements call a Python function: one of a type in Spark's DDL, or a UDF that has its own."""


@dataclass(frozen=True)
class Report:
    """What a run on Spark came to and cost; `shuffled` bytes are None where nobody can tell."""

    resolution: Resolution
    statements: int
    shuffled: int | None


def assign(work: Work, home: Home, query: str, seq: int, as_of: datetime) -> dict[str, Whole | Append]:
    """Who is who: what brings the state of identity up to the candidate graph that a query gives.

    The state is read from `identity.<table>`, which must be there (`TABLES`). The queries that are returned read it too, and
    temporary views: all are to be written before the first table takes its new form, and in this session.

    Returns:
        The tables of the state that change, without their schema.

    Raises:
        OnefoldError: the solver came to no end within its bounds.
    """
    changes, report = bring_up_on_spark(
        work,
        graph=query,
        seq=seq,
        as_of=as_of,
        key=home.key,
        rules=Rules.of(home),
        decisions=State(home).decisions(),
        shuffled=work.shuffled,
    )
    log.info(
        "identity: %d identifiers solved in %d rounds, %d moved, %d refusals stand; %d statements%s",
        report.resolution.examined,
        report.resolution.rounds,
        report.resolution.moved,
        report.resolution.refused,
        report.statements,
        "" if report.shuffled is None else f", {report.shuffled:,} bytes shuffled",
    )
    return changes


def bring_up_on_spark(
    work: Work,
    *,
    graph: str,
    seq: int,
    as_of: datetime,
    key: bytes,
    rules: Rules,
    decisions: Sequence[Decision] = (),
    shuffled: Callable[[], int | None] | None = None,
) -> tuple[dict[str, Whole | Append], Report]:
    """As `identity.resolve.resolve`, but for the writing: what is to be written, and what it cost to find out."""
    before = shuffled() if shuffled else None
    engine = Spark(work)
    register_functions(work, key)
    resolution = bring_up(engine, graph=graph, seq=seq, as_of=as_of, rules=rules, decisions=decisions)
    after = shuffled() if shuffled else None
    cost = None if before is None or after is None else after - before
    return engine.changes, Report(resolution, engine.statements, cost)


def register_functions(work: Work, key: bytes) -> None:
    """The functions `keyed` (text → text) and `cut` (the links of a customer → bridges and largest side) in statements.

    They travel with what they use of this package; executors need PyArrow, NumPy and SciPy and not the package.
    """
    import pyarrow as pa
    from pyspark import cloudpickle
    from pyspark.sql.functions import arrow_udf
    from pyspark.sql.types import LongType, StringType, StructType

    for module in (keyed_hashes, components, shape):
        cloudpickle.register_pickle_by_value(module)
    hasher, shapes = keyed_hashes.hasher, shape.shapes

    def keyed(texts: pa.Array) -> pa.Array:
        hashed = hasher(key)
        return pa.array([None if text is None else hashed(text) for text in texts.to_pylist()], pa.string())

    def cut(ones: pa.Array, others: pa.Array) -> pa.Array:
        import numpy as np

        customer = np.repeat(np.arange(len(ones)), np.asarray(ones.value_lengths().fill_null(0), dtype=np.int64))
        ends = [np.asarray(side.flatten(), dtype=np.int64) for side in (ones, others)]
        places, at = np.unique(np.concatenate(ends), return_inverse=True)
        left, right = at[: len(customer)], at[len(customer) :]
        of = np.empty(len(places), dtype=np.int64)
        of[left] = of[right] = customer
        found = shapes(of, left, right)
        bridges, largest = np.zeros(len(ones), dtype=np.int64), np.zeros(len(ones), dtype=np.int64)
        bridges[found.cluster], largest[found.cluster] = found.bridges, found.largest_side
        return pa.StructArray.from_arrays([pa.array(bridges), pa.array(largest)], ["bridges", "largest_side"])

    # Types and not DDL, which only a JVM in this process could read.
    sides = StructType().add("bridges", LongType()).add("largest_side", LongType())
    work.register("keyed", arrow_udf(keyed, StringType()), None)
    work.register("cut", arrow_udf(cut, sides), None)


class Spark(Engine):
    """One run: intermediate results are scratch tables behind temporary views of their names, and changes of the state are
    gathered. Also what `rounds` runs on."""

    age = (
        f"(not places.is_first, coalesce(unix_micros(coalesce(places.begins, places.first_seen_at)), {NEVER}), places.node_id)"
    )

    def __init__(self, work: Work) -> None:
        self.work = work
        self.changes: dict[str, Whole | Append] = {}
        self.statements = 0
        self._decision_kinds: set[str] = set()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        self.statements += 1
        return [tuple(row) for row in self.work.execute(statement)]

    rows = execute

    def _table(self, name: str, query: str) -> str:
        self.statements += 1
        return self.work.make(f"identity_{name}", query)

    def make(self, name: str, query: str) -> None:
        self.view(name, f"select * from {self._table(name, query)}")

    def view(self, name: str, query: str) -> None:
        self.execute(f"create or replace temporary view {name} as {query}")

    def decisions(self, decisions: Sequence[Decision]) -> None:
        self._decision_kinds = {decision.kind for decision in decisions}
        self.view("given", self._given(decisions) if decisions else "select * from identity._decisions where false")

    def _given(self, decisions: Sequence[Decision]) -> str:
        """A query of the decisions. Their words are nobody's SQL: as digits they say the same in every mode of the parser."""
        names = list(_columns()["_decisions"])
        values = [[_micros(each) if isinstance(each, datetime) else each for each in astuple(d)] for d in decisions]
        document = json.dumps([dict(zip(names, each, strict=True)) for each in values]).encode().hex()
        shown = ", ".join(f"timestamp_micros({name}) as {name}" if name.endswith("_at") else name for name in names)
        return f"select {shown} from (select inline(from_json(cast(unhex('{document}') as string), '{_DECISIONS}')))"

    def number(self, order: str) -> str:
        # Any order does, and a row_number() without groups would bring all rows to one task.
        return "monotonically_increasing_id()"

    def micros(self, moment: str) -> str:
        return f"unix_micros({moment})"

    def reach(self, name: str, start: str, pairs: str) -> None:
        if not self.count(f"select count(*) from {pairs} as pairs where one in ({start})"):
            self.view(name, start)
            return
        labels = rounds.components(_Named(self), name, f"select one as id from {pairs}", f"select one, other from {pairs}")
        self.view(
            name,
            f"""
            {start}
            union all
            select id from {labels} where label in (select label from {labels} where id in ({start}))
            """,
        )

    def cluster(self, rules: Rules, has_eras: bool) -> Clustered:
        kinds = sorted(name for (name,) in self.rows("select distinct identifier_type from places"))
        limits = [
            Limit(number, limit.most, limit.days) for number, kind in enumerate(kinds) for limit in rules.of_type(kind).limits
        ]
        solved = rounds.solve(_Named(self), self._graph(kinds, has_eras), limits, kinds)
        self.view("clusters", f"select id as place, cluster from {solved.clusters}")
        self._shape(has_eras)
        if not solved.rounds:
            self.view("shared", "select place, cluster as company from clusters where false")
            return Clustered(0, 0, 0)
        self.make(
            "found",
            f"""
            select
                left_id as left_place, right_id as right_place, reason, detail, link_id as link, through_id as through_place
            from {solved.refusals} as refusals
            join clusters as a on a.place = refusals.left_id
            join clusters as b on b.place = refusals.right_id
            where a.cluster <> b.cluster  -- else another way has united them since
            """,
        )
        of_shared = f"select count(*) from clusters where cluster = {SHARED}"
        [(shared, found)] = self.rows(f"select ({of_shared}), (select count(*) from found)")
        self._share(shared)
        return Clustered(shared, found, solved.rounds)

    def _graph(self, kinds: Sequence[str], has_eras: bool) -> rounds.Inputs:
        kind = "case identifier_type" + "".join(f" when '{name}' then {number}" for number, name in enumerate(kinds)) + " end"
        nodes = f"""(
            select
                place as id, {kind} as kind, is_person, node as value,
                coalesce({self.micros("coalesce(begins, first_seen_at)")}, {NEVER}) as first_seen, name
            from places
        )"""
        links = "(select link as id, left_place as left_id, right_place as right_id, rank, confidence, linked_at from links)"
        apart = [f"select left_place as left_id, right_place as right_id from ({DIFFERENT}) as different"]
        eras = None
        if has_eras:
            self.make("followers", FOLLOWERS)
            # What somebody says was handed on stays apart; a silence alone proves nothing.
            apart.append("select before_place, later_place from followers where is_stated")
            eras = "(select before_place as before_id, later_place as after_id from followers where not is_stated)"
        has_apart = self._decision_kinds & {"different", "handed_over"}
        return rounds.Inputs(nodes, links, f"({' union all '.join(apart)})" if has_apart else None, eras)

    def _shape(self, has_eras: bool) -> None:
        of_eras = "union all select before_place, later_place from followers where not is_stated" if has_eras else ""
        self.view(
            "shaped",
            f"""
            with joined as (
                select distinct
                    one.cluster, least(ends.left_place, ends.right_place) as one,
                    greatest(ends.left_place, ends.right_place) as other
                from (select left_place, right_place from links {of_eras}) as ends
                join clusters as one on one.place = ends.left_place
                join clusters as other on other.place = ends.right_place
                where one.cluster = other.cluster and one.cluster <> {SHARED} and ends.left_place <> ends.right_place
            ),

            gathered as (
                select cluster, count(*) as links, array_agg(one) as ones, array_agg(other) as others
                from joined group by cluster
            ),

            cuts as (select cluster, links, cut(ones, others) as cut from gathered),

            sizes as (select cluster, count(*) as identifiers from clusters where cluster <> {SHARED} group by cluster)

            select
                sizes.cluster, sizes.identifiers, coalesce(cuts.links, 0) as links, coalesce(cuts.cut.bridges, 0) as bridges,
                coalesce(cuts.cut.largest_side, 0) as largest_side
            from sizes left join cuts on cuts.cluster = sizes.cluster
            """,
        )

    def _share(self, shared: int) -> None:
        """Make `shared`: carriers of several customers, with a number for those that are linked to each other."""
        nodes = f"select place as id from clusters where cluster = {SHARED}"
        if shared:
            edges = f"""
                select links.left_place as one, links.right_place as other
                from links
                join ({nodes}) as a on a.id = links.left_place
                join ({nodes}) as b on b.id = links.right_place
            """
            nodes = f"select id, label from {rounds.components(_Named(self), 'companies', nodes, edges)}"
        else:
            nodes = f"select id, id as label from ({nodes}) as nodes"
        self.view("shared", f"select id as place, label as company from ({nodes}) as companies")

    def append(self, table: str, rows: str, order: str = "") -> None:
        added = self._typed(table, rows)
        columns = list(_columns()[table])
        if columns[-1] == STAMP:
            self.changes[table] = Append(added)
        else:
            self.changes[table] = Whole(f"select {', '.join(columns)} from identity.{table} union all {added}")

    def replace(self, table: str, rows: str) -> None:
        self.changes[table] = Whole(self._typed(table, rows))

    def exchange(self, table: str, rows: str, gone: Mapping[str, str]) -> None:
        stays = " and ".join(
            f"not exists (select 1 from ({query}) as gone(value) where gone.value = kept.{column})"
            for column, query in gone.items()
        )
        columns = ", ".join(_columns()[table])
        kept = f"select {columns} from identity.{table} as kept where {stays}"
        self.changes[table] = Whole(f"{kept} union all {self._typed(table, rows)}")

    def standing(self, table: str) -> int:
        change = self.changes.get(table)
        now = f"select count(*) from ({change.query}) as changed" if change else f"select count(*) from identity.{table}"
        return self.count(now)

    @staticmethod
    def _typed(table: str, rows: str) -> str:
        columns = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in _columns()[table].items())
        return f"select {columns} from ({rows}) as fresh"


class _Named:
    """An engine as `rounds` knows it."""

    def __init__(self, engine: Spark) -> None:
        self.execute, self.make = engine.execute, engine._table


def _micros(moment: datetime) -> int:
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(microseconds=1)


@functools.cache
def _columns() -> dict[str, dict[str, str]]:
    """The columns of each table of the state, with their types in Spark."""
    found: dict[str, dict[str, str]] = {}
    with duckdb.connect() as connection:
        connection.execute("create schema identity;" + ledger.TABLES)
        for table, column, kind in connection.execute(
            "select table_name, column_name, data_type from duckdb_columns() where schema_name = 'identity' "
            "order by table_name, column_index"
        ).fetchall():
            found.setdefault(table, {})[column] = _SPARK_TYPES[kind]
    return found


# The tables of the state by step, with their columns in Spark's DDL.
TABLES = {"assign": {table: ", ".join(f"{name} {kind}" for name, kind in found.items()) for table, found in _columns().items()}}
