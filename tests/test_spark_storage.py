"""What DuckDB writes for Spark and reads of it, in a folder and behind a URL; nothing here needs Spark."""

import shutil
from datetime import date, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest

from dagster_project.lib import compare
from dagster_project.lib.engine import built_on, note_engine, target_of
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.live import Live
from dagster_project.lib.spark import move
from dagster_project.lib.spark.catalogue import Catalogue, Note, Table
from dagster_project.lib.spark.staging import copy_to, spark_columns
from dagster_project.lib.spark.storage import Storage

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
        parts = tuple((stamp, f"staging/things/_seq={stamp}") for stamp in (7, 9))
        table = Table("staging.things", "staging/things", columns, parts)
        for stamp, folder in parts:
            copy_to(connection, catalogue.storage, table, f"where _seq = {stamp}", folder)
        read = connection.execute(f"select * from ({catalogue.in_duckdb(table)}) order by _seq").fetchall()
        assert read == ROWS
        # A build's end shows what Spark made under the tables' names; what was ingested stays DuckDB's.
        catalogue.commit(Note("staging.things", 9, (table,)))
        catalogue.commit(Note("cleaned.things", 9, (Table("cleaned.things", table.folder, columns, parts[1:]),)))
        catalogue.mirror(connection)
        kinds = "select table_schema, table_type from information_schema.tables where table_name = 'things' order by 1"
        assert connection.execute(kinds).fetchall() == [("cleaned", "VIEW"), ("staging", "BASE TABLE")]
        assert connection.execute("from cleaned.things").fetchall() == ROWS[1:]
        # What is not noted is not there, and a table without rows has its columns.
        some = Table(table.name, table.folder, columns, parts[1:])
        assert connection.execute(catalogue.in_duckdb(some)).fetchall() == ROWS[1:]
        none = Table(table.name, table.folder, (*columns[:-1], ("list", "array<string>"), columns[-1]), ())
        assert [each[1] for each in connection.execute(f"describe {catalogue.in_duckdb(none)}").fetchall()][5:] == [
            "TIMESTAMP",
            "DATE",
            "VARCHAR",
            "VARCHAR[]",
            "BIGINT",
        ]
        # Parts from before a column was added lack it.
        added = (*columns[:-1], ("added", "bigint"), columns[-1])
        connection.execute("alter table staging.things add column added bigint default 5")
        copy_to(connection, catalogue.storage, Table(table.name, "", added, parts), "where _seq = 9", "staging/added/_seq=9")
        grown = Table(table.name, table.folder, added, (parts[0], (9, "staging/added/_seq=9")))
        read = connection.execute(f"select added, _seq from ({catalogue.in_duckdb(grown)}) order by _seq").fetchall()
        assert read == [(None, 7), (5, 9)]
        # A table that is no more leaves no view, not even one that never had a row; a view of somebody else's stays.
        catalogue.commit(Note("tags.things", 9, (Table("tags.things", "tables/tags/things/9", columns, ()),)))
        connection.execute("create schema own; create view own.things as select 1 as one")
        catalogue.mirror(connection)
        assert [schema for schema, _ in connection.execute(kinds).fetchall()] == ["cleaned", "own", "staging", "tags"]
        catalogue.forget("cleaned.things")
        catalogue.forget("tags.things")
        catalogue.mirror(connection)
        assert connection.execute(kinds).fetchall() == [("own", "VIEW"), ("staging", "BASE TABLE")]
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
    # What a killed build left goes, what is noted stays.
    built(3)
    catalogue.sweep()
    assert catalogue.storage.folders("tables/*/*/*") == ["tables/unified/customers/2"]
    catalogue.forget("unified.customers")
    assert catalogue.note("unified.customers") is None
    assert catalogue.storage.folders("tables/*/*/*") == []


def test_a_storage_is_one_homes_and_a_home_has_one(home: Home, tmp_path) -> None:
    Storage.of(home).claim()
    for name in ("apart", "elsewhere"):
        (tmp_path / name).mkdir()
    (home.path / "onefold.yaml").write_text(f"spark: {{storage: {tmp_path / 'apart'}}}")
    with pytest.raises(OnefoldError, match=r"are in its folder spark/, and spark\.storage says .*apart: set it back"):
        Storage.of(home).claim()
    Storage.of(home).release()
    Storage.of(home).claim()
    Storage.of(home).claim()
    copy = Home(tmp_path / "copy")
    shutil.copytree(home.path, copy.path)
    with pytest.raises(OnefoldError, match=f"is the storage of the home {home.path.resolve()}, .* give .*copy one of its own"):
        Storage.of(copy).claim()
    # Nor two of one place on different machines, nor one that is not mounted.
    record, mark = home.path / "spark" / "storage", tmp_path / "apart" / "_onefold_home"
    before = record.read_text()
    Storage.of(home).claim()
    now = record.read_text()
    record.write_text(before.replace(before.split("\n")[-1], "another"))
    with pytest.raises(OnefoldError, match="which used it last"):
        Storage.of(home).claim()
    record.write_text(now)
    mark.rename(tmp_path / "mark")
    with pytest.raises(OnefoldError, match=r"is not there, or not what .* has written"):
        Storage.of(home).claim()
    (tmp_path / "mark").rename(mark)
    (home.path / "onefold.yaml").write_text(f"spark: {{storage: {tmp_path / 'elsewhere'}}}")
    with pytest.raises(OnefoldError, match=r"are in .*apart, and spark\.storage says .*elsewhere"):
        Storage.of(home).claim()


def test_a_move_to_duckdb_that_was_killed_is_done_by_the_next(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        SimpleNamespace(schema="tags", alias="history", config={"full_refresh": False}),
        SimpleNamespace(schema="quality", alias="metrics", config={"full_refresh": False}),
        SimpleNamespace(schema="unified", alias="customers", config={}),
    ]
    with home.connect("test") as connection:
        for node in nodes:
            connection.execute(
                f"create schema {node.schema}; "
                f"create table {node.schema}.{node.alias} as select n, n // 2 as _seq from range(4) as numbers(n)"
            )
        rows = connection.execute("from tags.history order by n").fetchall()
        assert move.to_spark(home, connection, nodes, 7) == ["tags.history", "quality.metrics"]
        Catalogue(home).mirror(connection)
        assert connection.execute("from tags.history order by n").fetchall() == rows
        with monkeypatch.context() as patch:  # killed before, and after its tables are there
            patch.setattr(Catalogue, "in_duckdb", lambda self, table: 1 / 0 if table.name == "tags.history" else "select 1")
            with pytest.raises(ZeroDivisionError):
                move.to_duckdb(home, connection, nodes)
        with monkeypatch.context() as patch:
            patch.setattr(move, "note_engine", lambda home, engine: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                move.to_duckdb(home, connection, nodes)
        assert built_on(home) == "spark"
        assert move.to_duckdb(home, connection, nodes) == ["quality.metrics", "tags.history"]
        assert built_on(home) == "duckdb"
        for name in ("tags.history", "quality.metrics"):
            assert connection.execute(f"from {name} order by n").fetchall() == rows
    assert not Catalogue(home).notes()
    assert not list((home.path / "spark").rglob("*.parquet"))


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
    homes = [Home(tmp_path / name).prepare() for name in ("ours", "theirs")]
    with pytest.raises(OnefoldError, match="ours has no warehouse"):
        compare.compare(*homes)
    for home in homes:
        with home.connect("test"):
            pass
    with pytest.raises(OnefoldError, match="different keys"):
        compare.compare(*homes)
