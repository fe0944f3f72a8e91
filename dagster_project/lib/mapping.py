"""From a source's own columns to the contract's: the SELECTs that map, type and validate the table `raw`."""

import re

from dagster_project.lib.contracts import STAGING_TYPES, Column, Entity, Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted
from dagster_project.lib.reading import identifier

_ZONED = r"^.*\d{2}:\d{2}.*(Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2}| [A-Za-z]+/[A-Za-z_/]+)$"
_TIME_FORMATS = [
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y.%m.%d %H:%M:%S",
    "%Y%m%d",
    "%Y%m%d%H%M%S",
    "%Y年%m月%d日 %H:%M:%S",
    "%Y年%m月%d日",
]


def mapped_sql(entity: Entity, source: Source, present: tuple[str, ...]) -> tuple[str, list[str]]:
    """SELECT of `_row`, one text column for each contract column, and `_extra`; and the names of unknown columns.

    Args:
        entity: the contract.
        source: the mapping.
        present: the source's columns, as in the table `raw`.

    Raises:
        OnefoldError: a required column cannot be filled from this file.
    """
    if not present:  # JSON lines without a single record: there is no column to miss
        columns = ", ".join(f"cast(null as varchar) as {name}" for name in entity.columns)
        return f"select _row, {columns}, cast(null as json) as _extra from raw where false", []
    by_name = {name.strip().lower(): name for name in present}
    used: set[str] = set()
    fields = []
    for name, column in entity.columns.items():
        expression = _mapped_column(name, column, source, by_name, used, present)
        fields.append(f"nullif(trim(cast({expression} as varchar)), '') as {name}")
    rules = " ".join([*source.sql.values(), source.filter or ""])
    used |= {name for name in present if re.search(rf"\b{re.escape(name)}\b", rules, re.IGNORECASE)}
    extra = [] if source.group_by else [name for name in present if name not in used]
    pairs = ", ".join(f"'{quoted(name)}', cast({identifier(name)} as varchar)" for name in extra)
    fields.append(f"json_object({pairs}) as _extra" if extra else "cast(null as json) as _extra")
    where = f"where {source.filter}" if source.filter else ""
    if source.group_by:
        groups = ", ".join(identifier(_actual(name, by_name)) for name in source.group_by)
        return f"select min(_row) as _row, {', '.join(fields)} from raw {where} group by {groups}", extra
    return f"select _row, {', '.join(fields)} from raw {where}", extra


def typed_sql(entity: Entity, mapped: str, zone: str, time_format: str | None) -> str:
    """SELECT of `_row`, the typed columns, `_extra`, `_reason` (null: valid) and `_payload_hash` over a mapped SELECT."""
    typed = [f"{_typed(f'm.{name}', column, zone, time_format)} as {name}" for name, column in entity.columns.items()]
    problems = [p for name, column in entity.columns.items() for p in _problems(name, column)]
    reason = f"nullif(concat_ws('; ', {', '.join(problems)}), '')" if problems else "cast(null as varchar)"
    content = ", ".join(f"coalesce(cast(t.{name} as varchar), chr(30))" for name in entity.columns)
    given = ", ".join(f"m.{name} as _given_{name}" for name in entity.columns)
    names = ", ".join(f"t.{name}" for name in entity.columns)
    return f"""
        select t._row, {names}, t._extra, {reason} as _reason,
            md5(concat_ws(chr(31), {content}, coalesce(cast(t._extra as varchar), chr(30)))) as _payload_hash
        from (select m._row, m._extra, {", ".join(typed)}, {given} from ({mapped}) as m) as t
    """


def _mapped_column(
    name: str, column: Column, source: Source, by_name: dict[str, str], used: set[str], present: tuple[str, ...]
) -> str:
    if name in source.constant:
        return f"'{quoted(source.constant[name])}'"
    if name in source.sql:
        return f"({source.sql[name]})"
    wanted = source.rename.get(name, name)
    actual = by_name.get(wanted.strip().lower())
    in_groups = not source.group_by or wanted in source.group_by
    if actual is not None and in_groups:
        used.add(actual)
        value = identifier(actual)
        return f"coalesce(cast({value} as varchar), '{source.currency}')" if name == "currency" and source.currency else value
    if name == "currency" and source.currency:
        return f"'{source.currency}'"
    if column.required:
        raise OnefoldError(
            f"required column '{name}' is missing: expected a column '{wanted}', the file has {', '.join(present)}; "
            f"export it, or map it in the source '{source.name}' (rename, sql or constant)"
        )
    return "null"


def _actual(name: str, by_name: dict[str, str]) -> str:
    if name.strip().lower() not in by_name:
        raise OnefoldError(f"group_by: there is no column '{name}'; the file has {', '.join(by_name.values())}")
    return by_name[name.strip().lower()]


def _typed(value: str, column: Column, zone: str, time_format: str | None) -> str:
    match column.type:
        case "text":
            if column.allowed:
                return f"lower({value})"
            return value
        case "integer":
            return f"case when regexp_full_match({value}, '[+-]?\\d+(\\.0+)?') then try_cast({value} as bigint) end"
        case "decimal":
            plain = (
                f"case when regexp_full_match({value}, '[+-]?\\d{{1,3}}(,\\d{{3}})+(\\.\\d+)?') "
                f"then replace({value}, ',', '') else {value} end"
            )
            return f"try_cast({plain} as {STAGING_TYPES['decimal']})"
        case "number":
            return f"case when isfinite(try_cast({value} as double)) then try_cast({value} as double) end"
        case "boolean":
            return (
                f"case when lower({value}) in ('true', 't', 'yes', 'y', '1') then true "
                f"when lower({value}) in ('false', 'f', 'no', 'n', '0') then false end"
            )
        case "timestamp":
            return _timestamp(value, zone, time_format)
        case "date":
            return f"cast({_timestamp(value, 'UTC', time_format)} as date)"
        case "json":
            return f"case when json_valid({value}) then cast({value} as json) end"


def _timestamp(value: str, zone: str, time_format: str | None) -> str:
    """Text to UTC: epoch seconds, milliseconds or microseconds, ISO 8601 with or without a zone, and common forms."""
    formats = ", ".join(f"'{quoted(f)}'" for f in ([time_format] if time_format else _TIME_FORMATS))
    local = f"coalesce(try_strptime({value}, [{formats}]), try_cast({value} as timestamp))"
    if not time_format:
        local = f"coalesce(try_cast({value} as timestamp), try_strptime({value}, [{formats}]))"
    epoch = f"try_cast({value} as double)"
    # DuckDB's own words for times (infinity, epoch) are nobody's data.
    return f"""case
        when regexp_full_match({value}, '[A-Za-z+-]+') then null
        when regexp_full_match({value}, '\\d{{9,10}}(\\.\\d+)?') then make_timestamp(cast({epoch} * 1000000 as bigint))
        when regexp_full_match({value}, '\\d{{12,13}}') then make_timestamp(cast({value} as bigint) * 1000)
        when regexp_full_match({value}, '\\d{{15,16}}') then make_timestamp(cast({value} as bigint))
        when regexp_matches({value}, '{_ZONED}') then timezone('UTC', try_cast({value} as timestamptz))
        else timezone('UTC', timezone('{quoted(zone)}', {local}))
    end"""


def _problems(name: str, column: Column) -> list[str]:
    """SQL texts that name what is wrong with a column, null where nothing is."""
    problems = []
    given, typed = f"t._given_{name}", f"t.{name}"
    shown = f"'{name} ''' || left({given}, 80) || '''"
    if column.required:
        problems.append(f"case when {given} is null then '{name} is required and missing' end")
    if column.type != "text":
        article = "an" if column.type == "integer" else "a"
        problems.append(f"case when {given} is not null and {typed} is null then {shown} is not {article} {column.type}' end")
    if column.allowed:
        choices = ", ".join(f"'{quoted(v.lower())}'" for v in column.allowed)
        text = quoted(", ".join(column.allowed))
        problems.append(f"case when {typed} not in ({choices}) then {shown} is not one of {text}' end")
    if column.pattern:
        problems.append(
            f"case when not regexp_full_match({given}, '{quoted(column.pattern)}') "
            f"then {shown} does not match {quoted(column.pattern)}' end"
        )
    return problems
