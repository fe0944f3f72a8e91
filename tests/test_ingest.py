"""Landing to staging: what is in a file is in the table, in the quarantine or counted, and never twice."""

import json
import unicodedata
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import fsspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib import reading
from dagster_project.lib.contracts import ChannelContract, Source, load_channels
from dagster_project.lib.ingest import CARRIED, ingest_channel, new_files
from dagster_project.lib.progress import listening
from dagster_project.lib.rejected import list_rejected, replay
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

COLUMNS = {
    "thing_id": {"required": True},
    "seen_at": {"type": "timestamp", "required": True},
    "name": {},
    "price": {"type": "decimal"},
    "pieces": {"type": "integer"},
    "ratio": {"type": "number"},
    "is_new": {"type": "boolean"},
    "made_on": {"type": "date"},
    "colour": {"allowed": ["red", "green"]},
    "details": {"type": "json"},
    "code": {"pattern": "[A-Z]{2}[0-9]+"},
    "currency": {"format": "currency"},
}


def shop(*sources: dict, columns: dict | None = None, key: tuple = ("thing_id",), **entities: dict) -> ChannelContract:
    things = {"description": "Things.", "kind": "record", "key": key, "columns": columns or COLUMNS}
    if sources:
        things["sources"] = sources
    content = {
        "channel": "shop",
        "description": "A shop.",
        "owner": "team:shop",
        "entities": {"things": things} | entities,
    }
    return ChannelContract.model_validate(content)


def ingest(home, contract: ChannelContract | None = None, **given):
    """Load all of a channel; returns what was done for its first entity."""
    return ingest_channel(home, contract or shop(), Settings(**given))[0]


def query(home, sql: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(sql).fetchall()


def ledger(home) -> list[dict]:
    """The batches, in the order of their writes."""
    with home.connect("test") as connection:
        cursor = connection.execute("from staging._loads order by seq")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def quarantine(home) -> list[tuple]:
    return query(home, "select source_row, kind, reason, payload from staging._rejected order by source_uri, source_row")


def only(home, column: str, table: str = "shop_things") -> list:
    return [value for (value,) in query(home, f"select {column} from staging.{table} order by _source_uri, _source_row")]


def csv_of(header: str, *lines: str) -> str:
    return "\n".join([header, *lines]) + "\n"


@pytest.fixture
def landed(home, land):
    """Lands one CSV file of things with these lines and loads it."""

    def write_and_load(header: str, *lines: str, contract: ChannelContract | None = None, **given):
        land(home, "shop/things/a.csv", csv_of(header, *lines))
        return ingest(home, contract, **given)

    return write_and_load


# Formats

TYPED = [
    ("t1", datetime(2024, 1, 5, 10), 'Ann, "A"', Decimal("1234.5000"), 3, 0.25, True, date(2020, 2, 29), "red",
     '{"a":[1,2]}'),
    ("t2", datetime(2024, 1, 6, 11, 30), "王小明", Decimal("-2.0000"), None, None, False, None, "green", None),
]  # fmt: skip
NAMES = ["thing_id", "seen_at", "name", "price", "pieces", "ratio", "is_new", "made_on", "colour", "details"]
OBJECTS = [
    {"thing_id": "t1", "seen_at": "2024-01-05T10:00:00Z", "name": 'Ann, "A"', "price": 1234.5, "pieces": 3,
     "ratio": 0.25, "is_new": True, "made_on": "2020-02-29", "colour": "red", "details": {"a": [1, 2]}},
    {"thing_id": "t2", "seen_at": "2024-01-06T11:30:00Z", "name": "王小明", "price": -2, "is_new": False,
     "colour": "green"},
]  # fmt: skip
DELIMITED = [
    NAMES,
    ["t1", "2024-01-05T10:00:00Z", '"Ann, ""A"""', '"1,234.50"', "3", "0.25", "true", "2020-02-29", "red",
     '"{""a"":[1,2]}"'],
    ["t2", "2024-01-06T11:30:00Z", "王小明", "-2", "", "", "false", "", "green", ""],
]  # fmt: skip
TEXTS = {
    "csv": "".join(",".join(row) + "\n" for row in DELIMITED),
    "tsv": "".join("\t".join(row) + "\n" for row in DELIMITED),
    "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in OBJECTS),
}


def write_parquet(path, select: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.connect().execute(f"set TimeZone = 'UTC'; copy ({select}) to '{path}' (format parquet)")


@pytest.mark.parametrize("ending", [f"{kind}{packed}" for kind in TEXTS for packed in ("", ".gz", ".zst")])
def test_every_format_gives_the_same_typed_rows(home, land, ending):
    land(home, f"shop/things/a.{ending}", TEXTS[ending.split(".")[0]])
    ingest(home)
    assert query(home, f"select {', '.join(NAMES)} from staging.shop_things order by thing_id") == TYPED


def test_parquet_gives_the_same_typed_rows_as_text(home):
    write_parquet(
        home.landing / "shop/things/a.parquet",
        """
        select * from (values
            ('t1', timestamptz '2024-01-05 10:00:00+00', 'Ann, "A"', 1234.5::decimal(10, 2), 3, 0.25::double, true,
             date '2020-02-29', 'red', {'a': [1, 2]}),
            ('t2', timestamptz '2024-01-06 11:30:00+00', '王小明', -2, null, null, false, null, 'green', null)
        ) as rows (thing_id, seen_at, name, price, pieces, ratio, is_new, made_on, colour, details)
        """,
    )
    ingest(home)
    assert query(home, f"select {', '.join(NAMES)} from staging.shop_things order by thing_id") == TYPED


def test_packed_parquet_is_refused_with_the_remedy(home, land):
    land(home, "shop/things/a.parquet.gz", b"PAR1")
    ((_, reason),) = ingest(home).refused
    assert "land it without .gz" in reason


def test_a_file_of_unknown_format_is_refused_with_the_remedy(home, land):
    land(home, "shop/things/a.txt", TEXTS["csv"])
    ((uri, reason),) = ingest(home).refused
    assert (uri, "set `format` in its source" in reason) == ("landing/shop/things/a.txt", True)


def test_a_source_says_format_and_delimiter_of_a_file_with_another_ending(home, land):
    land(home, "shop/things/a.txt", "thing_id;seen_at\nt1;2024-01-05\n")
    ingest(home, shop({"format": "csv", "delimiter": ";"}))
    assert only(home, "thing_id") == ["t1"]


# Types

TIMES = {
    "2024-01-05T10:00:00Z": datetime(2024, 1, 5, 10),
    "2024-01-05 10:00:00+08:00": datetime(2024, 1, 5, 2),
    "2024-01-05T10:00:00+0800": datetime(2024, 1, 5, 2),
    "2024-01-05T10:00:00.25-05:30": datetime(2024, 1, 5, 15, 30, 0, 250000),
    "2024-01-05 10:00:00 Asia/Shanghai": datetime(2024, 1, 5, 2),
    "2024-07-05 10:00:00 Europe/Berlin": datetime(2024, 7, 5, 8),
    "2024-01-05 10:00:00 UTC": datetime(2024, 1, 5, 10),
    "1704448800": datetime(2024, 1, 5, 10),
    "1704448800.5": datetime(2024, 1, 5, 10, 0, 0, 500000),
    "1704448800123": datetime(2024, 1, 5, 10, 0, 0, 123000),
    "1704448800123456": datetime(2024, 1, 5, 10, 0, 0, 123456),
    "2024-01-05 10:00:00": datetime(2024, 1, 5, 2),
    "2024-01-05T10:00": datetime(2024, 1, 5, 2),
    "2024/1/5 9:03": datetime(2024, 1, 5, 1, 3),
    "20240105100000": datetime(2024, 1, 5, 2),
    "2024年1月5日": datetime(2024, 1, 4, 16),
    "2024-01-05": datetime(2024, 1, 4, 16),
}


def test_times_of_all_forms_become_utc_and_those_without_a_zone_are_in_the_default_one(landed, home):
    landed("thing_id,seen_at", *(f"{n},{text}" for n, text in enumerate(TIMES)), default_time_zone="Asia/Shanghai")
    assert dict(zip(TIMES, only(home, "seen_at"), strict=True)) == TIMES


def test_a_sources_own_zone_and_time_format_come_first(landed, home):
    source = {"time_zone": "America/New_York", "time_format": "%d.%m.%Y %H:%M"}
    landed("thing_id,seen_at", "t1,05.01.2024 10:00", contract=shop(source), default_time_zone="Asia/Shanghai")
    assert only(home, "seen_at") == [datetime(2024, 1, 5, 15)]


@given(moment=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)))
@settings(max_examples=5)
def test_a_time_reads_the_same_in_every_form_that_can_carry_it(new_home, land, moment):
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)).days * 86_400_000_000 + (
        moment - datetime(1970, 1, 1, tzinfo=UTC)
    ).seconds * 1_000_000 + moment.microsecond  # fmt: skip
    forms = [moment.isoformat(), moment.isoformat(" ").replace("+00:00", "Z")]
    if micros >= 10**15:  # from 2001 on the number of digits tells the unit
        forms += [str(micros), str(micros // 1000)]
    home = new_home()
    land(home, "shop/things/a.csv", csv_of("thing_id,seen_at", *(f"{n},{form}" for n, form in enumerate(forms))))
    ingest(home)
    assert only(home, "seen_at") == [moment.replace(tzinfo=None)] * len(forms)


GOOD = [
    ("price", '"1,234.56"', Decimal("1234.5600")),
    ("price", '"-1,234,567"', Decimal("-1234567.0000")),
    ("price", "0.1", Decimal("0.1000")),
    ("price", "1e3", Decimal("1000.0000")),
    ("pieces", "7", 7),
    ("pieces", "-7", -7),
    ("pieces", "7.0", 7),
    ("ratio", "1e-3", 0.001),
    ("is_new", "TRUE", True),
    ("is_new", "Yes", True),
    ("is_new", "y", True),
    ("is_new", "1", True),
    ("is_new", "false", False),
    ("is_new", "No", False),
    ("is_new", "f", False),
    ("is_new", "0", False),
    ("colour", "RED", "red"),
    ("colour", "Green", "green"),
    ("made_on", "2020-02-29", date(2020, 2, 29)),
    ("made_on", "20200229", date(2020, 2, 29)),
    ("made_on", "2020/2/29", date(2020, 2, 29)),
    ("details", '"[1, {""a"": null}]"', '[1, {"a": null}]'),
    ("code", "AB12", "AB12"),
    ("name", "  Ann ", "Ann"),
    ("name", '" "', None),
    ("name", "", None),
    ("name", "NULL", "NULL"),
    ("name", "#1", "#1"),
]


@pytest.fixture(scope="module")
def good(new_home, land):
    """All of GOOD in one file; the value of its column in each row."""
    home, names = new_home(), list(COLUMNS)[2:]
    lines = [
        ",".join([str(n), "2024-01-05", *(text if name == column else "" for name in names)])
        for n, (column, text, _) in enumerate(GOOD)
    ]
    land(home, "shop/things/a.csv", csv_of(",".join(COLUMNS), *lines))
    ingest(home)
    rows = query(home, f"select cast(thing_id as integer), {', '.join(names)} from staging.shop_things")
    return {number: dict(zip(names, values, strict=True)) for number, *values in rows}


@pytest.mark.parametrize("number", range(len(GOOD)), ids=[f"{column} {text}" for column, text, _ in GOOD])
def test_a_value_is_typed_by_the_contract(good, number):
    column, _, expected = GOOD[number]
    assert good[number][column] == expected


BAD = [
    ("seen_at", "yesterday", "seen_at 'yesterday' is not a timestamp"),
    ("seen_at", "2024-02-30", "seen_at '2024-02-30' is not a timestamp"),
    ("seen_at", "infinity", "seen_at 'infinity' is not a timestamp"),
    ("seen_at", "epoch", "seen_at 'epoch' is not a timestamp"),
    ("seen_at", "", "seen_at is required and missing"),
    ("price", "12 yuan", "price '12 yuan' is not a decimal"),
    ("price", '"1,23,4"', "price '1,23,4' is not a decimal"),
    ("price", "99999999999999999999", "price '99999999999999999999' is not a decimal"),
    ("pieces", "1.5", "pieces '1.5' is not an integer"),
    ("pieces", "two", "pieces 'two' is not an integer"),
    ("ratio", "nan", "ratio 'nan' is not a number"),
    ("ratio", "inf", "ratio 'inf' is not a number"),
    ("is_new", "maybe", "is_new 'maybe' is not a boolean"),
    ("made_on", "31/02/1990", "made_on '31/02/1990' is not a date"),
    ("colour", "blue", "colour 'blue' is not one of red, green"),
    ("details", "{", "details '{' is not a json"),
    ("code", "ab12", "code 'ab12' does not match [A-Z]{2}[0-9]+"),
]


@pytest.fixture(scope="module")
def bad(new_home, land):
    """All of BAD in one file; the reason for each row."""
    home, names = new_home(), list(COLUMNS)[1:]
    lines = [
        ",".join([str(n), *(text if name == column else "2024-01-05" if name == "seen_at" else "" for name in names)])
        for n, (column, text, _) in enumerate(BAD)
    ]
    land(home, "shop/things/a.csv", csv_of(",".join(COLUMNS), *lines))
    ingest(home)
    return {row - 1: reason for row, _, reason, _ in quarantine(home)}


@pytest.mark.parametrize("number", range(len(BAD)), ids=[f"{column} {text}" for column, text, _ in BAD])
def test_a_value_that_does_not_fit_is_quarantined_with_its_reason(bad, number):
    assert bad[number] == BAD[number][2]


def test_all_that_is_wrong_with_a_row_is_told(landed, home):
    landed("thing_id,seen_at,price,colour", ",x,y,red")
    ((_, _, reason, _),) = quarantine(home)
    assert reason == "thing_id is required and missing; seen_at 'x' is not a timestamp; price 'y' is not a decimal"


# Columns


def test_unknown_columns_are_kept_and_reported(landed, home):
    load = landed("thing_id,seen_at,Weight,note's", "t1,2024-01-05,5,x")
    assert load.unknown_columns == {"Weight", "note's"}
    assert [json.loads(extra) for extra in only(home, "_extra")] == [{"Weight": "5", "note's": "x"}]
    assert ledger(home)[0]["unknown_columns"] == ["Weight", "note's"]


def test_a_missing_optional_column_is_null(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05")
    assert query(home, "select name, price, is_new, details, _extra from staging.shop_things") == [(None,) * 5]


def test_column_names_are_found_in_any_case_and_with_blanks_around(landed, home):
    landed(" Thing_ID ,SEEN_AT,Name", "t1,2024-01-05,Ann")
    assert query(home, "select thing_id, name from staging.shop_things") == [("t1", "Ann")]


def test_json_keys_that_differ_in_case_are_one_column(home, land):
    land(home, "shop/things/a.jsonl", '{"thing_id":1,"seen_at":0,"Name":"a"}\n{"thing_id":2,"seen_at":0,"name":"b"}\n'
         .replace('"seen_at":0', '"seen_at":"2024-01-05"'))  # fmt: skip
    ingest(home)
    assert only(home, "name") == ["a", "b"]


def test_json_keys_of_any_spelling_are_kept(home, land):
    extra = {"": 1, "a.b": 2, "a/b": 3, "~": 4, 'q"': 5, "b\\": 6, "o'clock": 7, "_row": 8, "编号": 9}
    land(home, "shop/things/a.jsonl", json.dumps({"thing_id": "t1", "seen_at": "2024-01-05"} | extra))
    ingest(home)
    (kept,) = only(home, "_extra")
    assert sorted(json.loads(kept).values()) == [str(n) for n in range(1, 10)]


def test_two_columns_of_one_name_lose_nothing(landed, home):
    landed("thing_id,seen_at,name,Name", "t1,2024-01-05,a,b")
    assert (only(home, "name"), [list(json.loads(e).values()) for e in only(home, "_extra")]) == (["a"], [["b"]])


def test_staging_carries_where_each_row_came_from(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05", "t2,2024-01-06")
    batch = ledger(home)[0]["batch_id"]
    assert query(home, "select thing_id, _batch_id, _source_uri, _source_row from staging.shop_things order by 1") == [
        ("t1", batch, "landing/shop/things/a.csv", 1), ("t2", batch, "landing/shop/things/a.csv", 2),
    ]  # fmt: skip


def test_a_column_that_a_contract_gains_is_added_to_the_table(home, land):
    land(home, "shop/things/a.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    ingest(home)
    land(home, "shop/things/b.csv", "thing_id,seen_at,weight\nt2,2024-01-05,5\n")
    ingest(home, shop(columns=COLUMNS | {"weight": {"type": "integer"}}))
    assert only(home, "weight") == [None, 5]


# Mapping


def test_rename_sql_and_constant_fill_the_contracts_columns(landed, home):
    source = {
        "rename": {"thing_id": "No."},
        "sql": {"name": "first || ' ' || last", "seen_at": "strptime(day, '%d.%m.%Y')"},
        "constant": {"colour": "red", "pieces": 2, "is_new": True},
    }
    load = landed("No.,first,last,day", "t1,Ann,O'Hara,05.01.2024", contract=shop(source))
    assert query(home, "select thing_id, name, seen_at, colour, pieces, is_new, _extra from staging.shop_things") == [
        ("t1", "Ann O'Hara", datetime(2024, 1, 5), "red", 2, True, None)
    ]
    assert load.unknown_columns == set()


def test_rows_that_name_no_currency_get_the_sources(landed, home):
    landed("thing_id,seen_at,currency", "t1,2024-01-05,EUR", "t2,2024-01-05,", contract=shop({"currency": "CNY"}))
    assert only(home, "currency") == ["EUR", "CNY"]


def test_a_source_without_a_currency_column_gives_its_own(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05", contract=shop({"currency": "CNY"}))
    assert only(home, "currency") == ["CNY"]


def test_rows_that_a_filter_leaves_out_are_counted(landed, home):
    landed(
        "thing_id,seen_at,kind",
        "t1,2024-01-05,a",
        "t2,2024-01-05,b",
        "t3,2024-01-05,",
        contract=shop({"filter": "kind = 'a'"}),
    )
    assert only(home, "thing_id") == ["t1"]
    (batch,) = ledger(home)
    assert (batch["rows_in_file"], batch["rows_filtered"], batch["rows_read"], batch["rows_accepted"]) == (3, 2, 1, 1)


def test_a_mapping_that_does_not_run_refuses_the_file_with_the_remedy(landed):
    ((_, reason),) = landed("thing_id,seen_at", "t1,2024-01-05", contract=shop({"sql": {"name": "no_such_column"}})).refused
    assert "no_such_column" in reason
    assert "correct its mapping" in reason


ORDER_LINES = csv_of(
    "order_no,day,mail,sku,qty,price,total",
    "o1,2024-01-05,a@b.example,apple,1,2.50,5.00",
    "o1,2024-01-05,a@b.example,apple,1,2.50,5.00",
    "o2,2024-01-06,,pear,3,1.00,3.00",
)


@pytest.fixture
def order_lines(home, land):
    """One file of order lines, mapped to orders and to order items by the home's own sources; loaded."""
    (home.sources / "shop.yaml").write_text(
        yaml.safe_dump(
            {
                "channel": "orders",
                "entities": {
                    "orders": [
                        {
                            "name": "lines", "location": "export/*.csv", "group_by": ["order_no", "day"],
                            "currency": "CNY",
                            "rename": {"order_id": "order_no", "ordered_at": "day"},
                            "sql": {"email": "max(mail)", "amount": "max(total)"}, "constant": {"status": "paid"},
                        }
                    ],
                    "order_items": [
                        {
                            "name": "lines", "location": "export/*.csv",
                            "rename": {"order_id": "order_no", "product_id": "sku", "quantity": "qty",
                                       "unit_price": "price"},
                            "sql": {"line_number": "row_number() over (partition by order_no order by _row)"},
                        }
                    ],
                },
            }
        )
    )  # fmt: skip
    land(home, "export/2024.csv", ORDER_LINES)
    ingest_channel(home, load_channels(home)["orders"], Settings())
    return home


def test_order_lines_are_grouped_to_orders(order_lines):
    assert query(
        order_lines,
        "select order_id, ordered_at, email, amount, status, currency from staging.orders_orders order by 1",
    ) == [
        ("o1", datetime(2024, 1, 5), "a@b.example", Decimal("5.0000"), "paid", "CNY"),
        ("o2", datetime(2024, 1, 6), None, Decimal("3.0000"), "paid", "CNY"),
    ]


def test_equal_order_lines_stay_apart_by_their_number(order_lines):
    rows = query(order_lines, "select order_id, line_number, product_id from staging.orders_order_items order by 1, 2")
    assert rows == [("o1", 1, "apple"), ("o1", 2, "apple"), ("o2", 1, "pear")]


def test_lines_that_a_group_took_up_are_counted(order_lines):
    counts = {b["entity"]: (b["rows_in_file"], b["rows_grouped"], b["rows_accepted"]) for b in ledger(order_lines)}
    assert counts == {"orders": (3, 1, 2), "order_items": (3, 0, 3)}


# Refusals, and files beside them


def test_a_file_without_a_required_column_is_refused_and_says_which(home, land):
    land(home, "shop/things/a.csv", "thing_id,colour\nt1,red\n")
    ((uri, reason),) = ingest(home).refused
    assert uri == "landing/shop/things/a.csv"
    assert "required column 'seen_at' is missing" in reason
    assert "the file has thing_id, colour" in reason


def test_other_files_are_loaded_beside_a_refused_one(home, land):
    land(home, "shop/things/a.csv", "thing_id,colour\nt1,red\n")
    land(home, "shop/things/b.csv", "thing_id,seen_at\nt2,2024-01-05\n")
    load = ingest(home)
    assert (len(load.refused), load.files, only(home, "thing_id")) == (1, 1, ["t2"])


def test_other_entities_are_loaded_beside_a_refused_file(home, land):
    land(home, "shop/things/a.csv", "thing_id,colour\nt1,red\n")
    land(home, "shop/others/a.csv", "other_id\no1\n")
    other = {"description": "Others.", "kind": "record", "key": ["other_id"], "columns": {"other_id": {}}}
    ingest(home, shop(others=other))
    assert only(home, "other_id", "shop_others") == ["o1"]


def test_a_refusal_is_in_the_ledger(home, land):
    land(home, "shop/things/a.csv", "thing_id,colour\nt1,red\n")
    ingest(home)
    (batch,) = ledger(home)
    assert (batch["status"], batch["rows_read"], "seen_at" in batch["reason"]) == ("refused", 0, True)


def test_a_refused_file_is_not_tried_again_while_nothing_changed(home, land):
    land(home, "shop/things/a.csv", "thing_id,colour\nt1,red\n")
    ingest(home)
    assert (ingest(home).refused, len(ledger(home))) == ([], 1)


def test_a_changed_contract_heals_a_refused_file_on_the_next_run(home, land):
    land(home, "shop/things/a.csv", "thing_id,day\nt1,2024-01-05\n")
    ingest(home)
    ingest(home, shop({"rename": {"seen_at": "day"}}))
    assert (only(home, "thing_id"), [b["status"] for b in ledger(home)]) == (["t1"], ["loaded"])


def test_a_refused_file_is_tried_again_under_another_name(home, land):
    file = land(home, "shop/things/a.txt", "thing_id,seen_at\nt1,2024-01-05\n")
    ingest(home)
    file.rename(file.with_suffix(".csv"))
    assert (ingest(home).refused, only(home, "thing_id")) == ([], ["t1"])


def test_a_new_mapping_in_the_homes_sources_loads_files_that_were_landed_before(home, land):
    land(home, "erp/kunden.csv", "KUNNR,AEDAT\nk1,2024-01-05\n")
    ingest_channel(home, load_channels(home)["crm"], Settings())
    (home.sources / "erp.yaml").write_text(
        "channel: crm\nentities: {contacts: [{name: erp, location: 'erp/*.csv', "
        "rename: {contact_id: KUNNR, updated_at: AEDAT}}]}"
    )
    ingest_channel(home, load_channels(home)["crm"], Settings())
    assert only(home, "contact_id", "crm_contacts") == ["k1"]


def test_a_file_that_cannot_be_read_is_refused_and_says_what_to_do(home, land):
    land(home, "shop/things/a.parquet", b"not Parquet at all")
    ((_, reason),) = ingest(home).refused
    assert reason.startswith("cannot be read as parquet")
    assert reason.endswith("repair the file and land it again")


def test_a_file_that_is_gone_since_it_was_listed_does_not_stop_others(home, land):
    land(home, "shop/things/a.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    gone = land(home, "shop/things/b.csv", "thing_id,seen_at\nt2,2024-01-05\n")
    land(home, "shop/things/c.csv", "thing_id,seen_at\nt3,2024-01-05\n")
    with listening(lambda *_: gone.unlink(missing_ok=True)):  # once another is loaded
        load = ingest(home)
    assert (only(home, "thing_id"), [uri for uri, _ in load.refused]) == (["t1", "t3"], ["landing/shop/things/b.csv"])


def test_a_file_that_changes_while_it_is_read_is_loaded_by_the_next_run(home, land, monkeypatch):
    path = land(home, "shop/things/a.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    read = reading.read_file

    def read_and_append(*given):
        raw = read(*given)
        with path.open("a") as file:
            file.write("t2,2024-01-05\n")
        return raw

    monkeypatch.setattr(reading, "read_file", read_and_append)
    ((_, reason),) = ingest(home).refused
    monkeypatch.undo()
    assert ("changed while it was read; the next run reads it again" in reason, only(home, "thing_id")) == (True, [])
    ingest(home)
    assert only(home, "thing_id") == ["t1", "t2"]


def test_a_remote_file_that_cannot_be_fetched_is_loaded_by_the_next_run(home):
    store, source = fsspec.filesystem("memory"), {"location": "memory://crm/*.csv"}
    store.pipe("/crm/a.csv", b"thing_id,seen_at\nt1,2024-01-05\n")
    store.pipe("/crm/b.csv", b"thing_id,seen_at\nt2,2024-01-05\n")
    with listening(lambda *_: store.exists("/crm/b.csv") and store.rm("/crm/b.csv")):
        ((uri, reason),) = ingest(home, shop(source)).refused
    assert (uri, "the next run tries again" in reason) == ("memory:///crm/b.csv", True)
    store.pipe("/crm/b.csv", b"thing_id,seen_at\nt2,2024-01-05\n")
    ingest(home, shop(source))
    assert only(home, "thing_id") == ["t1", "t2"]


def test_a_store_that_cannot_be_listed_does_not_stop_other_sources(home, land):
    land(home, "shop/things/a.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    ((uri, _),) = ingest(home, shop({"name": "lost", "location": "nowhere://x/*.csv"}, {})).refused
    assert (uri, only(home, "thing_id")) == ("nowhere://x/*.csv", ["t1"])


# Broken lines, empty files


def test_a_csv_line_with_too_many_or_too_few_fields_is_quarantined(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05,x", "t2", "t3,2024-01-05")
    assert only(home, "thing_id") == ["t3"]
    assert [(row, kind, payload) for row, kind, _, payload in quarantine(home)] == [
        (2, "line", "t1,2024-01-05,x"),
        (3, "line", "t2"),
    ]


def test_a_stray_quote_quarantines_its_line_and_not_the_file(landed, home):
    landed("thing_id,seen_at,name", "t1,2024-01-05,x", 't2,2024-01-05,"x" y', "t3,2024-01-05,z")
    assert only(home, "thing_id") == ["t1", "t3"]
    assert [(row, kind, payload) for row, kind, _, payload in quarantine(home)] == [(3, "line", 't2,2024-01-05,"x" y')]


def test_a_csv_line_that_is_not_utf8_is_quarantined(home, land):
    land(home, "shop/things/a.csv", b"thing_id,seen_at,name\nt1,2024-01-05,\xe9\n" + "t2,2024-01-05,王明\n".encode())
    ingest(home)
    assert (only(home, "thing_id"), [(row, kind) for row, kind, _, _ in quarantine(home)]) == (["t2"], [(2, "line")])


def test_a_quoted_newline_belongs_to_its_value(landed, home):
    landed("thing_id,seen_at,name", 't1,2024-01-05,"two\nlines"', 't2,2024-01-05,"""q"""')
    assert only(home, "name") == ["two\nlines", '"q"']


def test_windows_line_ends_and_a_byte_order_mark_are_no_content(home, land):
    land(home, "shop/things/a.csv", b"\xef\xbb\xbfthing_id,seen_at,name\r\nt1,2024-01-05,Ann\r\n")
    ingest(home)
    assert query(home, "select thing_id, name from staging.shop_things") == [("t1", "Ann")]


JSON_LINES = {
    "cut": '{"thing_id":"t2","seen_at":"2024-01',
    "array": '["t2"]',
    "text": '"t2"',
    "number": "5",
    "null": "null",
    "two objects": '{"thing_id":"t2"}{"thing_id":"t4"}',
    "comment": "# t2",
}


@pytest.mark.parametrize("line", JSON_LINES.values(), ids=JSON_LINES)
def test_a_json_line_that_is_no_object_is_quarantined_as_it_is(home, land, line):
    good = '{{"thing_id":"{}","seen_at":"2024-01-05"}}'
    land(home, "shop/things/a.jsonl", "\n".join([good.format("t1"), "", line, good.format("t3")]) + "\n")
    ingest(home)
    assert only(home, "thing_id") == ["t1", "t3"]
    assert quarantine(home) == [(3, "line", "not a JSON object", line)]


def test_a_json_file_cut_off_at_its_end_loses_only_the_cut_line(home, land):
    land(home, "shop/things/a.jsonl", '{"thing_id":"t1","seen_at":"2024-01-05"}\n{"thing_id":"t2","seen_a')
    ingest(home)
    assert (only(home, "thing_id"), [payload for *_, payload in quarantine(home)]) == (
        ["t1"],
        ['{"thing_id":"t2","seen_a'],
    )


def test_a_byte_order_mark_does_not_cost_the_first_json_line(home, land):
    land(home, "shop/things/a.jsonl", b'\xef\xbb\xbf{"thing_id":"t1","seen_at":"2024-01-05"}\n')
    ingest(home)
    assert only(home, "thing_id") == ["t1"]


def test_a_json_line_that_is_not_utf8_is_quarantined(home, land):
    line = '{"thing_id":"é","seen_at":"2024-01-05"}\n'.encode("latin-1")
    land(home, "shop/things/a.jsonl", line + '{"thing_id":"t2","seen_at":"2024-01-05","name":"王明"}\n'.encode())
    ingest(home)
    assert (only(home, "thing_id"), [(row, kind) for row, kind, _, _ in quarantine(home)]) == (["t2"], [(1, "line")])


def test_a_json_file_of_broken_lines_only_is_quarantined(home, land):
    land(home, "shop/things/a.jsonl", "x\ny\n")
    assert (ingest(home, shop({"filter": "kind = 'a'"})).refused, [payload for *_, payload in quarantine(home)]) == (
        [],
        ["x", "y"],
    )


def test_a_rejected_row_is_kept_whole_with_its_number(landed, home):
    landed("thing_id,seen_at,Weight", "t1,2024-01-05,5", "t2,never,6")
    ((row, kind, _, payload),) = quarantine(home)
    given = {key: value for key, value in json.loads(payload).items() if key != "_row"}
    assert (row, kind, given) == (2, "row", {"thing_id": "t2", "seen_at": "never", "Weight": "6"})


def test_an_empty_csv_file_is_refused_as_it_lacks_even_a_header(home, land):
    land(home, "shop/things/a.csv", "")
    ((_, reason),) = ingest(home).refused
    assert "is empty, without even a header" in reason


@pytest.mark.parametrize("name, content", [("a.csv", "thing_id,seen_at\n"), ("a.jsonl", ""), ("b.jsonl", "\n\n")])
def test_a_file_without_a_record_is_loaded_as_nothing(home, land, name, content):
    land(home, f"shop/things/{name}", content)
    load = ingest(home)
    assert (load.refused, load.files, load.read) == ([], 1, 0)


# Never twice, never lost


def test_a_second_run_loads_nothing(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05")
    again = ingest(home)
    assert (again.files, again.known_files, only(home, "thing_id")) == (0, 1, ["t1"])


def test_a_renamed_copy_loads_nothing(landed, home, land):
    landed("thing_id,seen_at", "t1,2024-01-05")
    land(home, "shop/things/copy.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    assert (ingest(home).files, only(home, "thing_id")) == (0, ["t1"])


def test_a_lost_state_store_loads_nothing_twice_and_finds_its_progress_again(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05")
    for file in home.path.glob("state.sqlite*"):
        file.unlink()
    assert (ingest(home).files, only(home, "thing_id")) == (0, ["t1"])
    assert State(home).progress("loaded") == ledger(home)[0]["seq"]


def test_files_are_new_until_they_are_ingested(home, land):
    land(home, "shop/things/a.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    without_settling = Settings(landing_settle_seconds=0)
    assert [file.uri for file in new_files(home, shop(), without_settling)] == ["landing/shop/things/a.csv"]
    ingest(home)
    assert new_files(home, shop(), without_settling) == []


def test_equal_rows_within_a_file_are_counted_as_duplicates(landed, home):
    load = landed("thing_id,seen_at", "t1,2024-01-05", "t1,2024-01-05T00:00:00Z", "t2,2024-01-05", "t1,2024-01-05")
    assert (load.duplicate, only(home, "thing_id")) == (2, ["t1", "t2"])


def test_rows_of_equal_key_but_other_content_are_both_staged(landed, home):
    load = landed("thing_id,seen_at,name", "t1,2024-01-05,a", "t1,2024-01-05,b")
    assert (load.duplicate, only(home, "name")) == (0, ["a", "b"])


def test_rows_that_differ_in_an_unknown_column_only_are_both_staged(landed, home):
    assert (landed("thing_id,seen_at,x", "t1,2024-01-05,a", "t1,2024-01-05,b").accepted, only(home, "thing_id")) == (
        2,
        ["t1"] * 2,
    )


def test_a_null_and_an_empty_looking_neighbour_are_not_taken_for_equal(landed, home):
    load = landed("thing_id,seen_at,name,code", "t1,2024-01-05,AB1,", "t1,2024-01-05,,AB1")
    assert (load.duplicate, load.accepted) == (0, 2)


def test_a_file_for_two_entities_is_loaded_for_each(order_lines):
    assert sorted(batch["entity"] for batch in ledger(order_lines)) == ["order_items", "orders"]


VALUES = st.one_of(
    st.none(),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12),
    st.sampled_from(["a,b", 'q"q', "two\nlines", "cr\rlf", "#", "NULL", "\\N", "\t", "'", "½", "null", '"', "\ufeff"]),
)
RECORD = ("thing_id", "seen_at", "name", "price")
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "thing_id": st.sampled_from(["t1", "t2", "t3", None]),
            "seen_at": st.sampled_from(["2024-01-05T10:00:00Z", "1704448800", "never"]),
            "name": VALUES,
            "price": st.sampled_from(["1", "1.0", "x", None]),
        }
    ),
    max_size=12,
)


def in_csv(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'


def contents(home) -> Counter:
    return Counter(query(home, "select thing_id, seen_at, name, price, _extra from staging.shop_things"))


def write_parts(home, land, parts: list[list[dict]], ending: str) -> None:
    for number, records in enumerate(parts):
        if ending == "csv":
            text = csv_of(",".join(RECORD), *(",".join(in_csv(r[c]) for c in RECORD) for r in records))
        else:
            text = "".join(json.dumps(r) + "\n" for r in records)
        land(home, f"shop/things/{number:02d}.{ending}", text)


@given(records=RECORDS, ending=st.sampled_from(["csv", "jsonl"]), data=st.data())
@settings(max_examples=12)
def test_the_rows_are_the_same_in_whatever_files_and_order_they_come(new_home, land, records, ending, data):
    # Within a file a repeated record is a duplicate, so each is taken once.
    records = list({json.dumps(r, sort_keys=True): r for r in records}.values())
    whole, split = new_home(), new_home()
    write_parts(whole, land, [records], ending)
    ingest(whole)
    shuffled = data.draw(st.permutations(records))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    for number, part in enumerate(parts):
        write_parts(split, land, [[]] * number + [part], ending)
        ingest(split)
    equal_once_read = sum(batch["rows_duplicate"] for batch in ledger(whole))  # 1 and 1.0, two forms of one time
    assert set(contents(split)) == set(contents(whole))
    if not equal_once_read:
        assert contents(split) == contents(whole)


@given(records=RECORDS, ending=st.sampled_from(["csv", "jsonl"]))
@settings(max_examples=12)
def test_every_row_of_a_file_is_accepted_rejected_or_a_duplicate(new_home, land, records, ending):
    home = new_home()
    write_parts(home, land, [records], ending)
    ingest(home)
    (batch,) = ledger(home)
    assert batch["rows_in_file"] == len(records)
    assert batch["rows_accepted"] == sum(contents(home).values())
    assert batch["rows_rejected"] == len(quarantine(home))
    assert batch["rows_accepted"] + batch["rows_rejected"] + batch["rows_duplicate"] == len(records)


@given(records=RECORDS)
@settings(max_examples=12)
def test_text_comes_through_csv_and_json_lines_as_it_is(new_home, land, records):
    # What is valid, by the contract's words: an id, a time and a price that is one.
    valid = [r for r in records if r["thing_id"] and r["seen_at"] != "never" and r["price"] != "x"]
    spaces = "".join(chr(c) for c in range(0x3001) if unicodedata.category(chr(c)) == "Zs")
    names = {(r["name"] or "").strip(spaces) or None for r in valid}
    found = []
    for ending in ("csv", "jsonl"):
        home = new_home()
        write_parts(home, land, [records], ending)
        ingest(home)
        found.append({name for _, _, name, _, _ in contents(home)})
    assert found == [names, names]


# Replay


@pytest.fixture
def rejected(home, land):
    """Two files, each with a row whose colour the contract does not allow yet."""
    for name, day in (("a", "2024-01-05"), ("b", "2024-01-06")):
        land(
            home,
            f"shop/things/{name}.csv",
            csv_of("thing_id,seen_at,colour,Weight", f"{name}1,{day},red,1", f"{name}2,{day},Blue,2"),
        )
    ingest(home)
    return home


MORE_COLOURS = shop(columns=COLUMNS | {"colour": {"allowed": ["red", "green", "blue"]}})


def replayed(home, contract: ChannelContract = MORE_COLOURS) -> list[tuple[str, int, int]]:
    return [(r.table, r.tried, r.accepted) for r in replay(home, {"shop": contract}, Settings())]


def test_after_a_fix_of_the_contract_a_replay_loads_the_quarantined_rows(rejected):
    assert replayed(rejected) == [("shop_things", 2, 2)]
    landed_late = "select thing_id, _extra->>'Weight' from staging.shop_things where colour = 'blue' order by 1"
    assert query(rejected, landed_late) == [("a2", "2"), ("b2", "2")]


def test_after_a_fix_of_the_mapping_a_replay_loads_the_quarantined_rows(rejected):
    assert replayed(rejected, shop({"sql": {"colour": "replace(lower(colour), 'blue', 'green')"}})) == [("shop_things", 2, 2)]
    assert sorted(only(rejected, "colour")) == ["green", "green", "red", "red"]


def test_replayed_rows_keep_the_place_they_came_from(rejected):
    replayed(rejected)
    places = "select _source_uri, _source_row from staging.shop_things where colour = 'blue' order by 1"
    assert query(rejected, places) == [("landing/shop/things/a.csv", 2), ("landing/shop/things/b.csv", 2)]


def test_a_replay_is_a_batch_of_its_own_in_the_ledger(rejected):
    replayed(rejected)
    *_, last = ledger(rejected)
    assert (last["status"], last["rows_read"], last["rows_accepted"]) == ("replayed", 2, 2)
    assert query(rejected, "select distinct _batch_id, _seq from staging.shop_things where colour = 'blue'") == [
        (last["batch_id"], last["seq"])
    ]


def test_replayed_rows_are_marked_in_the_quarantine(rejected):
    replayed(rejected)
    batch = ledger(rejected)[-1]["batch_id"]
    assert query(rejected, "select distinct replayed_in from staging._rejected") == [(batch,)]
    assert list_rejected(rejected) == []


def test_a_second_replay_does_nothing(rejected):
    replayed(rejected)
    before = (contents(rejected), ledger(rejected))
    assert replayed(rejected) == []
    assert (contents(rejected), ledger(rejected)) == before


def test_a_replay_without_a_fix_changes_nothing(rejected):
    before = (contents(rejected), ledger(rejected), quarantine(rejected))
    assert replayed(rejected, shop()) == [("shop_things", 2, 0)]
    assert (contents(rejected), ledger(rejected), quarantine(rejected)) == before


def test_what_is_still_wrong_stays_in_quarantine(rejected, land):
    land(rejected, "shop/things/c.csv", "thing_id,seen_at,colour\nc1,2024-01-05,pink\n")
    ingest(rejected)
    assert replayed(rejected) == [("shop_things", 3, 2)]
    assert [json.loads(row["payload"])["colour"] for row in list_rejected(rejected)] == ["pink"]


def test_a_later_ingestion_does_not_load_replayed_rows_again(rejected):
    replayed(rejected)
    before = contents(rejected)
    ingest(rejected, MORE_COLOURS)
    assert contents(rejected) == before


def test_a_replay_advances_what_refreshes_take_in(rejected):
    replayed(rejected)
    assert State(rejected).progress("loaded") == ledger(rejected)[-1]["seq"]


def test_a_line_that_no_record_could_be_made_of_is_never_replayed(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05,x")
    assert (replayed(home), len(list_rejected(home))) == ([], 1)


def test_a_record_that_was_grouped_is_replayed_as_it_was(home, land):
    grouped = {"group_by": ["thing_id"], "sql": {"seen_at": "min(day)", "colour": "max(paint)"}}
    land(home, "shop/things/a.csv", csv_of("thing_id,day,paint", "t1,2024-01-05,blue", "t1,2024-01-06,blue"))
    ingest(home, shop(grouped))
    assert replayed(home, shop(grouped, columns=COLUMNS | {"colour": {"allowed": ["blue"]}})) == [("shop_things", 1, 1)]
    assert query(home, "select thing_id, seen_at, colour, _source_row from staging.shop_things") == [
        ("t1", datetime(2024, 1, 5), "blue", 1)
    ]


def test_an_entity_whose_mapping_is_wrong_does_not_stop_the_replay_of_others(rejected, land):
    other = {"description": "Others.", "kind": "record", "key": ["n"], "columns": {"n": {"type": "integer"}}}
    land(rejected, "shop/others/a.csv", "n\nx\n")
    ingest(rejected, shop(others=other))
    wrong = other | {"sources": [{"sql": {"n": "no_such_column"}}]}
    fixed = shop(columns=MORE_COLOURS.entities["things"].model_dump()["columns"], others=wrong)
    entities = dict(reversed(fixed.entities.items()))  # the wrong one first
    done = replay(rejected, {"shop": fixed.model_copy(update={"entities": entities})}, Settings())
    assert [(r.table, r.accepted, r.problem and "no_such_column" in r.problem) for r in done] == [
        ("shop_others", 0, True), ("shop_things", 2, None),
    ]  # fmt: skip
    assert sorted(only(rejected, "colour")) == ["blue", "blue", "red", "red"]


def test_the_quarantine_is_listed_newest_first_and_by_channel(rejected):
    listed = list_rejected(rejected, "shop", limit=1)
    assert [(row["channel"], row["entity"], row["kind"]) for row in listed] == [("shop", "things", "row")]
    assert list_rejected(rejected, "crm") == []


def test_the_columns_that_every_staging_table_carries_are_there(landed, home):
    landed("thing_id,seen_at", "t1,2024-01-05")
    described = [name for name, *_ in query(home, "describe staging.shop_things")]
    assert described == [*COLUMNS, *CARRIED]
    assert {"_batch_id", "_source_uri", "_source_row", "_loaded_at", "_extra"} <= set(CARRIED)  # DESIGN, "Warehouse"


def test_a_source_with_its_own_location_and_the_default_one_load_a_file_once(home, land):
    land(home, "shop/things/erp/a.csv", "thing_id,seen_at\nt1,2024-01-05\n")
    default, own = Source().model_dump(), Source(name="erp", location="shop/things/erp/*.csv").model_dump()
    ingest(home, shop(default, own))
    assert [batch["source"] for batch in ledger(home)] == ["erp"]


@pytest.mark.parametrize("name", ["o[1].csv", "p*.csv", "q?.csv", "it's.csv"])
def test_a_file_name_that_looks_like_a_pattern_names_one_file(home, name):
    """DuckDB expands patterns; beside each lies the file that it would also match."""
    folder = home.landing / "crm" / "contacts"
    folder.mkdir(parents=True)
    for other in ("o1.csv", "p2.csv", "q3.csv"):
        (folder / other).write_text(f"contact_id,updated_at\nother {other},2025-01-01\n")
    (folder / name).write_text("contact_id,updated_at\nitself,2025-01-01\n")
    ingest_channel(home, load_channels(home)["crm"], Settings.of(home))
    with home.connect("test") as connection:
        rows = connection.execute("select contact_id, count(*) from staging.crm_contacts group by 1 order by 1").fetchall()
    assert rows == [("itself", 1), ("other o1.csv", 1), ("other p2.csv", 1), ("other q3.csv", 1)]
