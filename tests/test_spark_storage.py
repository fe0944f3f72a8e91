"""What DuckDB writes for Spark and reads of it, in a folder and behind a URL; nothing here needs Spark."""

from datetime import date, datetime
from decimal import Decimal

import pytest

from dagster_project.lib import compare
from dagster_project.lib.engine import built_on, note_engine, target_of
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.live import Live
from dagster_project.lib.spark.catalogue import Catalogue, Note, Table
from dagster_project.lib.spark.staging import copy_to, spark_columns

MOMENT = datetime(2026, 10, 31, 23, 59, 59, 999999)
ROWS = [
    ("Zoë's 'quoted' \\ text", 2**53 + 1, Decimal("12345.6789"), 0.1, True, MOMENT, date(2026, 2, 28), '{"a": [1]}', 7),
    (None, None, None, None, None, None, None, None, 9),
]
TYPES = """
name varchar, n bigint, money decimal(18, 4), x double, yes boolean, said_at timestamp, day date, extra json, _seq bigint
"""


@pytest.mark.parametrize(
    "storage", ["", "spark: {storage: 'memory://company/onefold', storage_in_spark: 's3a://company/onefold'}"]
)
def test_what_is_written_for_spark_reads_as_it_was(home: Home, storage: str) -> None:
    (home.path / "onefold.yaml").write_text(storage)
    catalogue = Catalogue(home)
    with home.connect("test") as connection:
        catalogue.storage.register(connection)
        connection.execute(f"create schema staging; create table staging.things ({TYPES})")
        connection.executemany(f"insert into staging.things values ({', '.join('?' * 9)})", ROWS)
        columns = spark_columns(connection, "staging.things")
        assert columns == (
            ("name", "string"),
            ("n", "bigint"),
            ("money", "decimal(18,4)"),
            ("x", "double"),
            ("yes", "boolean"),
            ("said_at", "timestamp"),
            ("day", "date"),
            ("extra", "string"),
            ("_seq", "bigint"),
        )
        table = Table("staging.things", "staging/things", columns, (7, 9))
        for stamp in table.partitions:
            copy_to(connection, catalogue.storage, table, f"where _seq = {stamp}", f"{table.folder}/_seq={stamp}")
        read = connection.execute(f"select * from ({catalogue.in_duckdb(table)}) order by _seq").fetchall()
        assert read == ROWS
        # A build's end shows what Spark made under the tables' names; what was ingested stays DuckDB's.
        catalogue.commit(Note("staging.things", 9, (table,)))
        catalogue.commit(Note("cleaned.things", 9, (Table("cleaned.things", table.folder, columns, (9,)),)))
        catalogue.mirror(connection)
        kinds = "select table_schema, table_type from information_schema.tables where table_name = 'things' order by 1"
        assert connection.execute(kinds).fetchall() == [("cleaned", "VIEW"), ("staging", "BASE TABLE")]
        assert connection.execute("from cleaned.things").fetchall() == ROWS[1:]
        # What is not noted is not there, and a table without rows has its columns.
        some = Table(table.name, table.folder, columns, (9,))
        assert connection.execute(catalogue.in_duckdb(some)).fetchall() == ROWS[1:]
        none = Table(table.name, table.folder, (*columns[:-1], ("list", "array<string>"), columns[-1]), ())
        assert [each[1] for each in connection.execute(f"describe {catalogue.in_duckdb(none)}").fetchall()][5:] == [
            "TIMESTAMP",
            "DATE",
            "VARCHAR",
            "VARCHAR[]",
            "BIGINT",
        ]
    catalogue.storage.remove("staging")
    assert catalogue.storage.parts("staging/things/_seq=7") == []


def test_a_note_counts_at_once_and_takes_the_folder_before_away(home: Home) -> None:
    catalogue = Catalogue(home)

    def built(seq: int) -> Note:
        folder = f"tables/unified/customers/{seq}"
        catalogue.storage.files.makedirs(catalogue.storage.path(folder), exist_ok=True)
        return Note("unified.customers", seq, (Table("unified.customers", folder, (("customer_id", "string"),), None),))

    first, second = built(1), built(2)
    catalogue.commit(first)
    catalogue.commit(second)
    assert catalogue.notes() == [second]
    assert not catalogue.storage.files.exists(catalogue.storage.path("tables/unified/customers/1"))
    catalogue.open("unified.customers")
    assert catalogue.note("unified.customers") is None


def test_a_home_stays_on_its_engine_unless_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (built_on(home), target_of(home)) == ("duckdb", "duckdb")
    note_engine(home, "spark")
    assert (built_on(home), target_of(home)) == ("spark", "spark")
    with pytest.raises(OnefoldError, match="the continuous mode builds on DuckDB"):
        Live(home, lambda done: None)
    (home.path / "onefold.yaml").write_text("target: duckdb")
    assert target_of(home) == "duckdb"
    monkeypatch.setenv("ONEFOLD_TARGET", "spark")
    assert target_of(home) == "spark"
    assert target_of(home, "duckdb") == "duckdb"
    monkeypatch.setenv("ONEFOLD_TARGET", "sparc")
    with pytest.raises(OnefoldError, match="'sparc' is no engine: duckdb or spark is"):
        target_of(home)


def test_a_difference_names_table_key_column_and_both_values(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [Home(tmp_path / name).prepare() for name in ("ours", "theirs")]
    for home, spend, total, also in zip(homes, ("10.50", "10.51"), ("0.3", "0.30000000000000004"), ("c2", "c3"), strict=True):
        with home.connect("test") as connection:
            connection.execute(
                f"""
                create schema unified;
                create table unified.customers as
                select * from (values ('c1', cast({spend} as decimal(18, 4)), cast({total} as double), {len(also)}),
                    ('{also}', 1, 2, 3)) as t(customer_id, spend, total, _seq)
                """
            )
    same = compare.compare(homes[0], homes[0])
    assert (same.tables, same.rows, same.differing, same.differences) == (1, 2, 0, [])
    found = compare.compare(*homes)
    assert list(compare.told(found)) == [
        "unified.customers: the row customer_id=c2 is only here",
        "unified.customers: the row customer_id=c3 is only there",
        "unified.customers: spend of customer_id=c1 is Decimal('10.5000') here, Decimal('10.5100') there",
        "3 differences in 1 tables with 2 rows",
    ]
    with homes[1].connect("test") as connection:
        connection.execute("create table unified.more as select 1 as n")
    assert [str(each) for each in compare.compare(*homes, ["unified.more"]).differences] == [
        "unified.more: there is no such table here, there is one there"
    ]


def test_homes_with_keys_of_their_own_are_not_compared(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEFOLD_KEY")
    with pytest.raises(OnefoldError, match="different keys"):
        compare.compare(*(Home(tmp_path / name).prepare() for name in ("ours", "theirs")))
