"""Files that were accepted under a wrong mapping, read again: every table is then as if the mapping had always been right."""

import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from rows import land_rows

from dagster_project.cli import main
from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home
from dagster_project.lib.ingest import EntityLoad, ingest_channel
from dagster_project.lib.reingest import Again, reingest
from dagster_project.lib.rejected import replay
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

MODELS = ("--exclude-resource-type", "unit_test", "test")
# The shop's phone is that of its hotline on every order: mapped as the customer's, it makes one customer of all.
WRONG = """
channel: orders
entities:
  orders:
    - {name: shop, location: 'shop/*.csv', rename: {phone: hotline}, constant: {status: paid, currency: CNY}}
"""
# Several commands in one process: its start costs more than what they do here.
RUN = """
import sys
from dagster_project.cli import main
for command in sys.argv[1:]:
    main(command.split(), standalone_mode=False)
"""
RIGHT = WRONG.replace("hotline", "mobile")


def _orders(first: int, last: int, **fields: object) -> list[dict]:
    return [
        {
            "order_id": f"o{n}",
            "ordered_at": f"2025-03-{n:02d}T00:00:00Z",
            "amount": n,
            "email": f"p{n}@example.com",
            "hotline": "+8613800138000",
            "mobile": f"+86138001390{n:02d}",
            **fields,
        }
        for n in range(first, last + 1)
    ]


def _map(home: Home, text: str) -> None:
    (home.sources / "shop.yaml").write_text(text)


def _ingest(home: Home) -> None:
    for channel in load_channels(home).values():
        ingest_channel(home, channel, Settings.of(home))


def _again(home: Home, **given: object) -> list[EntityLoad]:
    return reingest(home, load_channels(home)["orders"], Settings.of(home), Again(**given))


def _build(home: Home) -> None:
    result = dbt.run(home, ["build", *MODELS], as_of=datetime(2026, 1, 1))
    assert result.success, dbt.failures(result)


def _rows(home: Home, query: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(query).fetchall()


def _staged(home: Home) -> list[tuple]:
    return _rows(home, "select * exclude (_seq, _loaded_at) from staging.orders_orders order by all")


def _commands(*commands: str) -> str:
    """What commands that succeed tell on the error stream, in a process of their own, as mappings are read when it starts."""
    done = subprocess.run([sys.executable, "-c", RUN, *commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stderr.split())


@pytest.fixture
def right(tmp_path: Path) -> Home:
    """A home that had the right mapping from the start."""
    home = Home(tmp_path / "right").prepare()
    _map(home, RIGHT)
    return home


def _every_table(home: Home) -> dict[str, list[tuple]]:
    """Every table that dbt built; without the number of the write, ids and what is keyed or hashed from them."""
    found = {}
    tables = _rows(
        home,
        "select table_schema || '.' || table_name from information_schema.tables "
        "where table_schema in ('cleaned', 'unified', 'tags', 'audiences') and table_type = 'BASE TABLE' order by 1",
    )
    ids = ("_seq", "customer_id", "previous_customer_id")
    with home.connect("test") as connection:
        for (table,) in tables:
            columns = [name for name, *_ in connection.execute(f"describe {table}").fetchall() if name not in ids]
            if columns:
                found[table] = connection.execute(f"select {', '.join(columns)} from {table} order by all").fetchall()
    found["clusters"] = _rows(
        home, "select list(node_id order by node_id) from identity.assignments group by customer_id order by all"
    )
    current = "select identifier_type, identifier_value, record_count, sources from identity.nodes where record_count > 0"
    found["nodes"] = _rows(home, f"{current} order by all")
    return found


def test_a_mapping_that_merged_people_is_taken_back_from_every_table(home: Home, right: Home) -> None:
    _map(home, WRONG)
    for place in (home, right):
        land_rows(place, "crm/contacts/a.csv", [{"contact_id": "k1", "email": "p1@example.com", "updated_at": "2025-01-01"}])
        land_rows(place, "shop/a.csv", _orders(1, 2))
        land_rows(place, "shop/b.csv", _orders(3, 4))
        _ingest(place)
    _build(home)
    assert _rows(home, "select count(*) from unified.customers") == [(1,)]
    [before] = _rows(home, "select customer_id from unified.customers")
    _map(home, RIGHT)
    loads = {load.table: load for load in _again(home)}
    assert (loads["orders_orders"].withdrawn, loads["orders_orders"].accepted) == (4, 4)
    assert _staged(home) == _staged(right)
    _build(home)
    _build(right)
    assert _rows(home, "select count(*) from unified.customers") == [(4,)]
    found, expected = _every_table(home), _every_table(right)
    assert found.keys() == expected.keys()
    for table, rows in expected.items():
        assert found[table] == rows, table
    # The id that all had stays with one of them, and the ledger says what became of the others.
    assert before in _rows(home, "select customer_id from unified.customers")
    assert _rows(home, "select count(*) from identity.changes where kind = 'split'") != [(0,)]


def test_the_ledger_keeps_what_was_withdrawn(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 3))
    _ingest(home)
    before = _rows(home, "select * from staging._loads")
    _map(home, RIGHT)
    _again(home, entities=("orders",))
    assert _rows(home, "select * exclude (withdrawn_seq, withdrawn_at) from staging._withdrawn") == before
    assert _rows(home, "select rows_accepted, status from staging._loads") == [(3, "loaded")]
    [load] = _again(home, entities=("orders",))
    assert (load.withdrawn, load.accepted) == (3, 3)
    assert _rows(home, "select count(*) from staging._withdrawn") == [(2,)]


def test_one_file_alone_is_read_again(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2))
    land_rows(home, "shop/b.csv", _orders(3, 4))
    _ingest(home)
    _map(home, RIGHT)
    _again(home, entities=("orders",), files=("landing/shop/b.csv",))
    phones = _rows(home, "select order_id, phone from staging.orders_orders order by 1")
    assert phones == [
        ("o1", "+8613800138000"),
        ("o2", "+8613800138000"),
        ("o3", "+8613800139003"),
        ("o4", "+8613800139004"),
    ]
    _again(home, files=(str(home.landing / "shop/a.csv"),))
    assert _rows(home, "select count(*) from staging.orders_orders where phone = '+8613800138000'") == [(0,)]


def test_a_file_that_is_gone_keeps_its_rows_until_somebody_gives_them_up(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2))
    land_rows(home, "shop/b.csv", _orders(3, 4))
    _ingest(home)
    before = _staged(home)
    (home.landing / "shop/a.csv").unlink()
    _map(home, RIGHT)
    with pytest.raises(OnefoldError, match=r"landing/shop/a\.csv: loaded before and no longer there.*--withdraw-gone"):
        _again(home)
    assert _staged(home) == before
    _again(home, withdraw_gone=True)
    assert [row[0] for row in _rows(home, "select order_id from staging.orders_orders order by 1")] == ["o3", "o4"]


def test_a_file_that_was_overwritten_counts_as_gone(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2))
    _ingest(home)
    land_rows(home, "shop/a.csv", _orders(3, 4))
    with pytest.raises(OnefoldError, match="no longer there"):
        _again(home)


def test_a_file_that_no_source_names_any_more_is_withdrawn(home: Home) -> None:
    """A glob that was too wide: the file is still in landing, so nothing is lost."""
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2))
    land_rows(home, "shop/test.csv", _orders(3, 4))
    _ingest(home)
    _map(home, RIGHT.replace("shop/*.csv", "shop/a*.csv"))
    _again(home)
    assert _rows(home, "select order_id from staging.orders_orders order by 1") == [("o1",), ("o2",)]


def test_a_file_that_moves_to_another_source_is_loaded_once(home: Home, right: Home) -> None:
    _map(home, WRONG.replace("name: shop", "name: old_shop"))
    for place in (home, right):
        land_rows(place, "shop/a.csv", _orders(1, 2))
        _ingest(place)
    _map(home, RIGHT)
    _again(home)
    assert _staged(home) == _staged(right)


def test_a_copy_and_a_renamed_file_are_loaded_once(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2))
    _ingest(home)
    (home.landing / "shop/a.csv").rename(home.landing / "shop/renamed.csv")
    shutil.copy(home.landing / "shop/renamed.csv", home.landing / "shop/copy.csv")
    _map(home, RIGHT)
    _again(home)
    assert _rows(home, "select order_id, phone from staging.orders_orders order by 1") == [
        ("o1", "+8613800139001"),
        ("o2", "+8613800139002"),
    ]


def test_a_file_that_the_new_mapping_refuses_keeps_its_rows(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2))
    _ingest(home)
    before = _staged(home)
    _map(home, WRONG.replace("phone: hotline", "ordered_at: date_of_order"))
    [load, *_] = _again(home)
    assert "its rows are as they were loaded before" in load.refused[0][1]
    assert _staged(home) == before
    assert _rows(home, "select status from staging._loads") == [("loaded",)]


def test_rows_that_were_replayed_are_read_again_with_their_file(home: Home, right: Home) -> None:
    _map(home, WRONG)
    for place in (home, right):
        land_rows(place, "shop/a.csv", _orders(1, 2, amount="10 yuan"))
        land_rows(place, "shop/b.csv", _orders(3, 4, amount="20 yuan"))
        _ingest(place)
    assert _rows(home, "select count(*) from staging.orders_orders") == [(0,)]
    number = """, sql: {amount: "replace(amount, ' yuan', '')"}}"""
    _map(home, WRONG.replace("CNY}}", "CNY}" + number))
    assert sum(result.accepted for result in replay(home, load_channels(home), Settings.of(home))) == 4
    for place in (home, right):
        _map(place, RIGHT.replace("CNY}}", "CNY}" + number))
        _again(place, files=("landing/shop/a.csv",))
    # b's rows had come by the same replay: they were taken back with it, and read again from quarantine.
    content = "select * exclude (_seq, _loaded_at, _batch_id, _extra) from staging.orders_orders order by all"
    assert [row[0] for row in _rows(home, content)] == ["o1", "o2", "o3", "o4"]
    assert _rows(home, content) == _rows(right, content)
    assert _rows(home, "select count(*) from staging._rejected where replayed_in is null") == [(0,)]


def test_rows_that_wait_under_a_source_that_is_no_more_are_told(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 2, amount="10 yuan"))
    _ingest(home)
    _map(home, WRONG.replace("name: shop", "name: store"))
    [result] = replay(home, load_channels(home), Settings.of(home))
    assert (result.tried, result.accepted) == (2, 0)
    assert "no source 'shop' any more; read their files again: onefold ingest --again orders/orders" in result.problem


def test_the_built_in_source_is_corrected_and_its_files_read_again(home: Home) -> None:
    land_rows(home, "orders/orders/a.csv", _orders(1, 2, status="paid", currency="CNY", phone="+8613800138000"))
    _ingest(home)
    _map(home, "channel: orders\nentities: {orders: [{name: landing, rename: {phone: mobile}}]}")
    _again(home)
    assert _rows(home, "select order_id, phone, _source_uri from staging.orders_orders order by 1") == [
        ("o1", "+8613800139001", "landing/orders/orders/a.csv"),
        ("o2", "+8613800139002", "landing/orders/orders/a.csv"),
    ]


def test_the_command_reads_again_and_the_next_refresh_rebuilds_by_itself(home: Home) -> None:
    _map(home, WRONG)
    land_rows(home, "shop/a.csv", _orders(1, 4))
    assert "withdrawn" not in _commands("ingest orders", "refresh")
    assert _rows(home, "select count(*) from unified.customers") == [(1,)]
    _map(home, RIGHT)
    told = _commands("ingest --again orders/orders", "refresh")
    assert "rows of orders/orders were withdrawn: every model is built anew" in told
    assert _rows(home, "select count(*) from unified.customers") == [(4,)]
    # Once is enough: the refresh that finished has done with it.
    [(withdrawn,)] = _rows(home, "select max(withdrawn_seq) from staging._withdrawn")
    assert State(home).progress("refreshed") >= withdrawn


@pytest.mark.parametrize(
    "arguments, remedy",
    [
        (["--again"], "say what to read again"),
        (["--again", "ordres"], "there is no channel ordres"),
        (["--again", "orders/order"], "orders has no entity order; it has orders, order_items, refunds"),
        (["--again", "orders", "--file", "landing/none.csv"], "no file landing/none.csv is in landing or in the ledger"),
        (["orders", "--file", "a.csv"], "go with --again"),
        (["orders/orders"], "go with --again"),
    ],
)
def test_a_wrong_request_is_answered_with_the_remedy(home: Home, arguments: list[str], remedy: str) -> None:
    shown = CliRunner().invoke(main, ["ingest", *arguments])
    assert shown.exit_code == 1
    assert remedy in " ".join(shown.output.split())


KILL_BEFORE_EACH_STATEMENT = """
import os, signal, shutil, sys
from pathlib import Path
import pandas  # DuckDB imports it: here once, instead of in every child
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.reingest import Again, reingest
from dagster_project.lib.settings import Settings

prepared, work = Path(sys.argv[1]), Path(sys.argv[2])
channel = load_channels(Home(prepared))["orders"]


def read_again_and_die(home, statements):
    def count(frame, event, called):
        nonlocal statements
        if event == "c_call" and called.__name__ in ("execute", "executemany"):
            statements -= 1
            if not statements:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    reingest(home, channel, Settings(), Again(entities=("orders",)))
    sys.setprofile(None)


for statements in range(1, 2000, int(sys.argv[3])):
    home = Home(work / str(statements))
    shutil.copytree(prepared, home.path)
    child = os.fork()
    if not child:
        code = 1
        try:
            read_again_and_die(home, statements)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print("killed", statements, flush=True)
    else:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_killed_at_any_statement_it_loses_nothing_and_heals_when_run_again(home: Home, right: Home, tmp_path: Path) -> None:
    _map(home, WRONG)
    for place in (home, right):
        land_rows(place, "shop/a.csv", _orders(1, 3))
        land_rows(place, "shop/b.csv", _orders(4, 6))
        _ingest(place)
    old, new = set(_staged(home)), set(_staged(right))
    _map(home, RIGHT)
    done = subprocess.run(
        [sys.executable, "-c", KILL_BEFORE_EACH_STATEMENT, str(home.path), str(tmp_path / "work"), "11"],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed = [line.split()[1] for line in done.stdout.splitlines()]
    assert len(killed) >= 8
    halves = 0
    for place in (Home(tmp_path / "work" / number) for number in killed):
        found = _staged(place)
        # Each file's rows are the old ones or the new ones, never both and never neither.
        assert {row[0] for row in found} == {f"o{n}" for n in range(1, 7)}
        assert len(found) == 6 and set(found) <= old | new
        halves += 0 < len(set(found) & new) < 6
        _again(place, entities=("orders",))
        assert _staged(place) == _staged(right)
    assert halves
