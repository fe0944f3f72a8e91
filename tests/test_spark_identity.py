"""Identity's statements for Spark, on Spark and on DuckDB, against DuckDB's own way: every table of the state is the same."""

import itertools
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from test_identity import GRAPH, KEY, START, TABLES
from test_identity_rules import SHIPPED, VISITS_OF_DAYS, Company, random_decisions, random_records

from dagster_project.lib import portability
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.identity import rounds
from dagster_project.lib.spark import identity
from dagster_project.lib.spark.steps import Append
from dagster_project.lib.state import Decision

pytestmark = pytest.mark.spark
pytest.importorskip("pyspark", reason="the extra spark is not installed: make test-spark")

STATE = tuple(identity.TABLES["assign"])
SOURCES = ("nodes", "edges", "evidence", "sightings")


class OnDuckDB:
    """The statements for Spark on DuckDB: fast, and Spark's own functions are macros."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; set threads = 1")
        self.connection.execute(TABLES)
        self.connection.execute(
            """
            create schema scratch;
            create macro unix_micros(moment) as epoch_us(moment);
            create macro timestamp_micros(micros) as make_timestamp(micros);
            create macro monotonically_increasing_id() as row_number() over () - 1
            """
        )
        for table, columns in identity.TABLES["assign"].items():
            self.connection.execute(f"create table identity.{table} ({columns})")
        self.made = itertools.count()
        self.statements: list[str] = []

    def execute(self, statement: str) -> list[tuple]:
        is_view = statement.startswith("create or replace temporary view")
        self.statements.append(statement.partition(" as ")[2] if is_view else statement)
        return self.connection.execute(statement).fetchall()

    def make(self, name: str, query: str) -> str:
        self.statements.append(query)
        full = f"scratch.{name}_{next(self.made)}"
        self.connection.execute(f"create table {full} as {query}")
        return full

    def register(self, name: str, function: Any, returns: str | None) -> None:
        assert returns is None
        (known,) = self.connection.execute(f"select count(*) from duckdb_functions() where function_name = '{name}'").fetchone()
        if not known:
            # One row at a time: within coalesce() DuckDB breaks what functions of Arrow batches return.
            def of_one(*arguments: Any) -> Any:
                return function.func(*(pa.array([each]) for each in arguments))[0].as_py()

            made = {
                "keyed": (lambda text: of_one(text), ["varchar"], "varchar"),
                "cut": (lambda one, other: of_one(one, other), ["bigint[]"] * 2, "struct(bridges bigint, largest_side bigint)"),
            }
            self.connection.create_function(name, *made[name])

    def take(self, source: duckdb.DuckDBPyConnection) -> None:
        for table in SOURCES:
            self.connection.execute(f"delete from identity.{table}")
            rows = source.execute(f"select * from identity.{table}").fetchall()
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                self.connection.executemany(f"insert into identity.{table} values ({marks})", rows)

    def commit(self, changes: dict) -> None:
        written = {table: self.make(table, change.query) for table, change in changes.items()}
        for table, full in written.items():
            if not isinstance(changes[table], Append):
                self.connection.execute(f"delete from identity.{table}")
            self.connection.execute(f"insert into identity.{table} select * from {full}")

    def state(self, table: str, columns: str) -> list[tuple]:
        return self.execute(f"select {columns} from identity.{table}")


class OnSpark:
    """The smallest engine that will do: scratch tables are Parquet, and state is a view of the latest of them."""

    def __init__(self, session: Any, folder: Path) -> None:
        self.session, self.folder, self.made = session, folder, itertools.count()
        for schema in ("identity", "scratch"):
            session.sql(f"create database if not exists {schema} location '{folder / schema}'")
        for table, columns in identity.TABLES["assign"].items():
            session.sql(f"create table scratch.{table}_first ({columns}) using parquet")
            session.sql(f"create or replace view identity.{table} as select * from scratch.{table}_first")

    def execute(self, statement: str) -> list[Any]:
        return self.session.sql(statement).collect()

    def make(self, name: str, query: str) -> str:
        full = f"scratch.{name}_{next(self.made)}"
        self.session.sql(f"create table {full} using parquet as {query}")
        return full

    def register(self, name: str, function: Any, returns: str | None) -> None:
        self.session.udf.register(name, function, returns)

    def take(self, source: duckdb.DuckDBPyConnection) -> None:
        for table in SOURCES:
            # A moment without a zone would be another type in Spark.
            columns = ", ".join(
                f"{name}::timestamptz as {name}" if kind == "TIMESTAMP" else name
                for name, kind, *_ in source.execute(f"describe identity.{table}").fetchall()
            )
            file = self.folder / f"{table}_{next(self.made)}.parquet"
            source.execute(f"copy (select {columns} from identity.{table}) to '{file}' (format parquet)")
            self.session.sql(f"create or replace view identity.{table} as select * from parquet.`{file}`")

    def commit(self, changes: dict) -> None:
        def contents(table: str) -> str:
            before = f"select * from identity.{table} union all " if isinstance(changes[table], Append) else ""
            return before + changes[table].query

        written = {table: self.make(f"state_{table}", contents(table)) for table in changes}
        for table, full in written.items():
            self.session.sql(f"create or replace view identity.{table} as select * from {full}")

    def state(self, table: str, columns: str) -> list[tuple]:
        return self.execute(f"select {columns} from identity.{table}")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnSpark]:
    if not shutil.which("java"):
        pytest.skip("no Java runtime")
    from pyspark.sql import SparkSession

    folder = tmp_path_factory.mktemp("spark")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of the workers; they look for it when they are started
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.sql.ansi.enabled": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",  # compiling takes longer than so few rows do
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield OnSpark(session, folder)
    session.stop()


def bring_up(work: Any, company: Company) -> identity.Report:
    """Do on another engine what a company has just done."""
    work.take(company.connection)
    changes, report = identity.bring_up_on_spark(
        work,
        graph=GRAPH,
        seq=company.seq,
        as_of=START + timedelta(days=1000 + company.seq),
        key=KEY,
        rules=company.rules,
        decisions=company.decisions,
    )
    work.commit(changes)
    return report


def assert_same(work: Any, company: Company) -> None:
    """Every table of the state is the same, row by row."""
    for table in STATE:
        names = [name.split(" ")[0] for name in identity.TABLES["assign"][table].split(", ")]
        columns = ", ".join(f"cast({name} as string) as {name}" for name in names)
        found = sorted(map(str, (tuple(row) for row in work.state(table, columns))))
        wanted = sorted(map(str, company.rows(f"select {columns} from identity.{table}")))
        assert found == wanted, table


def assert_portable(statements: Sequence[str]) -> None:
    """Each is one that Spark reads, and understands as DuckDB does."""
    for statement in dict.fromkeys(statements):
        assert isinstance(sqlglot.parse_one(statement, read="spark"), sqlglot.exp.Query)
        names = {"keyed", "cut", "limits", "attempts", "gone", "given"}
        assert [what for _, what in portability._scan(statement, "statement", names)] == [], statement


def history(chance: random.Random, company: Company, groups: int, steps: int) -> Iterator[Company]:
    """A company of several groups of people who never meet, step by step: records come and are taken back, decisions are taken
    and given up, and in the end the rules are others. A group's names end in its number."""
    records = []
    for group in range(groups):
        for record in random_records(chance):
            records.append(" ".join(word if word.isdigit() else f"{word}g{group}" for word in record.split()))
    chance.shuffle(records)
    decided = [decision for _ in range(groups) for decision in random_decisions(chance, records)]
    for step in range(steps):
        company.sees(*records[step::steps])
        for decision in decided[step::steps]:
            company.decides(*decision)
        for position in range(len(company.records)):
            if step and chance.random() < 0.1:
                company.takes_back(position)
        if step and company.decisions and chance.random() < 0.5:
            company.decisions.pop(chance.randrange(len(company.decisions)))
        yield company.solve()
    yield company.solve()  # nothing new
    company.rules = SHIPPED if company.rules is VISITS_OF_DAYS else VISITS_OF_DAYS
    yield company.solve()


def decisions_as_values(engine: identity.Spark, decisions: Sequence[Decision]) -> str:
    """The one query that only Spark reads, for DuckDB."""

    def literal(value: Any) -> str:
        return "null" if value is None else f"'{value}'"

    rows = ", ".join("(" + ", ".join(map(literal, astuple(decision))) + ")" for decision in decisions)
    return (
        "select kind, left_node_id, right_node_id, cast(effective_at as timestamp) as effective_at, decided_by, reason, "
        "cast(decided_at as timestamp) as decided_at from (values "
        f"{rows}) as given(kind, left_node_id, right_node_id, effective_at, decided_by, reason, decided_at)"
    )


@pytest.mark.parametrize("seed", range(6))
def test_statements_for_spark_give_the_state_of_duckdb(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity.Spark, "_given", decisions_as_values)
    chance, work = random.Random(seed), OnDuckDB()
    for company in history(chance, Company(VISITS_OF_DAYS if seed % 2 else SHIPPED), groups=6, steps=3):
        report = bring_up(work, company)
        assert_same(work, company)
        assert report.resolution.examined == company.resolution.examined
        assert report.resolution.moved == company.resolution.moved
        assert report.resolution.refused == company.resolution.refused


def test_every_statement_means_the_same_to_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity.Spark, "_given", decisions_as_values)
    work = OnDuckDB()
    for company in history(random.Random(3), Company(VISITS_OF_DAYS), groups=8, steps=2):
        work.statements.clear()
        bring_up(work, company)
        assert_portable(work.statements)


def test_a_chain_of_refusals_is_reached_to_its_end() -> None:
    """Who is touched at one end of a long chain is solved again with all of it."""
    company, work = Company(SHIPPED), OnDuckDB()
    company.sees(*(f"{day} U{day // 2} E{(day + 1) // 2}" for day in range(40))).solve()
    bring_up(work, company)
    company.sees("50 U0 P1").solve()
    assert bring_up(work, company).resolution.examined == company.resolution.examined > 40
    assert_same(work, company)


def test_a_solver_that_comes_to_no_end_says_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    company = Company(SHIPPED).sees(*(f"{day} U{day // 2} E{(day + 1) // 2}" for day in range(40))).solve()
    monkeypatch.setattr(rounds, "MOST_STEPS", 1)
    with pytest.raises(OnefoldError, match=r"component.* after 1 steps .* solve this home on DuckDB"):
        bring_up(OnDuckDB(), company)


def test_what_a_run_shuffled_is_what_was_counted_meanwhile() -> None:
    company, counts = Company(SHIPPED).sees("1 U1 E1").solve(), iter([100, 350])
    work = OnDuckDB()
    work.take(company.connection)
    _, report = identity.bring_up_on_spark(
        work, graph=GRAPH, seq=1, as_of=START, key=KEY, rules=SHIPPED, shuffled=lambda: next(counts)
    )
    assert (report.shuffled, report.resolution.examined, report.statements > 10) == (250, 2, True)


def test_spark_gives_the_state_of_duckdb(spark: OnSpark) -> None:
    company = Company(VISITS_OF_DAYS)
    words = 'it\'s a \\ and a "\\n" of ${a.b} 家'
    company.decisions.append(Decision("different", "user_id:U0g0", "email:E0g0", None, "lin@example.com", words, START))
    for _ in itertools.islice(history(random.Random(7), company, groups=3, steps=2), 2):  # some hundred statements each
        report = bring_up(spark, company)
        assert_same(spark, company)
        assert (report.resolution.examined, report.resolution.moved) == (company.resolution.examined, company.resolution.moved)
