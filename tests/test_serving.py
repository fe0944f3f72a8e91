"""A file that is brought up from the one before holds what one copied whole would."""

import random
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from dagster_project.lib import serving
from dagster_project.lib.serving import PublicTable
from dagster_project.lib.state import Refresh

TABLES = [
    PublicTable("unified.keyed", ("id", "span", "value"), (("id", "token"), ("span", "span")), ("id", "span")),
    PublicTable("unified.added", ("id", "value"), (("id", "token"),), ()),
    PublicTable("unified.whole", ("id", "value"), (("id", "token"),)),
]


@pytest.fixture
def warehouse(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(tmp_path / "warehouse.duckdb"))
    connection.execute(
        "create schema staging; create table staging._sequence as select 0::bigint as value; create schema unified"
    )
    for table in TABLES:
        connection.execute(f"create table {table.name} (id varchar, token varchar, span timestamp, value integer, _seq bigint)")
    return connection


def write(connection, chance: random.Random, table: str, grows: bool) -> None:
    """One write of a table as models do it: replaced rows are stamped anew, some go, some come."""
    seq = connection.execute("update staging._sequence set value = value + 1 returning value").fetchone()[0]
    keys = connection.execute(f"select id, span from {table} order by all").fetchall()
    share = chance.choice([0, 0.02, 0.02, 0.1, 1.0])
    for key in chance.sample(keys, int(len(keys) * share)) if not grows else []:
        connection.execute(f"delete from {table} where id = ? and span is not distinct from ?", key)
        if chance.random() < 0.8:
            values = [*key, chance.randrange(9), seq]
            connection.execute(f"insert into {table} select $1, md5($1), $2, $3, $4", values)
    for _ in range(chance.choice([0, 1, 3, 40])):
        values = [f"{seq}-{chance.random()}", chance.choice([None, "2026-01-01"]), chance.randrange(9), seq]
        connection.execute(f"insert into {table} select $1, md5($1), $2, $3, $4", values)


@pytest.mark.parametrize("seed", range(3))
def test_a_file_brought_up_holds_what_a_whole_copy_holds(warehouse, tmp_path: Path, seed: int) -> None:
    chance, brought_up = random.Random(seed), 0
    for number in range(12):
        for table in TABLES:
            if chance.random() < 0.8:
                write(warehouse, chance, table.name, grows=table.key == ())
        refresh = Refresh(number, datetime(2026, 1, 1, tzinfo=UTC), 0)
        for flavour in ("masked", "private"):
            before, file = (tmp_path / f"{n}-{flavour}.duckdb" for n in (number - 1, number))
            serving._write_file(warehouse, file, before if before.exists() else None, flavour, TABLES, {}, refresh)
            warehouse.execute(f"attach '{file}' as served (read_only)")
            for table in TABLES:
                wanted = warehouse.execute(f"select {table.selected(flavour)} from {table.name} order by all").fetchall()
                found = warehouse.execute(f"from served.{table.name} order by all").fetchall()
                assert found == wanted, (number, flavour, table.name)
                note = warehouse.execute("select comment from duckdb_tables() where database_name = 'served' "
                                         "and table_name = 'keyed'").fetchone()[0]  # fmt: skip
                brought_up += not note.endswith(" 0")
            warehouse.execute("detach served")
    assert brought_up, "every file was copied whole"


def test_a_value_that_is_masked_from_now_on_is_nowhere_in_the_file(warehouse, tmp_path: Path) -> None:
    """Neither in rows that did not change, nor in blocks that a copy of the file before would leave free."""
    refresh = Refresh(1, datetime(2026, 1, 1, tzinfo=UTC), 0)
    warehouse.execute(
        "insert into unified.keyed select concat('li-', i, '@example.com'), md5(i::varchar), null, 7, 1 from range(9) as t(i)"
    )
    warehouse.execute("update staging._sequence set value = 1")
    shown = PublicTable("unified.keyed", ("id",), (("id", "id"),), ("id",))
    serving._write_file(warehouse, tmp_path / "1.duckdb", None, "masked", [shown], {}, refresh)
    assert b"@example.com" in (tmp_path / "1.duckdb").read_bytes()
    masked = PublicTable("unified.keyed", ("id",), (("id", "token"),), ("id",))
    serving._write_file(warehouse, tmp_path / "2.duckdb", tmp_path / "1.duckdb", "masked", [masked], {}, refresh)
    assert b"@example.com" not in (tmp_path / "2.duckdb").read_bytes()
    with duckdb.connect(str(tmp_path / "2.duckdb"), read_only=True) as served:
        assert served.execute("select count(*) from unified.keyed").fetchone() == (9,)


def test_after_a_damaged_file_the_next_is_written_anew(warehouse, tmp_path: Path) -> None:
    refresh = Refresh(1, datetime(2026, 1, 1, tzinfo=UTC), 0)
    warehouse.execute("insert into unified.keyed values ('a', 'b', null, 7, 1)")
    (tmp_path / "1.duckdb").write_bytes(b"not a database" * 1000)
    serving._write_file(warehouse, tmp_path / "2.duckdb", tmp_path / "1.duckdb", "private", TABLES, {}, refresh)
    with duckdb.connect(str(tmp_path / "2.duckdb"), read_only=True) as served:
        assert served.execute("from unified.keyed").fetchall() == [("a", None, 7)]
