"""Matching, wider groups and sentiments on Spark against DuckDB: the same model, pairs, weights, groups and opinions."""

import collections
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest
from spark import session
from test_matching import company

from dagster_project.lib import voice
from dagster_project.lib.home import Home
from dagster_project.lib.identity import groups, match, steps
from dagster_project.lib.identity.comparable import COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
pytest.importorskip("pyspark", reason="the extra spark is not installed: make test-spark")

AS_OF = datetime(2026, 6, 1)
WEIGHTS = {"match_weight", "match_probability"}  # sums of floats
PROFILE = COLUMNS | {
    "identifier_type": "varchar",
    "identifier_value": "varchar",
    "is_current": "boolean",
    "_is_revision": "boolean",
    "_seq": "bigint",
}


@dataclass
class Engines:
    """One step of a home on each engine, write by write."""

    folder: Path
    spark: "SparkSession"
    seq: int = 0
    homes: dict[str, Home] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from dagster_project.lib.spark.catalogue import SCRATCH, Catalogue

        for name in ("duckdb", "spark"):
            self.homes[name] = Home(self.folder / name).prepare()
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; create schema identity; create schema analytics")
        self.catalogue = Catalogue(self.homes["spark"])
        for schema in ("identity", "analytics", SCRATCH):
            self.spark.sql(f"create schema if not exists {schema}")

    def give(self, name: str, kinds: dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
        """Have both engines read a table `given_<name>`."""
        types = {
            "varchar": pa.string(),
            "boolean": pa.bool_(),
            "bigint": pa.int64(),
            "date": pa.date32(),
            "double": pa.float64(),
        }
        table = pa.table({column: pa.array([row.get(column) for row in rows], types[kind]) for column, kind in kinds.items()})
        self.connection.register("arrow", table)
        self.connection.execute(f"create or replace table given_{name} as from arrow")
        if rows:
            self.spark.createDataFrame(table).createOrReplaceTempView(f"given_{name}")
        else:  # a client of a server would not take the types of a table without rows
            nulls = (f"cast(null as {kind.replace('varchar', 'string')}) as {column}" for column, kind in kinds.items())
            self.spark.sql(f"create or replace temporary view given_{name} as select {', '.join(nulls)} where false")

    def run(self, step: str, query: str) -> None:
        from dagster_project.lib.spark.adapter import Build
        from dagster_project.lib.spark.steps import run_step

        self.seq += 1
        node = {"steps.match": "identity.matches", "steps.widen": "identity.groups", "voice.score": "analytics.sentiments"}[
            step
        ]
        function = {"steps.match": steps.match, "steps.widen": steps.widen, "voice.score": voice.score}[step]
        function(self.connection, self.homes["duckdb"], query, self.seq, AS_OF)
        build = Build(self.homes["spark"], self.spark, self.seq, self.catalogue)
        run_step(build, node, f"identity.{step}" if step.startswith("steps") else step, query, AS_OF)

    def assert_same(self, table: str, columns: Sequence[str]) -> list[tuple]:
        """A table is the same, row by row; returns its rows."""
        query = f"select {', '.join(columns)} from {table}"
        wanted = sorted(self.connection.execute(query).fetchall(), key=str)
        found = sorted((tuple(row) for row in self.spark.sql(query).collect()), key=str)
        exact = [number for number, column in enumerate(columns) if column not in WEIGHTS]
        assert [[row[at] for at in exact] for row in found] == [[row[at] for at in exact] for row in wanted]
        for column in WEIGHTS & set(columns):
            at = columns.index(column)
            assert [row[at] for row in found] == pytest.approx([row[at] for row in wanted], rel=1e-9, abs=1e-12), column
        return wanted


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    made = Engines(tmp_path, session())
    yield made
    for schema in ("identity", "analytics"):
        made.spark.sql(f"drop schema {schema} cascade")


def described(rows: Sequence[dict[str, Any]], seq: int) -> list[dict[str, Any]]:
    """Profiles as `identity.profiles` has them."""
    more = {"is_current": True, "_is_revision": seq > 1, "_seq": seq, "identifier_type": "contact_id"}
    return [more | {"identifier_value": str(row["profile_id"])} | row for row in rows]


MATCHES = [
    "match_id",
    "left_record",
    "right_record",
    "left_type",
    "left_value",
    "right_type",
    "right_value",
    "grade",
    "contradiction",
    "evidence",
    "matched_by",
    "is_current",
    "_is_revision",
    "_seq",
    "match_weight",
    "match_probability",
]


def test_records_are_matched_as_on_duckdb_batch_by_batch(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model is learnt on both, and the same pairs are found at first and when profiles come, change and go."""
    monkeypatch.setattr(match, "_CHANCE_PAIRS", 30_000)  # so that both learn from samples
    monkeypatch.setattr(match, "_PASS_PAIRS", 60)
    for home in engines.homes.values():  # blocks so small that values become too common and uncommon again
        (home.path / "identity.yaml").write_text("matching: {largest_block: 8, review: 0.01}\n")
    chance = random.Random(5)
    rows = company(320, seed=3, duplicates=0.2, slips=0.1)
    chance.shuffle(rows)
    now = {row["profile_id"]: row for row in described(rows[:300], 1)}
    engines.give("profiles", PROFILE, list(now.values()))
    engines.run("steps.match", "select * from given_profiles")

    models = [json.loads(steps.model_file(home).read_text()) for home in engines.homes.values()]
    assert models[0] == models[1]
    first = engines.assert_same("identity.matches", MATCHES)
    assert len({row[MATCHES.index("grade")] for row in first}) == 4

    changed = described(rows[300:], 2)
    changed += described([row | {"city": "成都", "email": None} for row in chance.sample(rows[:300], 30)], 2)
    gone = [row | {"is_current": False, "_seq": 2} for row in chance.sample(list(now.values()), 40)]
    now |= {row["profile_id"]: row for row in [*changed, *gone]}
    engines.give("profiles", PROFILE, list(now.values()))
    engines.run("steps.match", "select * from given_profiles")

    later = engines.assert_same("identity.matches", MATCHES)
    revised = {(row[MATCHES.index("is_current")], row[MATCHES.index("_seq")]) for row in later}
    assert revised == {(True, 1), (True, 2), (False, 2)}
    engines.assert_same(
        "identity._profiles", ["profile_id", *match.COMPARISONS[0].columns, "place", "plain_mailbox", "document"]
    )
    engines.assert_same("identity._pairs", ["left_id", "right_id", "grade", "found_by", "match_weight"])
    left_out = {
        rule: [(each["value"], each["profiles"]) for each in values]
        for rule, values in engines.connection.execute("select rule, left_out from identity._pairs_blocking").fetchall()
    }
    found = engines.spark.sql("select rule, left_out from identity._pairs_blocking").collect()
    assert {row.rule: [(each.value, each.profiles) for each in row.left_out] for row in found} == left_out
    assert any(left_out.values())


PAIRS = {
    "left_id": "varchar",
    "right_id": "varchar",
    "match_probability": "double",
    "contradiction": "varchar",
    "grade": "varchar",
}


def test_customers_are_grouped_as_on_duckdb(engines: Engines) -> None:
    """Chains and crowds of likely pairs, of which some are contradicted; and nothing is grouped again while nothing changed."""
    chance = random.Random(8)
    pairs = {}
    for group in range(40):
        members = [f"c{chance.randrange(10**6):06}g{group}" for _ in range(chance.randrange(2, 9))]
        for left, right in itertools.combinations(sorted(set(members)), 2):
            if chance.random() < 0.6:
                likely = round(chance.choice([chance.uniform(0.1, 1), 0.96, 0.5]), 3)
                contradiction = chance.choice([None, None, None, "other birth date"])
                grade = "near_miss" if likely < 0.5 else "advertising" if likely < 0.95 or contradiction else "lifecycle"
                pairs[left, right] = {"match_probability": likely, "contradiction": contradiction, "grade": grade}
    crowd = [f"x{number:04}" for number in range(groups.LARGEST + 1)]  # so many are nobody
    for right in crowd[1:]:
        pairs[crowd[0], right] = {"match_probability": 0.99, "contradiction": None, "grade": "lifecycle"}
    engines.give("pairs", PAIRS, [{"left_id": left, "right_id": right} | pair for (left, right), pair in pairs.items()])
    for execute in (engines.connection.execute, engines.spark.sql):
        execute(
            "create table identity.matches "
            "(left_type string, left_value string, right_type string, right_value string, _seq bigint)"
        )
        execute("create table identity._changes (identifier_type string, identifier_value string, _seq bigint)")
    engines.run("steps.widen", "select * from given_pairs")

    found = engines.assert_same("identity.groups", ["grade", "customer_id", "group_id"])
    assert {grade for grade, *_ in found} == {"lifecycle", "advertising"}
    assert not {customer for _, customer, _ in found} & set(crowd)
    members = collections.Counter((grade, group) for grade, _, group in found)
    assert max(members.values()) > 3

    engines.give("pairs", PAIRS, [])
    engines.run("steps.widen", "select * from given_pairs")
    assert engines.assert_same("identity.groups", ["grade", "customer_id", "group_id"]) == found
    for execute in (engines.connection.execute, engines.spark.sql):
        execute(f"insert into identity.matches values ('email', 'a', 'email', 'b', {engines.seq})")
    engines.run("steps.widen", "select * from given_pairs")
    assert engines.assert_same("identity.groups", ["grade", "customer_id", "group_id"]) == []


TEXTS = {"text": "varchar", "_seq": "bigint", "is_whole": "boolean"}
OPINIONS = ["text_id", "language", "polarity", "sentiment", "scored_by", "_seq"]


def test_texts_are_scored_as_on_duckdb_and_once(engines: Engines) -> None:
    """Texts in two languages, none and emoji; then new ones beside old ones, then all again without some that were said."""

    def given(texts: Sequence[str], seq: int, is_whole: bool) -> list[dict[str, Any]]:
        return [{"text": text, "_seq": seq, "is_whole": is_whole} for text in texts]

    query = "select * from given_texts"
    first = given(
        ["Love it, great", "质量太差了，垃圾", "质量太差了，垃圾", "👍", "12345", "とても良い", "Where is it?"], 1, False
    )
    engines.give("texts", TEXTS, first)
    engines.run("voice.score", query)
    assert len(engines.assert_same("analytics.sentiments", OPINIONS)) == 6

    later = given(["Love it, great", "物流很快，非常满意", "Worst ever, awful"], 2, False)
    engines.give("texts", TEXTS, first + later)
    engines.run("voice.score", query)
    by_write = collections.Counter(row[-1] for row in engines.assert_same("analytics.sentiments", OPINIONS))
    assert by_write == {1: 6, 2: 2}

    engines.give("texts", TEXTS, given(["Love it, great", "Terrible", "物流很快，非常满意"], 3, True))
    engines.run("voice.score", query)
    by_write = collections.Counter(row[-1] for row in engines.assert_same("analytics.sentiments", OPINIONS))
    assert by_write == {1: 1, 2: 1, 3: 1}

    engines.give("texts", TEXTS, given(["Love it, great", "一般"], 4, False))
    engines.run("voice.score", query)
    assert len(engines.assert_same("analytics.sentiments", OPINIONS)) == 4
