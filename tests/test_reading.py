"""What people and programs call a file of records: every encoding, delimiter, workbook, line and written value."""

import gzip
import json
import subprocess
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib.contracts import ChannelContract, Source
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.reading import MOST_COLUMNS, read_file
from dagster_project.lib.rejected import replay
from dagster_project.lib.settings import Settings
from dagster_project.lib.textfile import LONGEST_LINE, as_utf8

COLUMNS = {
    "thing_id": {"required": True},
    "seen_at": {"type": "timestamp"},
    "made_on": {"type": "date"},
    "name": {},
    "price": {"type": "decimal"},
    "ratio": {"type": "number"},
    "pieces": {"type": "integer"},
    "is_new": {"type": "boolean"},
    "phone": {"format": "phone"},
    "user_id": {},
    "details": {"type": "json"},
}


def shop(source: dict | None = None, **columns: dict) -> ChannelContract:
    things = {
        "description": "Things.",
        "kind": "record",
        "key": ["thing_id"],
        "identifiers": {"phone": "phone", "user_id": "user_id"},
        "columns": COLUMNS | columns,
    }
    if source is not None:
        things["sources"] = [source]
    content = {"channel": "shop", "description": "A shop.", "owner": "team:shop", "entities": {"things": things}}
    return ChannelContract.model_validate(content)


def ingest(home, source: dict | None = None, **columns: dict):
    return ingest_channel(home, shop(source, **columns), Settings())[0]


def query(home, sql: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(sql).fetchall()


def rows(home, *columns: str) -> list[tuple]:
    return query(home, f"select {', '.join(columns)} from staging.shop_things order by _source_uri, _source_row")


def reasons(home) -> dict[int, str]:
    return dict(query(home, "select source_row, reason from staging._rejected order by 1"))


def refusal(home, source: dict | None = None) -> str:
    ((_, reason),) = ingest(home, source).refused
    return reason


# Encodings

TEXT = 'thing_id,name\nt1,"王小明, 上海"\nt2,Ann\n'
WESTERN = 'thing_id,name\nt1,"Zoë Müller, Łódź"\nt2,Ann\n'.replace("Łódź", "Málaga – 5 €")
ENCODED = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with its mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "UTF-16 LE with its mark": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "UTF-16 BE with its mark": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 LE": TEXT.encode("utf-16-le"),
    "UTF-16 BE": TEXT.encode("utf-16-be"),
    "UTF-32 with its mark": TEXT.encode("utf-32"),
    "GB18030": TEXT.encode("gb18030"),
    "Windows-1252": WESTERN.encode("cp1252"),
    "Latin-1": WESTERN.replace("– 5 €", "\x8d").encode("latin-1"),
}
NAME = {"Windows-1252": "Zoë Müller, Málaga – 5 €", "Latin-1": "Zoë Müller, Málaga \x8d"}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ENCODED)
def test_the_encoding_of_a_csv_file_is_found_out(home, pack, encoding, packed):
    pack(home, f"shop/things/a.csv{packed}", ENCODED[encoding])
    ingest(home)
    assert rows(home, "thing_id", "name") == [("t1", NAME.get(encoding, "王小明, 上海")), ("t2", "Ann")]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "gb18030", "cp1252"])
def test_the_encoding_of_json_lines_is_found_out(home, pack, encoding, packed):
    name = "Zoë – é" if encoding == "cp1252" else "王小明"
    lines = [json.dumps({"thing_id": n, "name": name}, ensure_ascii=False) for n in ("t1", "t2")]
    pack(home, f"shop/things/a.jsonl{packed}", "\n".join(lines).encode(encoding))
    ingest(home)
    assert rows(home, "thing_id", "name") == [("t1", name), ("t2", name)]


def test_a_source_says_an_encoding_that_cannot_be_found_out(home, land):
    land(home, "shop/things/a.csv", TEXT.replace("小", "").encode("big5"))
    ingest(home, {"encoding": "big5"})
    assert rows(home, "name")[0] == ("王明, 上海",)


def test_a_file_that_is_not_in_the_encoding_its_source_says_is_refused(home, land):
    land(home, "shop/things/a.csv", TEXT.encode("utf-16"))
    assert "is not in the encoding gb18030" in refusal(home, {"encoding": "gb18030"})


def test_an_encoding_that_does_not_exist_is_an_error_of_the_source():
    with pytest.raises(ValueError, match="'klingon' is no character encoding"):
        Source(encoding="klingon")


def test_a_few_broken_lines_do_not_make_a_file_another_encoding(home, land):
    land(home, "shop/things/a.csv", b"thing_id,name\nt0,\xd5\xe2\xca\n" + "t1,上海王小明\n".encode())
    ingest(home)
    assert (rows(home, "name"), list(reasons(home))) == ([("上海王小明",)], [2])


CODECS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"]
# Latin letters, common Chinese and emoji: what the rule promises to tell apart; and everything that CSV has to quote.
WRITTEN = st.text(st.sampled_from("abcXYZ019 ,;|\t\"'\n#-王小明上海市客户的是一不了人我在有他这中大来😀"), max_size=12)


@given(names=st.lists(WRITTEN, min_size=1, max_size=6), codec=st.sampled_from(CODECS), delimiter=st.sampled_from(",;\t|"))
@settings(max_examples=40)
def test_any_text_comes_through_every_encoding_and_delimiter(new_home, land, names, codec, delimiter):
    names = [*names, "客户王小明在上海市有他的" * len(names)]  # one emoji, or one 一, proves no encoding
    text = f"thing_id{delimiter}name{delimiter}price\n" + "".join(
        f'{n}{delimiter}"{name.replace(chr(34), chr(34) * 2)}"{delimiter}1\n' for n, name in enumerate(names)
    )
    home = new_home()
    land(home, "shop/things/a.csv", text.encode(codec))
    ingest(home)
    assert rows(home, "name") == [(name.strip(" ") or None,) for name in names]


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\x00\ufeff"), max_size=30),
    codec=st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]),
)
def test_a_marked_file_is_read_by_its_mark_whatever_is_in_it(tmp_path_factory, text, codec):
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.csv").write_bytes(text.encode(codec))
    found = as_utf8(folder / "a.csv", "none", None, folder, lines=False)
    assert found.path.read_bytes().decode("utf-8-sig") == text


# Delimiters, line ends, headers


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_delimiter_is_found_out(home, land, delimiter, ending):
    table = [["thing_id", "name", "user_id"], ["t1", '"a, b; c | d"', "u1"]]
    land(home, f"shop/things/a.{ending}", "".join(delimiter.join(row) + "\n" for row in table))
    ingest(home)
    assert rows(home, "thing_id", "name", "user_id") == [("t1", "a, b; c | d", "u1")]


def test_of_two_possible_delimiters_the_records_tell(home, land):
    land(home, "shop/things/a.csv", "thing_id;Amount, net\nt1;1\nt2;2\n")
    ingest(home)
    assert rows(home, "thing_id") == [("t1",), ("t2",)]


def test_a_single_column_has_no_delimiter_whatever_is_in_it(home, land):
    land(home, "shop/things/a.csv", "thing_id\nt1;x\nt2;y\n")
    ingest(home)
    assert rows(home, "thing_id") == [("t1;x",), ("t2;y",)]


LINE_ENDS = {
    "returns in the header only": b'thing_id,name\r\nt1,"two\nlines"\nt2,b\n',
    "returns in the records only": b'thing_id,name\nt1,"two\nlines"\r\nt2,b\r\n',
    "in turns": b'thing_id,name\r\nt1,"two\nlines"\nt2,b\r\n',
    "line feeds inside quotes": b'thing_id,name\r\nt1,"two\nlines"\r\nt2,b\r\n',
    "returns alone": b'thing_id,name\rt1,"two\nlines"\rt2,b\r',
}


@pytest.mark.parametrize("content", LINE_ENDS.values(), ids=LINE_ENDS)
def test_lines_may_end_in_any_way(home, land, content):
    land(home, "shop/things/a.csv", content)
    ingest(home)
    assert rows(home, "thing_id", "name") == [("t1", "two\nlines"), ("t2", "b")]


def test_a_line_end_inside_quotes_is_left_as_it_is(home, land):
    land(home, "shop/things/a.csv", b'thing_id,name\nt1,"two\r\nlines"\r\nt2,b\n')
    ingest(home)
    assert rows(home, "name") == [("two\r\nlines",), ("b",)]


def test_a_stray_quote_among_mixed_line_ends_costs_its_line_and_not_the_file(home, land):
    land(home, "shop/things/a.csv", b'thing_id,name\r\nt1,5" pipe\nt2,b\r\nt3,c\n')
    ingest(home)
    assert rows(home, "thing_id")[-2:] == [("t2",), ("t3",)]


@pytest.mark.parametrize("lines", [2_000, 1_000_000], ids=["one buffer", "several buffers"])
def test_a_quote_that_swallows_many_lines_refuses_the_file(home, land, lines):
    """Quarantine could not hold them, and they would be gone without a word."""
    land(home, "shop/things/a.csv", 'thing_id,name\nt0,a\nt1,"open\n' + "t,a text that goes on and on and on\n" * lines)
    assert "opens a quote in line 3 that takes up many lines behind it" in refusal(home)


def test_a_quote_that_is_never_closed_quarantines_what_it_swallowed(home, land):
    land(home, "shop/things/a.csv", 'thing_id,name\nt0,a\nt1,"open\nt2,b\n')
    ingest(home)
    assert query(home, "select source_row, payload from staging._rejected") == [(3, 't1,"open\nt2,b\n')]


def test_a_line_that_is_too_long_to_read_is_quarantined(home, land):
    land(home, "shop/things/a.csv", f"thing_id,name\nt0,a\nt1,{'x' * 3_000_000}\nt2,b\n")
    ingest(home)
    assert (rows(home, "thing_id"), list(reasons(home))) == ([("t0",), ("t2",)], [3])


def test_a_header_that_comes_again_is_no_record(home, land):
    land(home, "shop/things/a.csv", "thing_id,name\nt1,a\nthing_id,name\nt2,b\n")
    load = ingest(home)
    assert (rows(home, "thing_id"), reasons(home)) == ([("t1",), ("t2",)], {3: "is the header again"})
    assert (load.read, load.accepted, load.rejected) == (3, 2, 1)


def test_empty_lines_before_the_header_are_no_header(home, land):
    land(home, "shop/things/a.csv", "\n\r\n\nthing_id,name\nt1,a\n")
    ingest(home)
    assert rows(home, "thing_id", "name") == [("t1", "a")]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", b"\xff\xfe"], ids=["bytes", "mark", "lines", "UTF-16"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_csv_file_of_nothing_is_refused(home, pack, content, packed):
    pack(home, f"shop/things/a.csv{packed}", content)
    assert "is empty, without even a header; remove it" in refusal(home)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "json.gz"])
def test_a_json_file_of_nothing_is_loaded_as_nothing(home, land, ending):
    land(home, f"shop/things/a.{ending}", "")
    load = ingest(home)
    assert (load.refused, load.files, load.read) == ([], 1, 0)


# Damage


def test_a_file_whose_ending_is_wrong_says_what_it_is(home, land, workbook):
    workbook("a.xlsx", [["thing_id"], ["t1"]]).rename(home.landing / "shop/things/a.csv")
    assert "is no text: it is a workbook or ZIP archive; give it the ending of what it is" in refusal(home)


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "broken"])
def test_a_damaged_packed_file_is_refused_and_others_go_on(home, pack, ending, damage):
    good = "thing_id\n" + "".join(f"t{n * 7919 % 1000}\n" for n in range(5000))
    path = pack(home, f"shop/things/a.{ending}", good.encode())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole[:40] + bytes(99) + whole[139:])
    pack(home, "shop/things/b.csv", b"thing_id\nb\n")
    load = ingest(home)
    assert ([reason.split(",")[0] for _, reason in load.refused], rows(home, "thing_id")) == (
        ["is damaged or cut off"],
        [("b",)],
    )


def test_a_cut_parquet_file_is_refused_with_the_remedy(home, land):
    import duckdb

    path = land(home, "shop/things/a.parquet", "")
    duckdb.execute(f"copy (select range::varchar as thing_id from range(9999)) to '{path}' (format parquet)")
    path.write_bytes(path.read_bytes()[:-100])
    reason = refusal(home)
    assert reason.startswith("cannot be read as parquet") and reason.endswith("repair the file and land it again")


# Size


def test_a_file_of_a_million_columns_is_refused(home, land):
    land(home, "shop/things/a.csv", ",".join(f"c{n}" for n in range(1_000_000)) + "\n1\n")
    assert f"has 1,000,000 columns, more than {MOST_COLUMNS:,}" in refusal(home)


def test_objects_of_a_million_keys_are_refused(home, land):
    land(home, "shop/things/a.jsonl", json.dumps({f"c{n}": 1 for n in range(1_000_000)}))
    assert f"has 1,000,000 columns, more than {MOST_COLUMNS:,}" in refusal(home)


READ = """
import sys
from pathlib import Path
import duckdb
from bench.measure import peak_memory
from dagster_project.lib.contracts import Source
from dagster_project.lib.reading import read_file
try:
    read_file(duckdb.connect(), Path(sys.argv[1]), Source(), Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
print(peak_memory() // 2**20)
"""


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "jsonl.gz", "csv.zst"])
def test_a_line_without_an_end_is_refused_in_little_memory(tmp_path, ending):
    """256 MiB here; 2 GiB behaves alike, as reading stops at the limit."""
    import zstandard

    path, start = tmp_path / f"a.{ending}", b"thing_id\n" if "csv" in ending else b'{"thing_id":"'
    packers = {"gz": gzip.open, "zst": zstandard.open}
    with packers.get(ending.split(".")[-1], open)(path, "wb") as file:
        file.write(start)
        for _ in range(256):
            file.write(b"x" * 2**20)
    done = subprocess.run([sys.executable, "-c", READ, path, tmp_path], capture_output=True, text=True, check=True)
    reason, megabytes = done.stdout.splitlines()
    assert reason.startswith(f"OnefoldError has a line of more than {LONGEST_LINE // 2**20} MiB")
    assert int(megabytes) < 512


def test_a_json_value_without_an_end_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"thing_id":"' + b"x" * 2**28)
    done = subprocess.run([sys.executable, "-c", READ, path, tmp_path], capture_output=True, text=True, check=True)
    reason, megabytes = done.stdout.splitlines()
    assert reason.startswith("OnefoldError cannot be read as json")
    assert int(megabytes) < 1024


# JSON

DEEP = {"thing_id": "t1", "contact": {"email": "a@b.example", "phones": ["138", "139"]}, "items": [{"sku": "x"}, {"sku": "y"}]}


def test_a_value_inside_nested_json_is_mapped_by_its_path(home, land):
    land(home, "shop/things/a.jsonl", json.dumps(DEEP))
    load = ingest(home, {"rename": {"name": "contact.email", "phone": "Contact.phones.1", "user_id": "items.1.sku"}})
    assert rows(home, "name", "phone", "user_id") == [("a@b.example", "139", "y")]
    ((extra,),) = rows(home, "_extra")
    assert json.loads(json.loads(extra)["contact"])["phones"] == ["138", "139"]
    assert load.unknown_columns == {"contact", "items"}


def test_a_required_column_may_lie_inside_nested_json(home, land):
    land(home, "shop/things/a.jsonl", json.dumps({"thing": {"id": "t1"}}) + "\n" + json.dumps({"thing": 5}))
    ingest(home, {"rename": {"thing_id": "thing.id"}})
    assert (rows(home, "thing_id"), reasons(home)) == ([("t1",)], {2: "thing_id is required and missing"})


def test_a_name_with_a_dot_comes_before_a_path(home, land):
    land(home, "shop/things/a.jsonl", json.dumps({"thing_id": "t1", "a.b": "flat", "a": {"b": "deep"}}))
    ingest(home, {"rename": {"name": "a.b"}})
    assert rows(home, "name") == [("flat",)]


def test_an_array_is_kept_as_json(home, land):
    land(home, "shop/things/a.jsonl", json.dumps(DEEP))
    ingest(home, {"rename": {"details": "items"}, "sql": {"name": "contact ->> '$.email'"}})
    assert [(json.loads(details), name) for details, name in rows(home, "details", "name")] == [
        ([{"sku": "x"}, {"sku": "y"}], "a@b.example")
    ]


def test_values_of_mixed_types_in_one_column_are_kept_as_text(home, land):
    given = [1, "1", {"a": 1}, [1, 2], True, 1.5, None]
    land(home, "shop/things/a.jsonl", "\n".join(json.dumps({"thing_id": n, "name": v}) for n, v in enumerate(given)))
    ingest(home)
    assert [v for (v,) in rows(home, "name")] == ["1", "1", '{"a":1}', "[1,2]", "true", "1.5", None]


OBJECTS = [{"thing_id": "t1", "details": {"a": [1]}}, {"thing_id": "t2", "Name": "王"}]
JSON_FILES = {
    "an array over many lines": json.dumps(OBJECTS, indent=2, ensure_ascii=False),
    "an array in one line": json.dumps(OBJECTS),
    "objects over many lines": "\n".join(json.dumps(o, indent=2) for o in OBJECTS),
    "lines": "\n".join(json.dumps(o) for o in OBJECTS),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("content", JSON_FILES.values(), ids=JSON_FILES)
def test_a_json_file_holds_its_objects_in_any_layout(home, land, content, packed):
    land(home, f"shop/things/a.json{packed}", content)
    ingest(home)
    assert rows(home, "thing_id", "name", "details") == [("t1", None, '{"a":[1]}'), ("t2", "王", None)]


def test_an_array_element_that_is_no_object_is_quarantined_by_its_place(home, land):
    land(home, "shop/things/a.json", '[{"thing_id":"t1"},\n 5, {"thing_id":"t2"}]')
    ingest(home)
    assert (rows(home, "thing_id"), reasons(home)) == ([("t1",), ("t2",)], {2: "not a JSON object"})


def test_a_cut_json_array_is_refused(home, land):
    land(home, "shop/things/a.json", json.dumps(OBJECTS, indent=2)[:-10])
    assert refusal(home).startswith("cannot be read as json")


# Times

UNMISTAKABLE = {
    "2026-01-03T10:05:00Z": datetime(2026, 1, 3, 10, 5),
    "2026/1/3": datetime(2026, 1, 3),
    "2026/1/3 9:05": datetime(2026, 1, 3, 9, 5),
    "2026.1.3 09:05:30": datetime(2026, 1, 3, 9, 5, 30),
    "3.1.2026": datetime(2026, 1, 3),
    "3.1.2026 18:05": datetime(2026, 1, 3, 18, 5),
    "03.01.2026 18:05:09,250": datetime(2026, 1, 3, 18, 5, 9, 250000),
    "3 Jan 2026": datetime(2026, 1, 3),
    "Sat, 3 January 2026 6:05 PM": datetime(2026, 1, 3, 18, 5),
    "Sat, 03 Jan 2026 10:05:00 GMT": datetime(2026, 1, 3, 10, 5),
    "03 Jan 2026 10:05:00 +0800": datetime(2026, 1, 3, 2, 5),
    "03-Jan-2026": datetime(2026, 1, 3),
    "Jan 3, 2026": datetime(2026, 1, 3),
    "January 3rd, 2026 12:05 am": datetime(2026, 1, 3, 0, 5),
    "2026年1月3日": datetime(2026, 1, 3),
    "2026年1月3日 上午10:05": datetime(2026, 1, 3, 10, 5),
    "2026年1月3日 下午3:05:06": datetime(2026, 1, 3, 15, 5, 6),
    "2026年01月03日 15时05分06秒": datetime(2026, 1, 3, 15, 5, 6),
    "2026-01-03 下午 12:05": datetime(2026, 1, 3, 12, 5),
    "2026-01-03 12:05 AM": datetime(2026, 1, 3, 0, 5),
    "2026-01-03 3:05:06 p.m.": datetime(2026, 1, 3, 15, 5, 6),
    "3/3/2026": datetime(2026, 3, 3),
    "1767434700": datetime(2026, 1, 3, 10, 5),
    "1767434700000": datetime(2026, 1, 3, 10, 5),
    "1767434700000000": datetime(2026, 1, 3, 10, 5),
    "20260103": datetime(2026, 1, 3),
    "1900-01-01": datetime(1900, 1, 1),
    "2100-12-31 23:59:59": datetime(2100, 12, 31, 23, 59, 59),
}
NO_TIMES = ["0001-01-01", "1899-12-31", "9999-12-31", "12026-01-03", "2101-01-01", "3 Foo 2026", "2026/13/3", "31.2.2026",
            "2026年1月32日", "10:05", "46025", "2026-01-03 25:05 PM", "03/04/2026 99:99"]  # fmt: skip


@pytest.fixture(scope="module")
def times(new_home, land):
    """All written times in one file: what became of each."""
    home, written = new_home(), [*UNMISTAKABLE, *NO_TIMES]
    land(home, "shop/things/a.jsonl", "\n".join(json.dumps({"thing_id": n, "seen_at": w}) for n, w in enumerate(written)))
    ingest(home)
    read = {written[int(n)]: value for n, value in rows(home, "thing_id", "seen_at")}
    return read, {written[row - 1]: reason for row, reason in reasons(home).items()}


@pytest.mark.parametrize("written", UNMISTAKABLE)
def test_a_time_is_read_in_the_form_in_which_people_write_it(times, written):
    assert times[0].get(written) == UNMISTAKABLE[written]


@pytest.mark.parametrize("written", NO_TIMES)
def test_what_is_no_time_is_quarantined(times, written):
    assert f"seen_at '{written}'" in times[1].get(written, "")


DAY_FIRST, MONTH_FIRST = [date(2026, 4, 3), date(2026, 4, 13)], [date(2026, 3, 4), date(2026, 4, 13)]
UNCLEAR = "made_on '03/04/2026' may have the day or the month first; set date_order in its source"


def dates(home, land, *written: str, source: dict | None = None) -> list[date]:
    land(home, "shop/things/a.csv", "thing_id,made_on\n" + "".join(f"{n},{text}\n" for n, text in enumerate(written)))
    ingest(home, source)
    return [value for (value,) in rows(home, "made_on")]


def test_a_date_that_can_only_be_day_first_tells_the_order_of_its_column(home, land):
    assert dates(home, land, "03/04/2026", "13/04/2026") == DAY_FIRST


def test_a_date_that_can_only_be_month_first_tells_the_order_of_its_column(home, land):
    assert dates(home, land, "03/04/2026", "04/13/2026") == MONTH_FIRST


@pytest.mark.parametrize("others", [["05/04/2026"], ["13/04/2026", "04/13/2026"]], ids=["no proof", "proof of both"])
def test_a_date_of_unknown_order_is_quarantined_with_the_remedy(home, land, others):
    clear = [text for text in others if "13" in text]
    assert dates(home, land, "03/04/2026", *others) == [date(2026, 4, 13)] * len(clear)
    assert reasons(home)[1] == UNCLEAR


def test_another_columns_dates_prove_nothing(home, land):
    land(home, "shop/things/a.csv", "thing_id,made_on,seen_at\nt1,03/04/2026,13/04/2026\n")
    ingest(home)
    assert reasons(home) == {1: UNCLEAR}


def test_another_files_dates_prove_nothing(home, land):
    land(home, "shop/things/b.csv", "thing_id,made_on\nt9,13/04/2026\n")
    assert dates(home, land, "03/04/2026") == [date(2026, 4, 13)]
    assert reasons(home) == {1: UNCLEAR}


@pytest.mark.parametrize("order, expected", [("dmy", date(2026, 4, 3)), ("mdy", date(2026, 3, 4))])
def test_a_source_says_the_order(home, land, order, expected):
    assert dates(home, land, "03/04/2026", "03-04-2026", "03/04/26", source={"date_order": order}) == [expected] * 3


def test_a_time_format_says_the_order_too(home, land):
    source = {"time_format": "%d/%m/%Y %H:%M"}
    assert dates(home, land, "03/04/2026 10:00", "03/04/2026", "03/04/2026 25:00", source=source) == [date(2026, 4, 3)] * 2
    assert reasons(home) == {3: "made_on '03/04/2026 25:00' is not a date"}


def test_a_source_says_that_years_come_first(home, land):
    assert dates(home, land, "26/03/04", "2026/3/4", source={"date_order": "ymd"}) == [date(2026, 3, 4)] * 2


def test_a_date_against_the_order_that_a_source_says_is_quarantined(home, land):
    assert dates(home, land, "04/13/2026", source={"date_order": "dmy"}) == []
    assert reasons(home) == {1: "made_on '04/13/2026' is not a date"}


def test_years_of_two_digits_are_read_only_where_the_order_is_said(home, land):
    assert dates(home, land, "13/04/26", "13/04/2026") == [date(2026, 4, 13)]
    assert "set date_order" in reasons(home)[1]


def test_an_unclear_date_is_replayed_once_its_source_says_the_order(home, land):
    dates(home, land, "03/04/2026")
    replay(home, {"shop": shop({"date_order": "dmy"})}, Settings())
    assert rows(home, "made_on") == [(date(2026, 4, 3),)]


def test_rows_that_are_replayed_prove_nothing_about_each_other(home, land):
    """They come from several files."""
    land(home, "shop/things/a.csv", "thing_id,made_on,pieces\nt1,03/04/2026,1\n")
    land(home, "shop/things/b.csv", "thing_id,made_on,pieces\nt2,13/04/2026,x\n")
    ingest(home)
    replay(home, {"shop": shop({"sql": {"pieces": "nullif(pieces, 'x')"}})}, Settings())
    assert rows(home, "thing_id", "made_on") == [("t2", date(2026, 4, 13))]


@given(
    day=st.dates(date(1900, 1, 1), date(2100, 12, 31)), order=st.sampled_from(["dmy", "mdy"]), mark=st.sampled_from("/-"),
)  # fmt: skip
@settings(max_examples=20)
def test_a_proven_order_never_reads_a_date_as_another(new_home, land, day, order, mark):
    def written(d: date) -> str:
        places = [d.day, d.month, d.year] if order == "dmy" else [d.month, d.day, d.year]
        return mark.join(map(str, places))

    assert dates(new_home(), land, written(day), written(date(2026, 4, 13))) == [day, date(2026, 4, 13)]


# Numbers


def prices(home, land, *written: str, source: dict | None = None) -> list[Decimal]:
    land(home, "shop/things/a.csv", "thing_id\tprice\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(written)))
    ingest(home, source)
    return [value for (value,) in rows(home, "price")]


POINTS = {"1,234.50": "1234.5", "1,234": "1234", "1234.5": "1234.5", "¥1,234.50": "1234.5", "￥ 12": "12", "12.30元": "12.3",
          "(12.30)": "-12.3", "($1,200.00)": "-1200", "-€5": "-5", "€-5": "-5", "1 234.50": "1234.5", "1’234.50": "1234.5",
          "1,234,567": "1234567", "1e3": "1000", "+7": "7", ".5": "0.5", "1.234": "1.234"}  # fmt: skip
COMMAS = {"1.234,56": "1234.56", "1234,5": "1234.5", "1 234,56": "1234.56", "1\u202f234,56 €": "1234.56", "0,99": "0.99",
          "1.234": "1234", "1,234": "1.234", "(12,30)": "-12.3", "1.234.567": "1234567", "7": "7"}  # fmt: skip


@pytest.mark.parametrize("forms", [POINTS, COMMAS], ids=["points", "commas"])
def test_a_number_is_read_as_the_others_of_its_column_are_written(home, land, forms):
    assert prices(home, land, *forms) == [Decimal(value) for value in forms.values()]


@pytest.mark.parametrize("written, expected", [("1,234", "1234"), ("1.234", "1.234"), ("1,234.5", "1234.5")])
def test_a_number_alone_is_read_with_a_decimal_point(home, land, written, expected):
    assert prices(home, land, written) == [Decimal(expected)]


def test_a_source_says_what_separates_decimals(home, land):
    assert prices(home, land, "1,234", "1.234", source={"decimal": ","}) == [Decimal("1.234"), Decimal("1234")]


def test_a_number_against_the_separator_that_a_source_says_is_quarantined(home, land):
    assert prices(home, land, "1234,5", source={"decimal": "."}) == []
    assert reasons(home) == {1: "price '1234,5' is not a decimal"}


def test_where_both_separators_are_proven_only_clear_numbers_are_read(home, land):
    assert prices(home, land, "1,5", "2.5", "7", "1,234", "1.234") == [Decimal("1.5"), Decimal("2.5"), Decimal(7)]
    unclear = "price '{}' may have thousands or decimals after its separator; set decimal in its source"
    assert reasons(home) == {4: unclear.format("1,234"), 5: unclear.format("1.234")}


@pytest.mark.parametrize("written", ["12 yuan", "1,23,4", "1.2.3", "--5", "(5", "12 34", "0x1F", "½"])
def test_what_is_no_number_is_quarantined(home, land, written):
    assert prices(home, land, written) == []
    assert reasons(home) == {1: f"price '{written}' is not a decimal"}


def test_integers_and_fractions_are_written_as_prices_are(home, land):
    land(home, "shop/things/a.csv", 'thing_id,pieces,ratio\n1,"1,234","0,5"\n2,"12,345,678","1.234,5"\n3,1.5,\n')
    ingest(home)
    assert rows(home, "pieces", "ratio") == [(1234, 0.5), (12345678, 1234.5)]
    assert reasons(home) == {3: "pieces '1.5' is not an integer"}


# Ids that a spreadsheet took for numbers


def identified(home, land, column: str, written: str, **columns: dict) -> list[tuple]:
    land(home, "shop/things/a.csv", f"thing_id;{column}\nt1;{written}\n")
    ingest(home, None, **columns)
    return rows(home, column)


@pytest.mark.parametrize("written", ["8.613812345678E+12", "8,613812345678E+12", "8.6138123456780e12", "8613812345678.0",
                                     "8613812345678"])  # fmt: skip
def test_a_phone_whose_digits_are_all_there_is_restored(home, land, written):
    assert identified(home, land, "phone", written) == [("8613812345678",)]


@pytest.mark.parametrize("written", ["8.61381E+12", "8.61381234567E+12", "8,61381E+12"])
def test_an_optional_phone_that_lost_digits_is_kept_as_it_came_and_is_no_phone(home, land, written):
    assert identified(home, land, "phone", written) == [(written,)]
    assert query(home, "select e164 from staging._phones where e164 is not null") == []


def test_a_required_phone_that_lost_digits_is_quarantined_with_the_remedy(home, land):
    assert identified(home, land, "phone", "8.61381E+12", phone={"format": "phone", "required": True}) == []
    assert reasons(home) == {
        1: "phone '8.61381E+12' has lost digits, as spreadsheets shorten long numbers; "
        "format the column as text and export again"
    }


def test_an_id_that_lost_digits_names_nobody(home, land):
    """Two customers' ids would look the same."""
    assert identified(home, land, "user_id", "1.23457E+17") == []
    assert "has lost digits" in reasons(home)[1]


@pytest.mark.parametrize("written, kept", [("1.23E+02", "123"), ("12E3", "12E3"), ("1e5f", "1e5f"), ("1001.0", "1001.0")])
def test_an_id_is_kept_as_it_is_unless_a_spreadsheet_wrote_it(home, land, written, kept):
    assert identified(home, land, "user_id", written) == [(kept,)]


# Workbooks

SHEET = [
    ["thing_id", "seen_at", "made_on", "name", "price", "ratio", "pieces", "is_new", "phone"],
    ["t1", datetime(2026, 1, 3, 10, 5), date(2026, 1, 3), 'two\nlines, "q"', 1234.5, 0.1, 3, True, 8613812345678.0],
    ["t2", None, None, "王小明", -2, None, None, False, "+86 138 1234 5678"],
]
READ_SHEET = [
    ("t1", datetime(2026, 1, 3, 10, 5), date(2026, 1, 3), 'two\nlines, "q"', Decimal("1234.5"), 0.1, 3, True, "8613812345678"),
    ("t2", None, None, "王小明", Decimal(-2), None, None, False, "+86 138 1234 5678"),
]


@pytest.fixture
def workbook(home):
    """Writes a workbook of one sheet for each list of rows; returns its path."""

    def write(name: str, *sheets: list[list], change=None) -> Path:
        book = openpyxl.Workbook()
        book.remove(book.active)
        for number, content in enumerate(sheets, 1):
            sheet = book.create_sheet(f"Sheet{number}")
            for row in content:
                sheet.append(row)
            if change:
                change(sheet)
        path = home.landing / "shop" / "things" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        book.save(path)
        return path

    return write


@pytest.fixture
def pack():
    """Writes bytes below a home's landing/, packed as the ending says."""

    def write(home, name: str, content: bytes) -> Path:
        import zstandard

        path = home.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        packers = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}
        path.write_bytes(packers.get(path.suffix, bytes)(content))
        return path

    return write


def test_a_workbook_gives_what_a_csv_file_of_it_would(home, workbook):
    workbook("a.xlsx", SHEET)
    ingest(home)
    assert rows(home, *SHEET[0]) == READ_SHEET


def test_empty_rows_and_columns_around_a_sheets_table_are_no_data(home, workbook):
    def move(sheet):
        sheet.move_range(f"A1:I{len(SHEET)}", rows=3, cols=2)
        sheet.append([])
        sheet["C9"] = "t3"

    workbook("a.xlsx", SHEET, change=move)
    load = ingest(home)
    assert (rows(home, *SHEET[0])[:2], rows(home, "thing_id", "_source_row")[2:]) == (READ_SHEET, [("t3", 3)])
    assert (load.unknown_columns, load.rejected) == (set(), 0)


def test_the_first_sheet_is_read_unless_the_source_says_another(home, workbook):
    workbook("a.xlsx", [["thing_id"], ["first"]], [["thing_id"], ["second"]])
    ingest(home)
    ingest(home, {"sheet": "Sheet2", "name": "second"})
    assert sorted(rows(home, "thing_id")) == [("first",), ("second",)]


def test_a_sheet_that_is_not_there_is_refused_with_those_that_are(home, workbook):
    workbook("a.xlsx", SHEET, SHEET)
    assert "has no sheet 'Data' but Sheet1, Sheet2; correct `sheet`" in refusal(home, {"sheet": "Data"})


def test_a_merged_cells_value_is_in_its_first_cell(home, workbook):
    table = [["thing_id", "name"], ["t1", "both"], ["t2", None]]
    workbook("a.xlsx", table, change=lambda sheet: sheet.merge_cells("B2:B3"))
    ingest(home)
    assert rows(home, "thing_id", "name") == [("t1", "both"), ("t2", None)]


def test_a_formula_gives_its_last_result(home, workbook):
    import zipfile

    path = workbook("a.xlsx", [["thing_id", "pieces", "name"], ["t1", "=1+1", "=1/0"]])
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    name = "xl/worksheets/sheet1.xml"
    assert parts[name].count(b"<v></v>") + parts[name].count(b"<v />") + parts[name].count(b"<v/>") == 2
    for empty in (b"<v></v>", b"<v />", b"<v/>"):
        parts[name] = parts[name].replace(empty, b"<v>2</v>", 1)
    parts[name] = parts[name].replace(b'<c r="C2">', b'<c r="C2" t="e">')
    for empty in (b"<v></v>", b"<v />", b"<v/>"):
        parts[name] = parts[name].replace(empty, b"<v>#DIV/0!</v>")
    with zipfile.ZipFile(path, "w") as book:
        for part, content in parts.items():
            book.writestr(part, content)
    ingest(home)
    assert rows(home, "pieces", "name") == [(2, None)]


def test_days_that_a_workbook_shows_as_numbers_are_dates(home, workbook):
    """46025 is 3 January 2026, as Excel's =DATEVALUE has it."""
    workbook("a.xlsx", [["thing_id", "seen_at", "made_on"], ["t1", 46025.75, 46025]])
    ingest(home)
    assert rows(home, "seen_at", "made_on") == [(datetime(2026, 1, 3, 18), date(2026, 1, 3))]


def test_a_workbooks_days_are_read_in_a_replay_too(home, workbook):
    workbook("a.xlsx", [["thing_id", "made_on", "pieces"], ["t1", 46025, "x"]])
    ingest(home)
    replay(home, {"shop": shop({"sql": {"pieces": "nullif(pieces, 'x')"}})}, Settings())
    assert rows(home, "made_on") == [(date(2026, 1, 3),)]


def test_cells_of_any_kind_become_text_without_a_locale(home, workbook):
    cells = [time(9, 5), timedelta(hours=30), 1e20, 0.1 + 0.2, 123456789012345, "=#N/A", True, ""]
    workbook("a.xlsx", [["thing_id", "name"], *([n, cell] for n, cell in enumerate(cells))])
    ingest(home)
    expected = ["09:05:00", "30:00:00", "1E+20", "0.3", "123456789012345", None, "true", None]
    assert [name for (name,) in rows(home, "name")] == expected


def test_an_id_longer_than_a_workbook_can_keep_names_nobody(home, workbook):
    workbook("a.xlsx", [["thing_id", "user_id"], ["t1", 1234567890123456789]])
    ingest(home)
    assert "has lost digits" in reasons(home)[1]


@pytest.mark.parametrize("content", [[], [[]]], ids=["sheet", "row"])
def test_an_empty_sheet_is_refused(home, workbook, content):
    workbook("a.xlsx", content)
    assert "is empty, without even a header" in refusal(home)


@pytest.mark.parametrize("ending", ["xlsx", "xlsb", "xls", "ods"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 rubbish", b"rubbish"], ids=["empty", "cut", "rubbish"])
def test_a_damaged_workbook_is_refused_and_others_go_on(home, land, ending, content):
    land(home, f"shop/things/a.{ending}", content)
    land(home, "shop/things/b.csv", "thing_id\nb\n")
    ((_, reason),) = ingest(home).refused
    assert "is no readable workbook" in reason and reason.endswith("land it again")
    assert rows(home, "thing_id") == [("b",)]


@pytest.mark.parametrize("ending", ["xlsx", "xls"])
def test_an_encrypted_workbook_is_refused_with_the_remedy(home, land, ending):
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
    land(home, f"shop/things/a.{ending}", head + "EncryptedPackage".encode("utf-16-le") + bytes(480))
    assert "is protected by a password" in refusal(home)


def test_a_packed_workbook_is_refused_with_the_remedy(home, land):
    land(home, "shop/things/a.xlsx.gz", b"PK")
    assert "land it without .gz or .zst" in refusal(home)


def test_a_sheet_that_reaches_to_the_far_corner_is_refused(home, workbook):
    """The reader would ask for the memory of all cells up to there, and end the process."""

    def fill(sheet):
        sheet["XFD1048576"] = "x"

    workbook("a.xlsx", SHEET, change=fill)
    assert "has a sheet that reaches to XFD1048576" in refusal(home)


def test_an_open_document_is_read_as_a_workbook_is(home):
    import zipfile

    path = home.landing / "shop/things/a.ods"
    path.parent.mkdir(parents=True)
    cells = [
        ["<text:p>thing_id</text:p>", "<text:p>made_on</text:p>", "<text:p>price</text:p>"],
        ["<text:p>t1</text:p>", None, None],
    ]
    string = '<table:table-cell office:value-type="string">{}</table:table-cell>'
    day = (
        '<table:table-cell office:value-type="date" office:date-value="2026-01-03"><text:p>03.01.26</text:p></table:table-cell>'
    )
    price = '<table:table-cell office:value-type="float" office:value="12.5"><text:p>12,50</text:p></table:table-cell>'
    table = "".join(
        f"<table:table-row>{row}</table:table-row>"
        for row in ("".join(map(string.format, cells[0])), string.format(cells[1][0]) + day + price)
    )
    spaces = " ".join(
        f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{short}:1.0"' for short in ("office", "table", "text")
    )
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        book.writestr(
            "META-INF/manifest.xml", '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
        )
        book.writestr(
            "content.xml",
            f'<office:document-content {spaces} office:version="1.2"><office:body><office:spreadsheet>'
            f'<table:table table:name="Data">{table}</table:table></office:spreadsheet>'
            "</office:body></office:document-content>",
        )
    ingest(home)
    assert rows(home, "thing_id", "made_on", "price") == [("t1", date(2026, 1, 3), Decimal("12.5"))]


def test_rows_of_a_file_that_several_threads_read_are_numbered_as_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    with file.open("w") as lines:
        lines.writelines(f'{{"n": {n}, "padding": "{"x" * 400}"}}\n' for n in range(1, 200_001))
    connection = duckdb.connect(config={"threads": 4})
    read_file(connection, file, Source(), tmp_path)
    wrong = connection.execute("select count(*), count(*) filter (_row <> cast(n as bigint)) from raw").fetchone()
    assert wrong == (200_000, 0)


NAMES = st.sampled_from(["a", "A", "b", "客户", "a.b", "a/b", "a~b", "it's", 'say "hi"', "", "_row", "rowid", "select"])
# Floats from 1e16 up are spelled 1e+16 in the one way and 10000000000000000.0 in the other: the same number.
FRACTIONS = st.floats(min_value=-1e15, max_value=1e15)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FRACTIONS | WRITTEN | st.just("\x00"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=6))
def test_lines_of_json_that_are_read_at_once_are_those_that_are_read_line_by_line(tmp_path_factory, records) -> None:
    """A line that is no object has the whole file read line by line."""
    folder = tmp_path_factory.mktemp("lines")

    def raw(*more: str) -> tuple:
        file = folder / "a.jsonl"
        file.write_text("\n".join([*(json.dumps(record) for record in records), *more]))
        connection = duckdb.connect()
        read = read_file(connection, file, Source(), folder)
        return read.columns, read.records, connection.execute("from raw order by _row").fetchall()

    assert raw() == raw("[]")
