"""Turning one file into the temporary table `raw`: a row for each record, each column as the file has it."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_project.lib.contracts import Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted

FORMATS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
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
        summary = str(error).strip().splitlines()[0]
        raise OnefoldError(f"cannot be read as {file_format}: {summary}; repair the file and land it again") from error
    return Raw(tuple(columns), _count(connection, "raw"), _count(connection, "malformed"))


def identifier(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def json_columns(names: list[str], json: str) -> str:
    """Select-list that takes top-level fields out of a JSON object; nested values stay JSON text."""
    path = {n: "$." + '"' + n.replace("\\", "\\\\").replace('"', '\\"') + '"' for n in names}
    return ", ".join(f"json_extract_string({json}, '{quoted(path[n])}') as {identifier(n)}" for n in names)


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
    connection.execute("drop table if exists csv_errors; drop table if exists csv_scans")
    connection.execute(
        f"""
        create or replace temp table raw as
        select row_number() over () as _row, * from read_csv(
            '{quoted(path)}', delim = '{quoted(delimiter)}', quote = '"', escape = '"', header = true, all_varchar = true,
            compression = '{compression}', store_rejects = true, rejects_table = 'csv_errors',
            rejects_scan = 'csv_scans')
        """
    )
    connection.execute(
        """
        insert into malformed
        select line, arg_min(error_message, column_idx), any_value(csv_line) from csv_errors group by line
        """
    )
    described = connection.execute("select column_name from (describe raw)").fetchall()
    return [name for (name,) in described if name != "_row"]


def _read_json_lines(connection, path: Path, source: Source, file_format: str, compression: str) -> list[str]:
    reader = f"""read_json_objects('{quoted(path)}', format = 'newline_delimited', ignore_errors = true,
                                   compression = '{"uncompressed" if compression == "none" else compression}')"""
    connection.execute(f"create or replace temp table objects as select row_number() over () as _row, json from {reader}")
    broken = "json is null or json_type(json) <> 'OBJECT'"
    if connection.execute(f"select count(*) from objects where {broken}").fetchone()[0]:
        # The JSON reader drops the text of what it cannot parse; the line reader still has it.
        connection.execute(
            f"""
            insert into malformed
            select line, 'not a JSON object', text from (
                select row_number() over () as line, text
                from read_csv('{quoted(path)}', columns = {{'text': 'varchar'}}, header = false, delim = chr(1),
                              quote = '', escape = '', auto_detect = false, strict_mode = false,
                              compression = '{compression}', max_line_size = 20000000)
            ) where trim(text) <> '' and (not json_valid(text) or json_type(text) <> 'OBJECT')
            """
        )
        connection.execute(f"delete from objects where {broken}")
    names = connection.execute("select distinct unnest(json_keys(json)) as name from objects order by name").fetchall()
    return raw_from_objects(connection, [name for (name,) in names])


def raw_from_objects(connection: duckdb.DuckDBPyConnection, names: list[str]) -> list[str]:
    """Make `raw` of the temporary table `objects` (_row, json)."""
    fields = f", {json_columns(names, 'json')}" if names else ""
    connection.execute(f"create or replace temp table raw as select _row{fields} from objects order by _row")
    return names


def _read_parquet(connection, path: Path, source: Source, file_format: str, compression: str) -> list[str]:
    connection.execute(
        f"""
        create or replace temp table raw as
        select file_row_number + 1 as _row, * exclude (file_row_number)
        from read_parquet('{quoted(path)}', file_row_number = true)
        """
    )
    described = connection.execute("select column_name from (describe raw)").fetchall()
    return [name for (name,) in described if name != "_row"]


def _count(connection, table: str) -> int:
    return connection.execute(f"select count(*) from {table}").fetchone()[0]
