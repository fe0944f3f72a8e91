"""Who is probably one person, on Spark: `identity.steps.match` and `widen`, with the pairs, weights and groups of DuckDB.

The statements are those of `lib/identity/`, and Splink's own on its Spark backend, from the same model file. Where DuckDB's
values are the rule (how a profile is put into comparable form, likeness of texts, the hash that samples), the executors have a
DuckDB in memory that looks at Arrow batches, so that not a letter is decided otherwise: Spark's functions of the same names
compare characters where DuckDB's compare bytes. Executors need duckdb, PyArrow, NumPy, SciPy and pypinyin, not this package.

The driver gets counts, and what the model file holds: shares of levels, and values that several people have. Expectation
maximisation goes on in the driver once Spark has counted the patterns of agreement, a few thousand at most: it would be some
hundred statements on Spark.
"""

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import duckdb

from dagster_project.lib.home import Home
from dagster_project.lib.identity import comparable, components, groups, rounds, steps
from dagster_project.lib.identity.backend import Backend
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.spark.staging import spark_columns
from dagster_project.lib.spark.steps import Append, Whole


class Work(Protocol):
    """What a step on Spark works with."""

    session: Any  # SparkSession, of this process or of a Connect server

    def execute(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement; the rows of a query that has few."""

    def make(self, name: str, query: str) -> str:
        """Write what a query gives to a scratch table, instead of one of that name; returns its full name."""

    def register(self, name: str, function: Any, returns: str | None = None) -> None:
        """Let statements call a Python function; a UDF has its own type."""


def match(work: Work, home: Home, query: str, seq: int, as_of: datetime) -> dict[str, Whole | Append]:
    """As `identity.steps.match`; returns the tables of identity that change, without their schema."""
    if not Rules.of(home).matching.enabled:
        none = f"select {', '.join(_COMPARED)} from identity.matches where false"
        return {"matches": Whole(_kept(none, seq)), "_matched": Whole("select seq from identity._matched where false")}
    backend = Spark(work)
    profiles = steps.what_changed(backend, home, query)
    if not profiles.has_any:
        return {}
    if found := steps.compare(backend, home, query, profiles.changed, as_of):
        backend.changes["matches"] = Whole(_kept(f"select * from {work.make('match_found', found)}", seq))
    return {**backend.changes, "_matched": Whole(f"select cast({seq} as bigint) as seq")}


def widen(work: Work, home: Home, query: str, seq: int, as_of: datetime) -> dict[str, Whole | Append]:
    """As `identity.steps.widen`; returns the tables of identity that change, without their schema.

    The pairs of one component are one row of an executor; components of more than `groups.LARGEST` members are no group.
    """
    [(done, others)] = work.execute(steps.MOVED)
    if done >= 0 and not others:
        return {}
    pairs = work.make("widen_pairs", query)
    register_linkage(work)
    found = [
        f"select '{grade}' as grade, customer_id, group_id from ({_grouped(work, pairs, home, grade)}) as grouped"
        for grade in steps.WIDER
    ]
    return {"groups": Whole(" union all ".join(found)), "_widened": Whole(f"select cast({seq} as bigint) as seq")}


def _grouped(work: Work, pairs: str, home: Home, grade: str) -> str:
    """A query (customer_id, group_id) of the groups of a grade."""
    weighed = work.make(f"widen_{grade}", groups.weighed(pairs, Rules.of(home).matching, grade))
    wanted = f"select left_id, right_id from {weighed} where is_wanted"
    label = rounds.components(
        work,
        f"widen_{grade}_label",
        nodes=f"select left_id as id from ({wanted}) as lefts union select right_id from ({wanted}) as rights",
        edges=f"select left_id as one, right_id as other from ({wanted}) as wanted",
    )
    return f"""
        with trusted as (select label from {label} group by label having count(*) <= {groups.LARGEST}),
        inside as (
            select one.label, pairs.left_id, pairs.right_id, cast(pairs.likely as double) as likely
            from {weighed} as pairs
            join {label} as one on one.id = pairs.left_id
            join {label} as other on other.id = pairs.right_id
            semi join trusted on trusted.label = one.label
            where one.label = other.label
        ),
        gathered as (
            select array_agg(named_struct('left_id', left_id, 'right_id', right_id, 'likely', likely)) as pairs
            from inside group by label
        )
        select inline(linked_groups(pairs)) from gathered
    """


def _kept(found: str, seq: int) -> str:
    """The query of all of `identity.matches` once these are the current pairs: only what differs is a revision."""
    same = " and ".join(f"was.{column} <=> found.{column}" for column in _COMPARED)
    columns = ", ".join(
        f"case when found.match_id is not null then found.{column} else was.{column} end as {column}"
        for column in _COMPARED
        if column != "is_current"
    )
    return f"""
        select
            {columns},
            found.match_id is not null as is_current,
            case
                when found.match_id is not null and not ({same}) then was.match_id is not null
                when found.match_id is null and was.is_current then true
                else was._is_revision
            end as _is_revision,
            case
                when found.match_id is not null and not ({same}) then {seq}
                when found.match_id is null and was.is_current then {seq}
                else was._seq
            end as _seq
        from identity.matches as was
        full join ({found}) as found on found.match_id = was.match_id
    """


class Spark(Backend):
    """One run: intermediate results are scratch tables behind temporary views of their names; tables that are kept are scratch
    tables too until they are committed, and `changes` are their queries."""

    profile = "profile_id"
    hash = "xxhash64"
    each = "explode"
    empty = "array()"

    def __init__(self, work: Work) -> None:
        self.work = work
        self.changes: dict[str, Whole | Append] = {}
        self._now: dict[str, str] = {}
        self._views: set[str] = set()
        self._has_likeness = False

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.work.execute(statement)]

    rows = execute

    def make(self, name: str, query: str) -> None:
        self.execute(f"create or replace temporary view {name} as select * from {self.work.make(f'match{name}', query)}")

    def values(self, name: str, columns: Mapping[str, tuple[str, Sequence[Any]]]) -> None:
        import pyarrow as pa

        if not any(len(given) for _, given in columns.values()):  # of which a client of a server would not take the types
            shown = ", ".join(f"cast(null as {kind}) as {column}" for column, (kind, _) in columns.items())
            self.execute(f"create or replace temporary view {name} as select {shown} where false")
            return
        kinds = {"string": pa.string(), "double": pa.float64(), "bigint": pa.int64()}
        table = pa.table({column: pa.array(given, kinds[kind]) for column, (kind, given) in columns.items()})
        self.work.session.createDataFrame(table).createOrReplaceTempView(name)

    def drop(self, *names: str) -> None:
        for name in names:
            self.work.session.catalog.dropTempView(name)

    def number(self, name: str, table: str, by: str) -> None:
        # A row_number() over all rows would bring them to one task; so they are sorted in parts, and each part is counted.
        numbered = self.work.make(
            "match_numbered",
            f"select monotonically_increasing_id() as _place, * from (select * from {table} order by {by}) as ordered",
        )
        self.make(
            name,
            f"""
            with parts as (select shiftright(_place, 33) as part, count(*) as count from {numbered} group by 1),
            starts as (select part, sum(count) over (order by part) - count as start from parts)
            select starts.start + (numbered._place & 8589934591L) + 1 as id, numbered.* except (_place)
            from {numbered} as numbered join starts on starts.part = shiftright(numbered._place, 33)
            """,
        )

    def connect(self, name: str, nodes: str, edges: str) -> None:
        found = self.work.make(f"match{name}_edges", f"select distinct one, other from ({edges}) as edges")
        labels = rounds.components(
            self.work, f"match{name}", nodes=f"select id from {nodes}", edges=f"select one, other from {found}"
        )
        self.make(name, f"select id, label from {labels}")

    def prepare(self, profiles: str, prepared: str, changed: str | None = None) -> None:
        register_comparable(self.work)
        there = {name for name, *_ in self.execute(f"describe query {profiles}")}
        fields = ", ".join(
            f"'{name}', cast({name if name in there else 'null'} as {_SPARK_TYPES.get(kind, kind)})"
            for name, kind in comparable.COLUMNS.items()
            if name != "profile_id"
        )
        of_these = f"semi join ({changed}) as changed using (profile_id)" if changed else ""
        made = ", ".join(f"made.{column}" for column in list(_prepared())[1:])
        query = f"""
            select profile_id, {made}
            from (
                select profile_id, comparable(named_struct({fields})) as made
                from ({profiles}) as profiles {of_these}
            ) as fresh
        """
        if changed:
            others = f"select {', '.join(_prepared())} from {prepared} anti join ({changed}) as changed using (profile_id)"
            query = f"{others} union all {query}"
        self.replace(prepared, query)

    def linker(self, table: str, settings: Mapping[str, Any]) -> Any:
        from splink import Linker

        if not self._has_likeness:
            register_likeness(self.work)
            self._has_likeness = True
        api = _splink_api()(self.work, self._views)
        # What was compared is not carried along with each pair; how it compares is, see there.
        lean = {**settings, "retain_matching_columns": False}
        return Linker(api.register(table), lean, log_level=logging.ERROR, validate_settings=False)

    def tidy(self) -> None:
        self.drop(*self._views)
        self._views.clear()

    def listed(self, columns: Sequence[str], most: str) -> str:
        others = [column for column in columns if column != most]
        sorted_by = ", ".join([f"'{most}', -{most}", *(f"'{column}', {column}" for column in others)])
        fields = ", ".join(f"'{column}', {'-' if column == most else ''}each.{column}" for column in columns)
        return f"transform(sort_array(array_agg(named_struct({sorted_by}))), each -> named_struct({fields}))"

    def heaviest(self, parts: Sequence[tuple[str, str, str]]) -> str:
        structs = ", ".join(
            f"named_struct('weight', {weight}, 'comparison', {name}, 'level', {level})" for weight, name, level in parts
        )
        return f"sort_array(filter(array({structs}), each -> each.level is not null), false)"

    def told(self, parts: str) -> str:
        return f"array_join(transform({parts}, each -> concat(each.comparison, ': ', each.level)), ', ')"

    def is_there(self, table: str) -> bool:
        return True  # all are, from the first run on: `TABLES`

    def kept(self, table: str) -> str:
        return self._now.get(table, table)

    def replace(self, table: str, query: str) -> None:
        name = table.rpartition(".")[2]
        self._now[table] = self.work.make(f"match_now{name}", query)
        self.changes[name] = Whole(f"select * from {self._now[table]}")

    def exchange(self, table: str, query: str, gone: str) -> None:
        columns = ", ".join(name for name, _ in _fields(TABLES["match"][table.rpartition(".")[2]]))
        self.replace(
            table, f"select {columns} from {table} where not ({gone}) union all select {columns} from ({query}) as fresh"
        )


@functools.cache
def _splink_api() -> type:
    """Splink's backend for Spark, as a client of a server can have it."""
    import sqlglot
    from splink import DuckDBAPI, SparkAPI
    from splink.internals.database_api import DatabaseAPI
    from splink.internals.pipeline import CTEPipeline

    class API(SparkAPI):
        """Leaves out what only a JVM in this process can do: the jar of likenesses, checkpoints, Databricks' loader of both."""

        def __init__(self, work: Work, views: set[str]) -> None:
            DatabaseAPI.__init__(self)
            self.work, self.spark, self.views = work, work.session, views
            self.break_lineage_method = None
            self.local = DuckDBAPI()

        def register(self, table: Any, **names: Any) -> Any:
            # Splink registers counts that it has read, to divide them.
            return super().register(table, **names) if isinstance(table, str) else self.local.register(table, **names)

        def sql_pipeline_to_splink_dataframe(self, pipeline: Any) -> Any:
            if any(frame.db_api is self.local for frame in pipeline.input_dataframes):
                return self.local.sql_pipeline_to_splink_dataframe(pipeline)
            names = [part.output_table_name for part in pipeline.queue]
            for part in pipeline.queue:
                if part.output_table_name == "__splink__df_concat_with_tf":
                    # The table has its frequencies; joined again, Spark would not know which are meant.
                    part.sql = "select * from __splink__df_concat"
            if names[-1] == "__splink__df_predict":
                # In one statement Spark would work out weights again for the threshold, in code too long for its compiler.
                gammas = sorted(set(re.findall(r"gamma_\w+", pipeline.queue[-2].sql)))
                pipeline.queue[-1].sql = re.sub("select", f"select {', '.join(gammas)},", pipeline.queue[-1].sql, count=1)
                cut = names.index("__splink__df_comparison_vectors") + 1
                vectors = CTEPipeline(pipeline.input_dataframes)
                vectors.queue, pipeline.queue = pipeline.queue[:cut], pipeline.queue[cut:]
                pipeline.append_input_dataframe(super().sql_pipeline_to_splink_dataframe(vectors))
            made = super().sql_pipeline_to_splink_dataframe(pipeline)
            if names[-1] != "__splink__agreement_pattern_counts":
                return made
            return self.local.register(made.as_pyarrow_table(), table_name=names[-1])

        def _setup_for_execute_sql(self, sql: str, physical_name: str) -> str:
            # Not in Splink's dialect of Spark: a compiled sqlglot cannot be told of it.
            ours = _OF_DUCKDB.sub(lambda found: f"{_HERE[found[1].lower()]}(", sql)
            return sqlglot.transpile(ours, read="spark", write="spark")[0]

        def _cleanup_for_execute_sql(self, table: Any, templated_name: str, physical_name: str) -> Any:
            table.createOrReplaceTempView(physical_name)
            self.views.add(physical_name)
            if templated_name in _READ_OFTEN:
                made = self.work.make(f"match{templated_name}", f"select * from {physical_name}")
                self.spark.sql(f"create or replace temporary view {physical_name} as select * from {made}")
            return self.table_to_splink_dataframe(templated_name, physical_name)

    return API


# What Splink reads more than once; each is read before the next of its name is made.
_READ_OFTEN = {"__splink__df_concat_sample", "__splink__df_comparison_vectors", "__splink__df_predict"}

# Functions whose values are DuckDB's, and what they are called here.
_HERE = {
    "jaro_winkler_similarity": "duckdb_jaro_winkler",
    "damerau_levenshtein": "duckdb_damerau_levenshtein",
    "hamming": "duckdb_hamming",
    "hash": "duckdb_hash",
    "list_has_any": "arrays_overlap",
}
_OF_DUCKDB = re.compile(rf"\b({'|'.join(_HERE)})\(", re.IGNORECASE)


def register_likeness(work: Work) -> None:
    """The functions of `likeness`'s conditions, and Splink's hash: `duckdb_…` in statements."""
    from pyspark.sql.types import DoubleType, LongType

    two = "(one, other)"
    work.register("duckdb_jaro_winkler", _by_duckdb(f"jaro_winkler_similarity{two}", DoubleType()))
    work.register("duckdb_damerau_levenshtein", _by_duckdb(f"damerau_levenshtein{two}", LongType()))
    work.register("duckdb_hamming", _by_duckdb(f"hamming{two}", LongType()))
    # Splink takes it modulo numbers that divide this one, which Spark's signed integers would do otherwise.
    work.register("duckdb_hash", _by_duckdb("(hash(one) % 1000000000)::bigint", LongType(), arguments=1))


def _by_duckdb(expression: str, returns: Any, arguments: int = 2) -> Any:
    """A UDF of Arrow batches that is an expression of DuckDB over `one`, and `other` if it has two arguments."""
    import pyarrow as pa
    from pyspark.sql.functions import arrow_udf

    connections: list[duckdb.DuckDBPyConnection] = []  # one for each task

    def evaluate(columns: dict[str, Any]) -> Any:
        import duckdb

        if not connections:
            connections.append(duckdb.connect(config={"threads": 1}))
        connections[0].register("batch", pa.table(columns))
        return connections[0].execute(f"select {expression} from batch").to_arrow_table().column(0).combine_chunks()

    def of_one(one: pa.Array) -> pa.Array:
        return evaluate({"one": one})

    def of_two(one: pa.Array, other: pa.Array) -> pa.Array:
        return evaluate({"one": one, "other": other})

    return arrow_udf(of_one if arguments == 1 else of_two, returns)


def register_comparable(work: Work) -> None:
    """The function `comparable` (a profile without its id → its comparable form) in statements."""
    import pyarrow as pa
    from pyspark import cloudpickle
    from pyspark.sql.functions import arrow_udf
    from pyspark.sql.types import ArrayType, StringType, StructType

    cloudpickle.register_pickle_by_value(comparable)
    prepare, names = comparable.prepare, list(_prepared())[1:]

    def comparable_form(profiles: pa.Array) -> pa.Array:
        import duckdb

        with duckdb.connect(config={"threads": 1}) as connection:
            columns = dict(zip((field.name for field in profiles.type), profiles.flatten(), strict=True))
            connection.register("batch", pa.table({"profile_id": pa.array(map(str, range(len(profiles)))), **columns}))
            prepare(connection, "batch", "prepared")
            found = connection.execute("select * exclude (profile_id) from prepared order by profile_id::bigint")
            made = found.to_arrow_table().combine_chunks()
        return pa.StructArray.from_arrays([made.column(name).combine_chunks() for name in names], names)

    returns = StructType()
    for name, kind in list(_prepared().items())[1:]:
        returns.add(name, ArrayType(StringType()) if kind == "array<string>" else StringType())
    work.register("comparable", arrow_udf(comparable_form, returns))


def register_linkage(work: Work) -> None:
    """The function `linked_groups` (the pairs of a component → its groups of two or more, by member) in statements."""
    import pyarrow as pa
    from pyspark import cloudpickle
    from pyspark.sql.functions import arrow_udf
    from pyspark.sql.types import ArrayType, StringType, StructType

    for module in (components, groups):
        cloudpickle.register_pickle_by_value(module)
    linked = groups.linked

    def linked_groups(pairs: pa.Array) -> pa.Array:
        import numpy as np

        component = np.repeat(np.arange(len(pairs)), np.asarray(pairs.value_lengths(), dtype=np.int64))
        left, right, likely = pairs.flatten().flatten()
        ends = sorted(set(zip([*component, *component], [*left.to_pylist(), *right.to_pylist()], strict=True)))
        at = {end: number for number, end in enumerate(ends)}
        sides = [
            np.array([at[end] for end in zip(component, side.to_pylist(), strict=True)], dtype=np.int64)
            for side in (left, right)
        ]
        label = linked(
            np.array([number for number, _ in ends], dtype=np.int64), *sides, np.asarray(likely, dtype=float)
        ).tolist()
        first: dict[int, str] = {}  # the least name of each group
        size: dict[int, int] = {}
        for group, (_, name) in zip(label, ends, strict=True):
            first.setdefault(group, name)
            size[group] = size.get(group, 0) + 1
        found: list[list[dict[str, str]]] = [[] for _ in range(len(pairs))]
        for group, (number, name) in zip(label, ends, strict=True):
            if size[group] > 1:
                found[number].append({"customer_id": name, "group_id": first[group]})
        return pa.array(found, pa.list_(pa.struct({"customer_id": pa.string(), "group_id": pa.string()})))

    member = StructType().add("customer_id", StringType()).add("group_id", StringType())
    work.register("linked_groups", arrow_udf(linked_groups, ArrayType(member)))


_SPARK_TYPES = {"varchar": "string", "VARCHAR": "string", "VARCHAR[]": "array<string>"}


@functools.cache
def _prepared() -> dict[str, str]:
    """The columns of profiles in comparable form, with their types in Spark."""
    with duckdb.connect() as connection:
        comparable.prepare(connection, "select null as profile_id where false", "prepared")
        described = connection.execute("describe prepared").fetchall()
        return {name: _SPARK_TYPES.get(kind, "string") for name, kind, *_ in described}


def _declared() -> dict[str, str]:
    """The tables of the state that DuckDB has too, with their columns in Spark's DDL."""
    with duckdb.connect() as connection:
        connection.execute(f"create schema identity; {steps.TABLES}")
        return {
            table: ", ".join(f"{name} {kind}" for name, kind in spark_columns(connection, f"identity.{table}"))
            for table in ("matches", "_matched", "groups", "_widened")
        }


def _fields(ddl: str) -> list[tuple[str, str]]:
    """The columns of a DDL with their types."""
    return [(name, kind) for name, kind in re.findall(r"(\w+) (\w+(?:<.*?>+)?)(?:, |$)", ddl)]


_DECLARED = _declared()
# Of `matches`, what makes a revision.
_COMPARED = [name for name, _ in _fields(_DECLARED["matches"]) if name not in ("_is_revision", "_seq")]
# The tables of the state by step, with their columns in Spark's DDL.
TABLES = {
    "match": {
        "matches": _DECLARED["matches"],
        "_matched": _DECLARED["_matched"],
        "_profiles": ", ".join(f"{name} {kind}" for name, kind in _prepared().items()),
        "_pairs": (
            "left_id string, right_id string, match_weight double, match_probability double, contradiction string, "
            "grade string, evidence array<struct<weight: double, comparison: string, level: string>>, found_by string, "
            "matched_by string"
        ),
        "_pairs_blocking": (
            "rule string, comparisons bigint, common array<struct<value: string, key: bigint, profiles: bigint>>, "
            "left_out array<struct<value: string, profiles: bigint>>, matched_by string"
        ),
    },
    "widen": {"groups": _DECLARED["groups"], "_widened": _DECLARED["_widened"]},
}
