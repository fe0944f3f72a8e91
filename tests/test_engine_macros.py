"""Every macro of dbt/macros/engine/ that is an expression gives the same on DuckDB and on Spark, and what is written here."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import spark
from jinja2 import Environment

from dagster_project.lib import dbt
from dagster_project.lib.home import Home

FOLDER = dbt.PROJECT / "macros" / "engine"
# What is no expression: materialisations, and parts of statements, which the tests of refreshes run.
STATEMENTS = {
    "cursor", "delete_rows", "kept_cursor", "materialized", "python_step", "replace_rows", "tables",
}  # fmt: skip

at = datetime


@dataclass(frozen=True)
class Case:
    """One call of a macro, and rows of its arguments with the result; of an aggregate the arguments are lists, one a group."""

    call: str  # Jinja
    columns: dict[str, str]  # arguments by name, with their types
    rows: list[tuple[Any, ...]]
    is_aggregate: bool = False


CASES: dict[str, list[Case]] = {
    "dateadd": [
        Case(
            "{{ dbt.dateadd('day', 'n', 'v') }}",
            {"v": "timestamp", "n": "bigint"},
            [
                (at(2026, 1, 30, 23, 59, 59, 999999), 2, at(2026, 2, 1, 23, 59, 59, 999999)),
                (at(2024, 2, 28, 12), 1, at(2024, 2, 29, 12)),
                (at(2026, 1, 1), -730, at(2024, 1, 2)),
                (at(1969, 12, 31, 23, 59, 59, 1), -1, at(1969, 12, 30, 23, 59, 59, 1)),
                (None, 1, None),
                (at(2026, 1, 1), None, None),
            ],
        ),
        Case(
            "{{ dbt.dateadd('month', 'n', 'v') }}",
            {"v": "timestamp", "n": "int"},
            [
                (at(2026, 1, 31, 1, 2, 3, 4), 1, at(2026, 2, 28, 1, 2, 3, 4)),
                (at(2024, 1, 31), 1, at(2024, 2, 29)),
                (at(2026, 2, 28), 1, at(2026, 3, 28)),
                (at(2026, 3, 31), -1, at(2026, 2, 28)),
                (at(2026, 1, 31), -11, at(2025, 2, 28)),
            ],
        ),
        Case(
            "{{ dbt.dateadd('year', -120, 'v') }}",
            {"v": "timestamp"},
            [(at(2024, 2, 29, 0, 0, 0, 5), at(1904, 2, 29, 0, 0, 0, 5))],
        ),
        Case("{{ dbt.dateadd('year', 1, 'v') }}", {"v": "timestamp"}, [(at(2024, 2, 29), at(2025, 2, 28))]),
        Case(
            "{{ dbt.dateadd('hour', '-n', 'v') }}",
            {"v": "timestamp", "n": "int"},
            [(at(2026, 1, 1, 0, 30), 1, at(2025, 12, 31, 23, 30))],
        ),
        Case(
            "{{ dbt.dateadd('minute', 'n', 'v') }}",
            {"v": "timestamp", "n": "bigint"},
            [
                (at(2026, 1, 1, 0, 0, 0, 1), -30, at(2025, 12, 31, 23, 30, 0, 1)),
                (at(2026, 1, 1), 3_000_000, at(2031, 9, 15, 8)),
            ],
        ),
        Case(
            "{{ dbt.dateadd('second', 'n', 'v') }}",
            {"v": "timestamp", "n": "bigint"},
            [(at(2026, 1, 1), 90, at(2026, 1, 1, 0, 1, 30))],
        ),
        Case("{{ dbt.dateadd('day', 7, 'v') }}", {"v": "date"}, [(date(2026, 12, 28), at(2027, 1, 4)), (None, None)]),
    ],
    "datediff": [
        Case(
            "{{ dbt.datediff('a', 'b', 'day') }}",
            {"a": "timestamp", "b": "timestamp"},
            [
                (at(2026, 1, 1, 23, 59, 59, 999999), at(2026, 1, 2), 1),
                (at(2026, 1, 2), at(2026, 1, 2, 23, 59, 59, 999999), 0),
                (at(2026, 1, 2), at(2026, 1, 1, 23), -1),
                (at(1969, 12, 31, 23), at(1970, 1, 1), 1),
                (None, at(2026, 1, 1), None),
                (at(2026, 1, 1), None, None),
            ],
        ),
        Case(
            "{{ dbt.datediff('a', 'b', 'day') }}", {"a": "date", "b": "timestamp"}, [(date(2024, 2, 28), at(2024, 3, 1, 12), 2)]
        ),
        Case(
            "{{ dbt.datediff('a', 'b', 'month') }}",
            {"a": "date", "b": "date"},
            [
                (date(2026, 1, 31), date(2026, 2, 1), 1),
                (date(2026, 2, 28), date(2026, 3, 31), 1),
                (date(2026, 3, 31), date(2026, 2, 28), -1),
                (date(2025, 12, 31), date(2026, 1, 1), 1),
                (date(2026, 3, 1), date(2026, 3, 31), 0),
            ],
        ),
        Case(
            "{{ dbt.datediff('a', 'b', 'minute') }}",
            {"a": "timestamp", "b": "timestamp"},
            [
                (at(2026, 1, 1, 0, 0, 59), at(2026, 1, 1, 0, 1), 1),
                (at(2026, 1, 1, 0, 0, 1), at(2026, 1, 1, 0, 0, 59), 0),
                (at(2026, 1, 1, 0, 1), at(2026, 1, 1, 0, 0, 59, 999999), -1),
                (at(2026, 1, 1), at(2026, 1, 1, 8, 30), 510),
            ],
        ),
        Case(
            "{{ dbt.datediff('a', 'b', 'hour') }}",
            {"a": "timestamp", "b": "timestamp"},
            [(at(2026, 1, 1, 0, 59), at(2026, 1, 1, 1, 1), 1)],
        ),
        Case("{{ dbt.datediff('a', 'b', 'year') }}", {"a": "date", "b": "date"}, [(date(2025, 12, 31), date(2026, 1, 1), 1)]),
    ],
    "decimal_of": [
        Case(
            "{{ decimal_of('v', 4) }}",
            {"v": "double"},
            [
                (73.20655, Decimal("73.2065")),  # written 73.20655, but times 10000 it is less than 732065.5
                (1.00005, Decimal("1.0001")),
                (-1.00005, Decimal("-1.0001")),
                (0.00004999, Decimal("0.0000")),
                (-0.0, Decimal("0.0000")),
                (12345678901.23456, Decimal("12345678901.2346")),
                (None, None),
            ],
        ),
        Case("{{ decimal_of('v', 12) }}", {"v": "double"}, [(1 / 3, Decimal("0.333333333333")), (1e-12, Decimal("1e-12"))]),
        Case("{{ decimal_of('cast(a as double) / b', 6) }}", {"a": "bigint", "b": "bigint"}, [(1, 128, Decimal("0.007813"))]),
    ],
    "distinct_text": [
        Case(
            "{{ distinct_text('v') }}",
            {"v": "string"},
            [
                (["b", "a", "b", None], "a,b"),
                (["ä", "z", "Z", "中", "𝒳", "ﬀ"], "Z,z,ä,中,ﬀ,𝒳"),
                (["", "a"], ",a"),
                ([""], ""),
                ([None, None], None),
            ],
            is_aggregate=True,
        ),
    ],
    "epoch_micros": [
        Case(
            "{{ epoch_micros('v') }}",
            {"v": "timestamp"},
            [
                (at(1970, 1, 1), 0),
                (at(1969, 12, 31, 23, 59, 59, 999999), -1),
                (at(2026, 3, 29, 1, 30, 0, 123456), 1774747800123456),
                (at(1, 1, 1), -62135596800000000),
                (at(9999, 12, 31, 23, 59, 59, 999999), 253402300799999999),
                (None, None),
            ],
        ),
        Case("{{ epoch_micros('v') }}", {"v": "date"}, [(date(1970, 1, 2), 86400000000)]),
    ],
    "in_time_zone": [
        Case(
            "{{ in_time_zone('v', 'Europe/Berlin') }}",
            {"v": "timestamp"},
            [
                (at(2026, 3, 29, 0, 59, 59, 999999), at(2026, 3, 29, 1, 59, 59, 999999)),
                (at(2026, 3, 29, 1), at(2026, 3, 29, 3)),  # summer time begins
                (at(2026, 10, 25, 0, 30), at(2026, 10, 25, 2, 30)),  # an hour comes twice
                (at(2026, 10, 25, 1, 30), at(2026, 10, 25, 2, 30)),
                (at(2040, 7, 1), at(2040, 7, 1, 2)),
                (at(1900, 1, 1), at(1900, 1, 1, 1)),
                (None, None),
            ],
        ),
        Case(
            "{{ in_time_zone('v', 'Asia/Shanghai') }}",
            {"v": "timestamp"},
            [(at(2026, 1, 1), at(2026, 1, 1, 8)), (at(1988, 7, 1), at(1988, 7, 1, 9)), (at(1, 1, 1), at(1, 1, 1, 8, 5, 43))],
        ),
        Case("{{ in_time_zone('v', 'UTC') }}", {"v": "timestamp"}, [(at(2026, 1, 1, 0, 0, 0, 1), at(2026, 1, 1, 0, 0, 0, 1))]),
    ],
    "median_of": [
        Case(
            "{{ median_of('v') }}",
            {"v": "double"},
            [
                ([0.008552255801932975, 1.125], 0.5667761279009665),  # from the lesser on, it would end in 4
                ([3.0, 1.0, None, 2.0], 2.0),
                ([-1.0, 1e300], 5e299),
                ([5.0], 5.0),
                ([None], None),
            ],
            is_aggregate=True,
        ),
        Case("{{ median_of('v') }}", {"v": "bigint"}, [([1, 2], 1.5), ([1, 2, 9], 2.0)], is_aggregate=True),
    ],
    "merged_text": [
        Case(
            "{{ merged_text('a', 'b') }}",
            {"a": "string", "b": "string"},
            [
                ("b,c", "a,b", "a,b,c"),
                ("web", None, "web"),
                (None, "web,app", "app,web"),
                ("", "web", "web"),
                ("", "", None),
                (None, None, None),
                ("é,z", "中", "z,é,中"),
                ("a.b", "a", "a,a.b"),
            ],
        ),
    ],
    "number_of": [
        Case(
            "{{ number_of('v') }}",
            {"v": "string"},
            [
                ("5", 5.0),
                (" -5.50\t", -5.5),
                (".5", 0.5),
                ("5.", 5.0),
                ("+1e3", 1000.0),
                ("1_000", 1000.0),
                ("1__0", None),
                ("_1", None),
                ("5d", None),
                ("5F", None),
                ("5L", None),
                ("0x10", None),
                ("５", None),
                ("1,5", None),
                ("inf", float("inf")),
                ("NaN", float("nan")),
                ("ten", None),
                ("", None),
                (None, None),
            ],
        ),
    ],
    "parse_date": [
        Case(
            "{{ parse_date('v') }}",
            {"v": "string"},
            [
                ("2026-03-09", date(2026, 3, 9)),
                ("2026-3-9", date(2026, 3, 9)),
                ("2026/03/09", date(2026, 3, 9)),
                ("2026/3/9", date(2026, 3, 9)),
                ("20260309", date(2026, 3, 9)),
                ("09.03.2026", date(2026, 3, 9)),
                ("9.3.2026", date(2026, 3, 9)),
                ("2026.03.09", date(2026, 3, 9)),
                ("2026年3月9日", date(2026, 3, 9)),
                ("2026年03月09日", date(2026, 3, 9)),
                ("2026-03-09 23:59:59", date(2026, 3, 9)),
                ("2026-03-09T23:59:59", date(2026, 3, 9)),
                ("2026-03-09T23:59:59Z", date(2026, 3, 9)),
                ("2024-02-29", date(2024, 2, 29)),
                ("2026-02-29", None),
                ("2026-02-30", None),
                ("2026-13-01", None),
                ("2026-00-10", None),
                ("31.04.2026", None),
                ("03/09/2026", None),
                ("26-03-09", date(26, 3, 9)),
                ("2026-03", None),
                ("2026", None),
                ("20261301", None),
                ("2026039", date(2026, 3, 9)),
                ("202639", None),
                (" 2026-03-09  1:2:3 ", date(2026, 3, 9)),
                ("26.03.09", date(9, 3, 26)),
                ("2026-03-09x", None),
                ("2026-03-09 25:00:00", None),
                ("2026-03-09 23:59", None),
                ("nan", None),
                ("", None),
                (None, None),
                ("1900-01-01", date(1900, 1, 1)),
                ("9999-12-31", date(9999, 12, 31)),
            ],
        ),
    ],
    "lower_case": [
        Case(
            "{{ lower_case('v') }}",
            {"v": "string"},
            [
                ("ANNA ÉÀÑ", "anna éàñ"),
                ("İSTANBUL", "istanbul"),
                ("ΝΙΚΟΣ ΣΟΦΟΣ", "νικοσ σοφοσ"),
                ("νικος", "νικος"),
                ("STRAẞE", "straße"),
                ("\u212aELVIN", "kelvin"),
                ("ＡＢ王𐐀", "ａｂ王𐐨"),
                ("", ""),
                (None, None),
            ],
        ),
    ],
    "matches": [
        Case(
            "{{ matches('v', '^[a-z]+$') }}",
            {"v": "string"},
            [("abc", True), ("abc\n", False), ("abc\r\n", False), ("Abc", False), ("", False), (None, None)],
        ),
        Case(
            "{{ matches('v', 'a.b') }}", {"v": "string"}, [("a\nb", False), ("a\rb", True), ("a\u2028b", True), ("a𝒳b", True)]
        ),
        Case("{{ matches('v', '(?i)^éß$') }}", {"v": "string"}, [("Éß", True), ("ÉẞX", False)]),
        Case(
            "{{ matches('v', \"^[o'$]+(/|$)\") }}",
            {"v": "string"},
            [("o'$", True), ("$/x", True), ("o'x", False), ("o\n", False)],
        ),
        Case("not {{ matches('v', '^[+]86') }} and true", {"v": "string"}, [("+8613", False), ("8613", True)]),
        Case("{{ matches('v', '[一-鿿]') }}", {"v": "string"}, [("a王", True), ("あ", False), ("𠀀", False)]),
    ],
    "pattern": [
        # As somebody may write it in identity.yaml, with a backslash.
        Case(
            "{{ matches('v', '^(\\\\+86138|nobody@x\\\\.cn|\\\\d{3}|a\\\\$)$') }}",
            {"v": "string"},
            [
                ("+86138", True),
                ("nobody@x.cn", True),
                ("nobody@xycn", False),
                ("123", True),
                ("１２３", False),
                ("a$", True),
                ("a", False),
            ],
        ),
        Case(
            "regexp_extract(v, {{ pattern('^[a-z]+://([^/?#]*@)?([^/?#:]+)') }}, 2)",
            {"v": "string"},
            [("http://me@a.cn:80/x", "a.cn"), ("https://例子.cn?x", "例子.cn"), ("a.cn", ""), ("", ""), (None, None)],
        ),
    ],
    "replace_all": [
        Case(
            "{{ replace_all('v', '[^a-z0-9À-힣]+', '_') }}",
            {"v": "string"},
            [("a b--c", "a_b_c"), ("é中한𝒳x", "é中한_x"), ("", ""), (None, None)],
        ),
        Case("{{ replace_all('v', '^_+|_+$', '') }}", {"v": "string"}, [("__a_b__", "a_b"), ("_\n", "\n"), ("__", "")]),
        Case("{{ replace_all('v', '^.*[.]', '') }}", {"v": "string"}, [("a.b.c", "c"), ("a.b\nc.d", "b\nc.d"), ("a\r.b", "b")]),
        Case("{{ replace_all('v', '(a)(b)', '$2\\\\1\\'') }}", {"v": "string"}, [("xab", "x$2\\1'")]),
        Case("{{ replace_all('v', 'x*', '-') }}", {"v": "string"}, [("abc", "-a-b-c-"), ("", "-")]),
    ],
    "title_case": [
        Case(
            "{{ title_case('v') }}",
            {"v": "string"},
            [
                ("ANNA MARIA", "Anna Maria"),
                ("anna maria", "Anna Maria"),
                ("o'neil jean-luc", "O'neil Jean-luc"),
                ("éva ñandú", "Éva Ñandú"),
                ("groß", "Groß"),
                ("ΝΙΚΟΣ ΣΟΦΟΣ", "Νικοσ Σοφοσ"),  # letter by letter, also at the end of a word
                ("İPEK", "Ipek"),
                ("ǆ", "Ǆ"),
                ("ﬁsh", "ﬁsh"),
                ("a  b", "A  B"),
                (" a", " A"),
                ("a\tb", "A\tb"),
                ("王 小明", "王 小明"),
                ("1st street", "1st Street"),
                ("", ""),
                (None, None),
            ],
        ),
    ],
    "upper_case": [
        Case(
            "{{ upper_case('v') }}",
            {"v": "string"},
            [
                ("anna éàñ", "ANNA ÉÀÑ"),
                ("straße", "STRAẞE"),
                ("ﬁn ŉ ᾀ ΐ ß𐐨", "ﬁN ŉ ᾈ ΐ ẞ𐐀"),
                ("νικος", "ΝΙΚΟΣ"),
                ("ı ſ ÿ ǆ µ", "I S Ÿ Ǆ Μ"),
                ("ａｂ王", "ＡＢ王"),
                ("", ""),
                (None, None),
            ],
        ),
    ],
}

CALLS = [(name, case) for name, cases in CASES.items() for case in cases]
NAMES = [f"{name}-{i}" for name, cases in CASES.items() for i in range(len(cases))]


def test_every_macro_has_a_case() -> None:
    assert {file.stem for file in FOLDER.glob("*.sql")} - STATEMENTS == {name for name, cases in CASES.items() if cases}


@pytest.mark.parametrize(
    ("expression", "at"),
    [("[[:alpha:]]", "[["), ("[a&&b]", "&&"), (r"\s+", r"\s"), (r"a\b", r"\b"), (r"\p{Han}", r"\p"), ("[^[]", "[^[")],
)
def test_a_pattern_that_java_reads_in_another_way_is_refused(expression: str, at: str) -> None:
    class RefusedError(Exception):
        pass

    def refuse(message: str) -> None:
        raise RefusedError(message)

    source = Environment(extensions=["jinja2.ext.do"]).from_string((FOLDER / "pattern.sql").read_text())
    known = {"modules": SimpleNamespace(re=re), "exceptions": SimpleNamespace(raise_compiler_error=refuse)}
    with pytest.raises(RefusedError, match=re.escape(f"means something else in Java at {at};")):
        source.make_module(known).spark__pattern(expression)


@pytest.fixture(scope="module")
def rendered(new_home: Callable[[], Home]) -> Iterator[Callable[[str], list[str]]]:
    """All calls as dbt renders them for an engine."""
    home, known = new_home(), {}

    def render(engine: str) -> list[str]:
        if engine not in known:
            sql = dbt.compile_inline(home, "\n;;\n".join(case.call for _, case in CALLS), engine)
            known[engine] = [part.strip() for part in sql.split("\n;;\n")]
        return known[engine]

    return render


def _query(case: Case, expression: str) -> str:
    named = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in case.columns.items())
    result = f"select _row, {expression} as result from (select _row, {named} from given) as typed"
    return f"{result} group by _row order by _row" if case.is_aggregate else f"{result} order by _row"


def _given(case: Case) -> pa.Table:
    rows = [
        (number, *values)
        for number, row in enumerate(case.rows)
        for values in (zip(*row[:-1], strict=True) if case.is_aggregate else [row[:-1]])
    ]
    columns = list(zip(*rows, strict=True))
    kinds = {
        "bigint": pa.int64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "double": pa.float64(),
        "int": pa.int32(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", "UTC"),
    }
    arrays = [pa.array(columns[0], pa.int64())]
    for values, kind in zip(columns[1:], case.columns.values(), strict=True):
        if kind == "timestamp":
            values = [value and value.replace(tzinfo=UTC) for value in values]
        arrays.append(pa.array(values, kinds.get(kind) or pa.decimal128(38, 12)))
    return pa.table(arrays, names=["_row", *case.columns])


def _plain(value: Any) -> Any:
    """With its kind, so that 1, 1.0, Decimal(1) and true are four; of a decimal with its digits."""
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None)
    return type(value).__name__, str(value) if isinstance(value, (Decimal, float)) else value


@pytest.mark.parametrize(("number", "case"), list(enumerate(case for _, case in CALLS)), ids=NAMES)
def test_duckdb_gives_what_is_written(rendered: Callable[[str], list[str]], number: int, case: Case) -> None:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("given", _given(case))
        rows = connection.execute(_query(case, rendered("duckdb")[number])).fetchall()
    assert [(row[:-1], _plain(result)) for row, (_, result) in zip(case.rows, rows, strict=True)] == [
        (row[:-1], _plain(row[-1])) for row in case.rows
    ]


@pytest.mark.spark
@pytest.mark.parametrize(("number", "case"), list(enumerate(case for _, case in CALLS)), ids=NAMES)
def test_spark_gives_the_same(rendered: Callable[[str], list[str]], number: int, case: Case) -> None:
    session = spark.session()
    if importlib.util.find_spec("dbt.adapters.spark") is None:
        pytest.skip("dbt-spark is not installed")
    session.createDataFrame(_given(case)).createOrReplaceTempView("given")
    rows = session.sql(_query(case, rendered("spark")[number])).toArrow().column("result").to_pylist()
    assert [(row[:-1], _plain(result)) for row, result in zip(case.rows, rows, strict=True)] == [
        (row[:-1], _plain(row[-1])) for row in case.rows
    ]
