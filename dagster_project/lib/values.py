"""The forms in which people and programs write times, numbers and ids, as SQL that brings each to one.

What can be read in two ways (03/04/2026, 1,234) is read as its source says, else as the other values of the same column in
the same file prove; without proof a date is quarantined, never guessed, and a lone `1,234` is a thousand.
"""

from dataclasses import dataclass, field

import duckdb

from dagster_project.lib.contracts import STAGING_TYPES, Column, Entity, Source
from dagster_project.lib.home import quoted

TIMES = ("timestamp", "date")
NUMBERS = ("integer", "decimal", "number")
EARLIEST, LATEST = 1900, 2100  # years; beyond them stand placeholders (0001-01-01, 9999-12-31) and slips of the pen

_ISO = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:[\d:.]+(Z|[+-][\d:]+)?)?"
_ZONED = r"^.*\d{2}:\d{2}.*(Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2}| [A-Za-z]+/[A-Za-z_/]+)$"
_MORNING, _EVENING = "上午|凌晨|早上|AM|am|a[.]m[.]", "下午|中午|晚上|PM|pm|p[.]m[.]"
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
# Year first, two numbers and a year, day and month's name, month's name and day; then a time of day and a zone.
_PARTS = {
    "year_a": r"^\s*(?:(\d{4})\s?[-/.年]\s?",
    "month_a": r"(\d{1,2})\s?[-/.月]\s?",
    "day_a": r"(\d{1,2})日?",
    "first": r"|(\d{1,2})",
    "mark": r"([-/.])",
    "second": r"(\d{1,2})[-/.]",
    "year_b": r"(\d{4}|\d{2})",
    "day_c": r"|(?:[A-Za-z]{3,9}[.]?,? )?(\d{1,2})(?:st|nd|rd|th)?[. -]{1,2}",
    "name_c": r"([A-Za-z]{3,9})[.]?,?[ -]",
    "year_c": r"(\d{4})",
    "name_d": r"|(?:[A-Za-z]{3,9}[.]?, )?([A-Za-z]{3,9})[.]? ",
    "day_d": r"(\d{1,2})(?:st|nd|rd|th)?,? ",
    "year_d": r"(\d{4}))",
    "before": rf"(?:[,T\s]*({_MORNING}|{_EVENING})?",
    "hour": r"\s*(\d{1,2})[:：时点]",
    "minute": r"(\d{1,2})",
    "second_of_minute": r"(?:[:：分](\d{1,2})",
    "fraction": r"(?:[.,](\d{1,9}))?)?[分秒]?",
    "after": rf"\s*({_MORNING}|{_EVENING})?",
    "zone": r"\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?)?\s*$",
}
_BLANKS = r" \x{00A0}\x{202F}\x{2009}'’"  # what sets off thousands beside comma and point
_MONEY = r"[¥￥$€£]"


@dataclass(frozen=True)
class Forms:
    """How one file writes what can be read in two ways.

    `date_order` and `decimal` are by column; a column that is missing in `date_order` has no proof for either order, and
    `each` in `decimal` means proof of both: a value then has to prove its own reading.
    """

    date_order: dict[str, str] = field(default_factory=dict)
    decimal: dict[str, str] = field(default_factory=dict)
    serial_dates: bool = False  # numbers are Excel's days since 1899-12-30


def forms_of(connection: duckdb.DuckDBPyConnection, entity: Entity, source: Source, from_workbook: bool, proves: bool) -> Forms:
    """What the values in the temporary table `mapped` prove, unless the source says it.

    Args:
        from_workbook: whether the file is a spreadsheet.
        proves: whether `mapped` holds one whole file; otherwise its values prove nothing about each other.
    """
    times = [name for name, column in entity.columns.items() if column.type in TIMES]
    numbers = [name for name, column in entity.columns.items() if column.type in NUMBERS]
    orders = {name: source.said_order for name in times} if source.said_order else {}
    decimals = {name: source.decimal or "." for name in numbers}
    if proves:
        # One look at everything first: nearly every file writes ISO dates and plain numbers, and is done with it.
        doubtful = (
            {} if source.said_order else {n: f"regexp_matches({n}, '^\\d{{1,2}}[-/]\\d{{1,2}}[-/]\\d{{4}}')" for n in times}
        )
        doubtful |= {} if source.decimal else {n: f"contains({n}, ',') or {n} like '%.%.%'" for n in numbers}
        for name in _those(connection, doubtful):
            if name in times:
                day_first, month_first = (f"try_cast(regexp_extract({name}, '{p}', 1) as integer) > 12" for p in _PLACES)
                order = {(True, False): "dmy", (False, True): "mdy"}.get(_proofs(connection, day_first, month_first))
                orders |= {name: order} if order else {}
            else:
                comma, point = (f"regexp_full_match({_bare(name)}, '{_evident(d)}')" for d in ",.")
                proof = _proofs(connection, comma, point)
                decimals[name] = {(True, False): ",", (True, True): "each"}.get(proof, ".")
    return Forms(orders, decimals, from_workbook)


_PLACES = (r"^(\d{1,2})[-/]\d{1,2}[-/]\d{4}", r"^\d{1,2}[-/](\d{1,2})[-/]\d{4}")


def _those(connection, conditions: dict[str, str]) -> list[str]:
    """The names whose condition holds for any row of `mapped`."""
    if not conditions:
        return []
    tests = ", ".join(f"coalesce(bool_or({condition}), false)" for condition in conditions.values())
    return [
        name
        for name, found in zip(conditions, connection.execute(f"select {tests} from mapped").fetchone(), strict=True)
        if found
    ]


def _proofs(connection, one: str, other: str) -> tuple[bool, bool]:
    return connection.execute(
        f"select coalesce(bool_or({one}), false), coalesce(bool_or({other}), false) from mapped"
    ).fetchone()


# Times


def plain_time(value: str) -> str:
    """Text to UTC where it is ISO 8601 with a Z, as nearly all times of programs are; null otherwise. It needs no pattern."""
    is_plain = f"suffix({value}, 'Z') and strlen({value}) >= 20 and {value} >= '{EARLIEST}-' and {value} < '{LATEST + 1}-'"
    return f"case when {is_plain} then try_cast({value} as timestamp) end"


def time_parts(value: str) -> str:
    """Text to a struct of the parts of a written time; null where ISO 8601 or digits alone need no taking apart."""
    names = ", ".join(f"'{name}'" for name in _PARTS)
    return f"""case when {plain_time(value)} is null and not regexp_full_match({value}, '{_ISO}|\\d+([.]\\d+)?')
        then regexp_extract({value}, '{"".join(_PARTS.values())}', [{names}]) end"""


def iso_time(value: str, parts: str, order: str | None, said: bool) -> str:
    """ISO 8601 of a time's parts, or the value as it is; null: no such time, or day and month cannot be told apart.

    Args:
        order: dmy, mdy or ymd; None: unknown.
        said: the source says the order, so that it holds for every value and for years of two digits.
    """
    first, second, last = (f"try_cast(nullif({parts}.{p}, '') as integer)" for p in ("first", "second", "year_b"))
    day_first, month_first = (second, first), (first, second)  # month, day
    match order if said else None:
        case "dmy":
            month, day = day_first
        case "mdy":
            month, day = month_first
        case "ymd":
            month, day = second, last
        case _:
            fallback = {"dmy": day_first, "mdy": month_first}.get(order, ("null", "null"))
            # Dots are written where the day comes first.
            month, day = (
                f"""case when {parts}.mark = '.' or {first} > 12 or {first} = {second} then {by_day}
                    when {second} > 12 then {by_month} else {otherwise} end"""
                for by_day, by_month, otherwise in zip(day_first, month_first, fallback, strict=True)
            )
    short = first if said and order == "ymd" else last
    century = f"cast({short} + case when {short} < 70 then 2000 else 1900 end as varchar)" if said else "null"
    long = "null" if said and order == "ymd" else f"{parts}.year_b"
    written = f"concat({parts}.year_a, {parts}.year_c, {parts}.year_d)"
    year = f"case when {parts}.first = '' then {written} when length({parts}.year_b) = 2 then {century} else {long} end"
    names = ", ".join(f"'{name}'" for name in _MONTHS)
    named = f"nullif(list_position([{names}], lower(left(concat({parts}.name_c, {parts}.name_d), 3))), 0)"
    month = f"""case when {parts}.first <> '' then {month}
        when {parts}.month_a <> '' then try_cast({parts}.month_a as integer) else {named} end"""
    day = f"""case when {parts}.first <> '' then {day}
        else try_cast(concat({parts}.day_a, {parts}.day_c, {parts}.day_d) as integer) end"""
    half, hour = f"concat({parts}.before, {parts}.after)", f"try_cast({parts}.hour as integer)"
    hour = f"""case when regexp_full_match({half}, '{_EVENING}') and {hour} < 12 then {hour} + 12
        when regexp_full_match({half}, '{_MORNING}') and {hour} = 12 then 0 else {hour} end"""
    zone = f"case when {parts}.zone in ('Z', 'UTC', 'GMT') then '+00' else {parts}.zone end"
    second_of_minute = f"case when {parts}.second_of_minute = '' then '00' else lpad({parts}.second_of_minute, 2, '0') end"
    fraction = f"case when {parts}.fraction = '' then '' else '.' || left({parts}.fraction, 6) end"
    clock = f"""case when {parts}.hour = '' then '' else
        ' ' || lpad(cast({hour} as varchar), 2, '0') || ':' || lpad({parts}.minute, 2, '0') || ':' || {second_of_minute}
        || {fraction} || {zone} end"""
    date = f"({year}) || '-' || lpad(cast({month} as varchar), 2, '0') || '-' || lpad(cast({day} as varchar), 2, '0')"
    is_taken_apart = f"concat({parts}.year_a, {parts}.year_b, {parts}.year_c, {parts}.year_d) <> ''"
    return f"case when {parts} is null or not ({is_taken_apart}) then {value} else {date} || {clock} end"


def timestamp(value: str, iso: str, plain: str, zone: str, time_format: str | None, serial_dates: bool) -> str:
    """Text to UTC: epoch seconds, milliseconds or microseconds, Excel's days, ISO 8601 with or without a zone.

    Args:
        plain: what `plain_time` made of it.
    """
    local = f"coalesce(try_cast({iso} as timestamp), try_strptime({iso}, ['%Y%m%d', '%Y%m%d%H%M%S']))"
    in_zone = f"timezone('UTC', timezone('{quoted(zone)}', %s))"
    days = f"timestamp '1899-12-30' + to_seconds(cast(round(try_cast({iso} as double) * 86400) as bigint))"
    serial = f"when regexp_full_match({iso}, '\\d{{5}}([.]\\d+)?') then {in_zone % days}" if serial_dates else ""
    # DuckDB's own words for times (infinity, epoch) are nobody's data.
    read = f"""case
        when regexp_full_match({iso}, '\\d{{4}}-\\d{{2}}-\\d{{2}}([T ]\\d{{2}}:[\\d:.]+)?') then {in_zone % local}
        when regexp_full_match({iso}, '{_ISO}') then timezone('UTC', try_cast({iso} as timestamptz))
        when regexp_full_match({iso}, '[A-Za-z+-]+') then null
        when regexp_full_match({iso}, '\\d{{9,10}}([.]\\d+)?')
            then make_timestamp(cast(try_cast({iso} as double) * 1000000 as bigint))
        when regexp_full_match({iso}, '\\d{{12,13}}') then make_timestamp(cast({iso} as bigint) * 1000)
        when regexp_full_match({iso}, '\\d{{15,16}}') then make_timestamp(cast({iso} as bigint))
        {serial}
        when regexp_matches({iso}, '{_ZONED}') then timezone('UTC', try_cast({iso} as timestamptz))
        else {in_zone % local} end"""
    if time_format:
        said = f"try_strptime({value}, '{quoted(time_format)}')"
        as_said = f"timezone('UTC', {said})" if "%z" in time_format else in_zone % said
        read = f"coalesce({as_said}, {read})"
    # A list names the moment once for the three times it is used.
    sensible = f"lambda moment: moment >= timestamp '{EARLIEST}-01-01' and moment < timestamp '{LATEST + 1}-01-01'"
    read = f"list_filter([{read}], {sensible})[1]"
    return read if time_format else f"case when {plain} is not null then {plain} else {read} end"


def is_unclear_time(parts: str, iso: str) -> str:
    """Whether a value is a date whose day and month cannot be told apart."""
    return f"({iso} is null and {parts}.first <> '')"


# Numbers


def _bare(value: str) -> str:
    """A number without its currency sign; brackets, as bookkeepers write less than nothing, become a minus."""
    unsigned = f"regexp_replace({value}, '^([-+(]?)\\s*{_MONEY}?\\s*([-+]?)(.*?)\\s*(?:{_MONEY}|元)?([)]?)$', '\\1\\2\\3\\4')"
    return f"regexp_replace({unsigned}, '^[(](.*)[)]$', '-\\1')"


def _evident(decimal: str) -> str:
    """Pattern of the numbers that can only be read with this decimal separator."""
    mark, other = ("[.]", ",") if decimal == "." else (",", "[.]")
    grouped = rf"\d{{1,3}}([{_BLANKS}]\d{{3}})+{mark}\d+|\d{{1,3}}({other}\d{{3}})+{mark}\d+|\d{{1,3}}({other}\d{{3}}){{2,}}"
    return quoted(rf"[+-]?({grouped}|\d+{mark}(\d{{1,2}}|\d{{4,}})|(0|\d{{4,}}){mark}\d+)")


def number_text(value: str, decimal: str) -> str:
    """Text to a number with a decimal point and nothing else in it; null: none, or it can be read in two ways.

    Args:
        decimal: the separator; `each`: the value has to prove its own.
    """
    bare, readings = _bare(value), {}
    for mark, other in ((".", ","), (",", ".")):
        whole = quoted(rf"[+-]?(\d+|\d{{1,3}}(([{other}]\d{{3}})+|([{_BLANKS}]\d{{3}})+))([{mark}]\d+)?([eE][+-]?\d+)?")
        digits = f"replace(regexp_replace({bare}, '[^0-9eE{mark}+-]', '', 'g'), ',', '.')"
        readings[mark] = f"case when regexp_full_match({bare}, '{whole}') then {digits} end"
    if decimal == "each":
        proven = " ".join(f"when regexp_full_match({bare}, '{_evident(mark)}') then {readings[mark]}" for mark in ".,")
        return f"case {proven} when not regexp_matches({value}, '[.,]') then {readings['.']} end"
    plain = r"[+-]?\d+([.]\d+)?" if decimal == "." else r"[+-]?\d+"
    as_it_is = f"when try_cast({value} as double) is not null then {value}" if decimal == "." else ""
    return f"case when regexp_full_match({value}, '{plain}') then {value} {as_it_is} else {readings[decimal]} end"


def number(text: str, kind: str) -> str:
    """The typed number of a text that `number_text` made."""
    if kind == "integer":
        return f"case when regexp_full_match({text}, '[+-]?\\d+([.]0+)?') then try_cast({text} as bigint) end"
    if kind == "number":
        return f"case when isfinite(try_cast({text} as double)) then try_cast({text} as double) end"
    return f"try_cast({text} as {STAGING_TYPES['decimal']})"


def is_unclear_number(value: str) -> str:
    """Whether a value is a number whose separator may be one of thousands or of decimals."""
    return f"regexp_full_match({_bare(value)}, '[+-]?\\d{{1,3}}[.,]\\d{{3}}')"


# Ids and phones that a spreadsheet took for numbers


def names_somebody(entity: Entity, name: str, column: Column) -> bool:
    """Whether a wrong value would make one thing or person of two."""
    is_id = column.format in ("phone", "identifier") or name in entity.identifiers or name in entity.key
    return column.type == "text" and is_id


def whole_id(value: str, is_phone: bool) -> str:
    """An id as it was before a spreadsheet wrote it as a number, where all its digits are there; else as it is."""
    digits, power = _scientific(value)
    restored = f"when {_is_scientific(value, is_phone)} and not {_lost(digits, power)} then left({digits}, {power} + 1)"
    tail = f"when regexp_full_match({value}, '[+]?\\d{{6,15}}[.]0+') then split_part({value}, '.', 1)" if is_phone else ""
    return f"case {restored} {tail} else {value} end"


def has_lost_digits(value: str, is_phone: bool) -> str:
    """Whether a spreadsheet rounded an id: 8.61381E+12 stands for any of ten million numbers."""
    return f"({_is_scientific(value, is_phone)} and {_lost(*_scientific(value))})"


def _is_scientific(value: str, is_phone: bool) -> str:
    # 12E3 may be somebody's id, but is nobody's phone.
    pattern = r"\d([.,]\d+)?[eE][+]?\d{1,2}" if is_phone else r"\d[.,]\d+E[+]\d{2}"
    # Hardly any value has an E, and looking for one costs a fraction of the pattern.
    has_power = f"contains(upper({value}), 'E')" if is_phone else f"contains({value}, 'E+')"
    return f"case when {has_power} then regexp_full_match({value}, '{pattern}') else false end"


def _scientific(value: str) -> tuple[str, str]:
    mantissa = f"regexp_replace(split_part(upper({value}), 'E', 1), '[.,]', '')"
    return mantissa, f"try_cast(split_part(upper({value}), 'E', 2) as integer)"


def _lost(digits: str, power: str) -> str:
    return f"(length({digits}) < {power} + 1 or rtrim(substr({digits}, {power} + 2), '0') <> '')"
