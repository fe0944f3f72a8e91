"""From a source's own columns to the contract's: the SELECTs that map, type and validate the table `raw`."""

import itertools
import re

from dagster_project.lib import values
from dagster_project.lib.contracts import STAGING_TYPES, Column, Entity, Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted
from dagster_project.lib.reading import identifier, pointer
from dagster_project.lib.values import Forms


def mapped_sql(entity: Entity, source: Source, present: tuple[str, ...]) -> tuple[str, list[str]]:
    """SELECT of `_row`, a text column for each contract column that this file can fill, and `_extra`; and the names of
    unknown columns.

    Args:
        entity: the contract.
        source: the mapping.
        present: the source's columns, as in the table `raw`.

    Raises:
        OnefoldError: a required column cannot be filled from this file.
    """
    if not present:  # JSON lines without a single record: there is no column to miss
        return "select _row, cast(null as json) as _extra from raw where false", []
    by_name = {name.strip().lower(): name for name in present}
    used: set[str] = set()
    expressions = {
        name: _mapped_column(name, column, source, by_name, used, present) for name, column in entity.columns.items()
    }
    if entity.one_of and all(expressions[name] == "null" for name in entity.one_of):
        raise OnefoldError(
            f"none of {', '.join(entity.one_of)} is there, and one is required: the file has {', '.join(present)}; "
            f"export one of them, or map it in the source '{source.name}' (rename, sql or constant)"
        )
    fields = [f"cast({expression} as varchar) as {name}" for name, expression in expressions.items() if expression != "null"]
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


def contract_sql(entity: Entity, filled: set[str]) -> str:
    """SELECT of all of the contract's columns from the view `filled`, which has those that a file can fill."""
    columns = ", ".join(f"{_trimmed(name) if name in filled else 'cast(null as varchar)'} as {name}" for name in entity.columns)
    return f"select _row, {columns}, _extra from filled"


def _trimmed(text: str) -> str:
    """A text without spaces around it, null if nothing is left; a look at its ends is cheaper than trimming what needs none."""
    is_trimmed = f"{text} >= '!' and strlen({text}) = length({text}) and not suffix({text}, ' ')"
    return f"case when {is_trimmed} then {text} else nullif(trim({text}), '') end"


def typed_sql(entity: Entity, source: Source, mapped: str, filled: set[str], zone: str, forms: Forms) -> str:
    """SELECT of `_row`, the typed columns, `_extra`, `_reason` (null: valid) and `_payload_hash` over a mapped SELECT,
    where columns that are not `filled` are null."""
    columns = [(name, column) for name, column in entity.columns.items() if name in filled]
    times = [name for name, column in columns if column.type in values.TIMES]
    numbers = [name for name, column in columns if column.type in values.NUMBERS]
    said = source.said_order is not None
    parts = [f"{values.time_parts(name)} as _parts_{name}, {values.plain_time(name)} as _plain_{name}" for name in times]
    texts = [f"{values.iso_time(name, f'_parts_{name}', forms.date_order.get(name), said)} as _text_{name}" for name in times]
    texts += [f"{values.number_text(name, forms.decimal[name])} as _text_{name}" for name in numbers]
    typed = [f"{_typed(name, column, entity, source, zone, forms)} as _typed_{name}" for name, column in columns]
    problems = [p for name, column in columns for p in _problems(name, column, entity, source, forms)]
    if entity.one_of:
        missing = " and ".join(f"{name} is null" for name in entity.one_of)
        problems.append((f"({missing})", f"'one of {', '.join(entity.one_of)} is required, and all are missing'"))
    reason = "cast(null as varchar)"
    if problems:
        wrong = " or ".join(f"({condition})" for condition, _ in problems)
        said_of_each = ", ".join(f"case when {condition} then {text} end" for condition, text in problems)
        reason = f"case when {wrong} then concat_ws('; ', {said_of_each}) end"
    names = ", ".join(
        f"_typed_{name} as {name}" if name in filled else f"cast(null as {STAGING_TYPES[column.type]}) as {name}"
        for name, column in entity.columns.items()
    )
    content = _content([f"_typed_{name}" if name in filled else None for name in entity.columns] + ["_extra"])
    # Each step names what the next one uses several times.
    taken_apart = f"select {', '.join(['*', *parts])} from ({mapped})"
    in_one_form = f"select {', '.join(['*', *texts])} from ({taken_apart})"
    return f"""
        select _row, {names}, _extra, {reason} as _reason,
            md5({content}) as _payload_hash
        from (select {", ".join(["*", *typed])} from ({in_one_form}))
    """


def _content(columns: list[str | None]) -> str:
    """One text of all values of a row, between separators; what is always null (None) is written into the SQL."""
    pieces = []
    for is_null, run in itertools.groupby(columns, key=lambda column: column is None):
        if is_null:
            pieces.append("chr(30)" + " || chr(31) || chr(30)" * (len(list(run)) - 1))
        else:
            pieces += [f"coalesce(cast({column} as varchar), chr(30))" for column in run]
    return f"concat({', chr(31), '.join(pieces)})"


def _mapped_column(
    name: str, column: Column, source: Source, by_name: dict[str, str], used: set[str], present: tuple[str, ...]
) -> str:
    if name in source.constant:
        return f"'{quoted(source.constant[name])}'"
    if name in source.sql:
        return f"({source.sql[name]})"
    wanted = source.rename.get(name, name)
    actual = by_name.get(wanted.strip().lower())
    value = None
    if not source.group_by or wanted in source.group_by:
        if actual is not None:
            used.add(actual)
            value = identifier(actual)
        elif name in source.rename:
            value = _inside(wanted, by_name)
    if value is not None:
        return f"coalesce(cast({value} as varchar), '{source.currency}')" if name == "currency" and source.currency else value
    if name == "currency" and source.currency:
        return f"'{source.currency}'"
    if column.required:
        raise OnefoldError(
            f"required column '{name}' is missing: expected a column '{wanted}', the file has {_some(present)}; "
            f"export it, or map it in the source '{source.name}' (rename, sql or constant)"
        )
    return "null"


def _inside(path: str, by_name: dict[str, str]) -> str | None:
    """SQL of a field inside a column of JSON, by a dotted path; its column stays in `_extra`, as it holds other fields too."""
    steps = path.strip().split(".")
    for length in range(len(steps) - 1, 0, -1):
        column = by_name.get(".".join(steps[:length]).lower())
        if column is not None:
            field = "".join(pointer(step) for step in steps[length:])
            return f"case when json_valid({identifier(column)}) then json_extract_string({identifier(column)}, '{field}') end"
    return None


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")


def _actual(name: str, by_name: dict[str, str]) -> str:
    if name.strip().lower() not in by_name:
        raise OnefoldError(f"group_by: there is no column '{name}'; the file has {_some(tuple(by_name.values()))}")
    return by_name[name.strip().lower()]


def _typed(name: str, column: Column, entity: Entity, source: Source, zone: str, forms: Forms) -> str:
    match column.type:
        case "text":
            if column.allowed:
                return f"lower({name})"
            return values.whole_id(name, column.format == "phone") if values.names_somebody(entity, name, column) else name
        case "integer" | "decimal" | "number":
            return values.number(f"_text_{name}", column.type)
        case "boolean":
            return (
                f"case when lower({name}) in ('true', 't', 'yes', 'y', '1') then true "
                f"when lower({name}) in ('false', 'f', 'no', 'n', '0') then false end"
            )
        case "timestamp":
            return values.timestamp(name, f"_text_{name}", f"_plain_{name}", zone, source.time_format, forms.serial_dates)
        case "date":
            moment = values.timestamp(name, f"_text_{name}", f"_plain_{name}", "UTC", source.time_format, forms.serial_dates)
            return f"cast({moment} as date)"
        case "json":
            return f"case when json_valid({name}) then cast({name} as json) end"


def _problems(name: str, column: Column, entity: Entity, source: Source, forms: Forms) -> list[tuple[str, str]]:
    """What may be wrong with a column: SQL conditions, each with the SQL text that names it."""
    problems = []
    typed, shown = f"_typed_{name}", f"'{name} ''' || left({name}, 80) || '''"
    if column.required:
        problems.append((f"{name} is null", f"'{name} is required and missing'"))
    if column.type != "text":
        article = "an" if column.type == "integer" else "a"
        wrong = f"{shown} is not {article} {column.type}'"
        if column.type in values.TIMES and source.said_order is None:
            unclear = values.is_unclear_time(f"_parts_{name}", f"_text_{name}")
            remedy = "may have the day or the month first; set date_order in its source"
            wrong = f"case when {unclear} then {shown} {remedy}' else {wrong} end"
        elif column.type in values.NUMBERS and forms.decimal[name] == "each":
            remedy = "may have thousands or decimals after its separator; set decimal in its source"
            wrong = f"case when {values.is_unclear_number(name)} then {shown} {remedy}' else {wrong} end"
        problems.append((f"{name} is not null and {typed} is null", wrong))
    if values.names_somebody(entity, name, column) and (column.format != "phone" or column.required):
        lost = values.has_lost_digits(name, column.format == "phone")
        remedy = "has lost digits, as spreadsheets shorten long numbers; format the column as text and export again"
        problems.append((lost, f"{shown} {remedy}'"))
    if column.allowed:
        choices = ", ".join(f"'{quoted(v.lower())}'" for v in column.allowed)
        text = quoted(", ".join(column.allowed))
        problems.append((f"{typed} not in ({choices})", f"{shown} is not one of {text}'"))
    if column.pattern:
        pattern = quoted(column.pattern)
        problems.append((f"not regexp_full_match({name}, '{pattern}')", f"{shown} does not match {pattern}'"))
    return problems
