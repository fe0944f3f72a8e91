"""Turning one file into the temporary table `raw`: a row for each record, each column as the file has it."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_project.lib.contracts import Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted

FORMATS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
_NESTED = re.compile(r"^(STRUCT|MAP|UNION)\b|\]$")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Raw:
    """What was read. The table `raw` has `_row` (1 = first readable record) and `columns`; the table `malformed` has
    `line` (in the file, 1 = first), `reason` and `payload` of lines that no record could be made of."""

    columns: tuple[str, ...]
    records: int
    malformed: int


def read_file(connection: duckdb.DuckDBPyConnection, path: Path, source: Source) -> Raw:
    """Read a file into the temporary tables `raw` and `malformed`.

    Raises:
        OnefoldError: the file as a whole cannot be read.
    """
    file_format, compression = _format_of(path, source)
    readers = {"csv": _read_delimited, "tsv": _read_delimited, "jsonl": _read_json_lines, "parquet": _read_parquet}
    connection.execute("create or replace temp table malformed (line bigint, reason varchar, payload varchar)")
    try:
        columns = readers[file_format](connection, path, source, file_format, compression)
    except duckdb.Error as error:
        raise OnefoldError(
            f"cannot be read as {file_format}: {without_values(error)}; repair the file and land it again"
        ) from error
    return Raw(tuple(columns), _count(connection, "raw"), _count(connection, "malformed"))


def without_values(error: duckdb.Error) -> str:
    """An error of DuckDB in one line, without the values it quotes: they may be contact data, and this is shown and logged."""
    return re.sub(r"'[^']*'", "'…'", str(error).strip().splitlines()[0])


def identifier(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(path: Path) -> str:
    """A path inside a SQL literal that names just this file: DuckDB takes [, * and ? for patterns."""
    return quoted(re.sub(r"([\[*?])", r"[\1]", str(path)))


def _pointer(name: str) -> str:
    """A top-level field as a JSON pointer, inside a SQL literal."""
    return quoted("/" + name.replace("~", "~0").replace("/", "~1"))


def _format_of(path: Path, source: Source) -> tuple[str, str]:
    suffixes = path.suffixes
    compression = _COMPRESSIONS.get(suffixes[-1].lower(), "none") if suffixes else "none"
    if compression != "none":
        suffixes = suffixes[:-1]
    ending = suffixes[-1].lower().lstrip(".") if suffixes else ""
    file_format = source.format or FORMATS.get(ending)
    if file_format is None:
        known = ", ".join(f".{e}" for e in FORMATS)
        raise OnefoldError(f"ends in neither of {known} (plain, .gz or .zst); rename it or set `format` in its source")
    return file_format, compression


def _read_delimited(connection, path: Path, source: Source, file_format: str, compression: str) -> list[str]:
    if path.stat().st_size == 0:
        raise OnefoldError("is empty, without even a header; remove it or export it again")
    delimiter = source.delimiter or ("\t" if file_format == "tsv" else ",")
    # The header is read here and not left to DuckDB's sniffer: that one refuses a whole file for one stray quote.
    names = _header(connection, path, delimiter, compression)
    columns = ", ".join(f"'{quoted(name)}': 'varchar'" for name in names)
    connection.execute("drop table if exists csv_errors; drop table if exists csv_scans")
    connection.execute(
        f"""
        create or replace temp table raw as
        select row_number() over () as _row, * from read_csv(
            '{_literal(path)}', columns = {{{columns}}}, auto_detect = false, header = true,
            delim = '{quoted(delimiter)}', quote = '"', escape = '"', compression = '{compression}',
            store_rejects = true, rejects_table = 'csv_errors', rejects_scan = 'csv_scans')
        """
    )
    connection.execute(
        """
        insert into malformed
        select line, arg_min(error_message, column_idx), any_value(csv_line) from csv_errors group by line
        """
    )
    return names


def _header(connection, path: Path, delimiter: str, compression: str) -> list[str]:
    """The names in a delimited file's first record, made unique without regard to case, as SQL compares them."""
    lines = connection.execute(f"select text from {_lines(path, compression)} limit 100").fetchall()
    names: list[str] = []
    header = next(csv.reader((f"{line or ''}\n" for (line,) in lines), delimiter=delimiter), [])
    for position, name in enumerate(header):
        unique, taken = name.strip() or f"column{position}", {n.lower() for n in [*names, "_row"]}
        while unique.lower() in taken:
            unique += "_1"
        names.append(unique)
    if not names:
        raise OnefoldError("has no readable header; export it again, in UTF-8")
    return names


def _lines(path: Path, compression: str) -> str:
    """Relation of a file's lines as they are, one column `text`; what is not UTF-8 goes to the table csv_errors."""
    return f"""read_csv(
        '{_literal(path)}', columns = {{'text': 'varchar'}}, header = false, delim = chr(1), quote = '', escape = '',
        auto_detect = false, strict_mode = false, compression = '{compression}', max_line_size = 20000000,
        store_rejects = true, rejects_table = 'csv_errors', rejects_scan = 'csv_scans')"""


def _read_json_lines(connection, path: Path, source: Source, file_format: str, compression: str) -> list[str]:
    reader = f"""read_json_objects('{_literal(path)}', format = 'newline_delimited', ignore_errors = true,
                                   compression = '{"uncompressed" if compression == "none" else compression}')"""
    numbered = f"select row_number() over () as _row, json from {reader}"
    connection.execute(f"create or replace temp table objects as {numbered}")
    broken = "json is null or json_type(json) <> 'OBJECT'"
    if connection.execute(f"select count(*) from objects where {broken}").fetchone()[0]:
        _read_json_line_by_line(connection, path, compression)
    names = connection.execute("select distinct unnest(json_keys(json)) as name from objects order by name").fetchall()
    return raw_from_objects(connection, [name for (name,) in names])


def _read_json_line_by_line(connection, path: Path, compression: str) -> None:
    """Fill `objects` and `malformed`; for the files with lines that the JSON reader drops, as it cannot parse them."""
    connection.execute("drop table if exists csv_errors; drop table if exists csv_scans")
    connection.execute(
        f"""
        create or replace temp table lines as
        select line, text, case when json_valid(text) then json_type(text) = 'OBJECT' else false end as is_object
        from (select row_number() over () as line, text from {_lines(path, compression)})
        where trim(text) <> '';
        create or replace temp table objects as
        select row_number() over (order by line) as _row, cast(text as json) as json from lines where is_object;
        insert into malformed
        select line, 'not a JSON object', text from lines where not is_object
        union all
        select line, any_value(error_message), any_value(csv_line) from csv_errors group by line
        """
    )


def raw_from_objects(connection: duckdb.DuckDBPyConnection, names: list[str]) -> list[str]:
    """Make `raw` of the temporary table `objects` (_row, json).

    Keys that differ only in case are one column, as SQL does not tell them apart; an object's first of them counts.
    """
    spellings: dict[str, list[int]] = {}
    for position, name in enumerate(names, 1):
        spellings.setdefault(name.lower(), []).append(position)
    fields = ", ".join(
        f"coalesce({', '.join(f'fields[{position}]' for position in same)}) as {identifier(names[same[0] - 1] or 'unnamed')}"
        for same in spellings.values()
    )
    # All fields in one call: one call for each would parse the object as many times as it has fields.
    pointers = ", ".join(f"'{_pointer(name)}'" for name in names)
    fetched = f"select _row, json_extract_string(json, [{pointers}]) as fields from objects" if names else "from objects"
    connection.execute(
        f"create or replace temp table raw as select _row{', ' if fields else ''}{fields} from ({fetched}) order by _row"
    )
    described = connection.execute("select column_name from (describe raw)").fetchall()
    return [name for (name,) in described if name != "_row"]


def _read_parquet(connection, path: Path, source: Source, file_format: str, compression: str) -> list[str]:
    if compression != "none":
        raise OnefoldError("is Parquet packed once more; Parquet compresses inside: land it without .gz or .zst")
    reader = f"read_parquet('{_literal(path)}', file_row_number = true)"
    described = connection.execute(f"describe select * exclude (file_row_number) from {reader}").fetchall()
    # Nested values become JSON text, as those of JSON lines are.
    fields = ", ".join(
        f"cast(to_json({name}) as varchar) as {name}" if _NESTED.search(kind) else name
        for name, kind in ((identifier(name), kind) for name, kind, *_ in described)
    )
    connection.execute(f"create or replace temp table raw as select file_row_number + 1 as _row, {fields} from {reader}")
    return [name for name, *_ in described]


def _count(connection, table: str) -> int:
    return connection.execute(f"select count(*) from {table}").fetchone()[0]
