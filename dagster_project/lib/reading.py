"""Turning one file into the temporary table `raw`: a row for each record, each column as the file has it."""

import csv
import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_project.lib import workbook
from dagster_project.lib.contracts import Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import quoted
from dagster_project.lib.textfile import TextFile, as_utf8

FORMATS = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "parquet": "parquet",
} | dict.fromkeys(("xlsx", "xlsm", "xlsb", "xls", "ods"), "excel")
MOST_COLUMNS = 5000  # a table of more is data in the place of names, such as an object keyed by customer
_NESTED = re.compile(r"^(STRUCT|MAP|UNION)\b|\]$")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Raw:
    """What was read. The table `raw` has `_row` (1 = first readable record, after `split`) and `columns`; the table
    `malformed` has `line` (in the file, 1 = first), `reason` and `payload` of lines that no record could be made of."""

    columns: tuple[str, ...]
    records: int
    malformed: int
    is_workbook: bool


def read_file(connection: duckdb.DuckDBPyConnection, path: Path, source: Source, temporary: Path) -> Raw:
    """Read a file into the temporary tables `raw` and `malformed`.

    Args:
        temporary: where copies lie meanwhile of files that have to be rewritten before they can be read.

    Raises:
        OnefoldError: the file as a whole cannot be read.
    """
    file_format, compression = _format_of(path, source)
    _drop_raw(connection)
    connection.execute("create or replace temp table malformed (line bigint, reason varchar, payload varchar)")
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        try:
            columns = _READERS[file_format](connection, path, source, file_format, compression, Path(folder))
        except duckdb.Error as error:
            raise OnefoldError(
                f"cannot be read as {file_format}: {without_values(error)}; repair the file and land it again"
            ) from error
    if len(columns) > MOST_COLUMNS:
        raise _too_wide(len(columns))
    _split_rows(connection, columns, source)
    return Raw(tuple(columns), _count(connection, "raw"), _count(connection, "malformed"), file_format == "excel")


def _split_rows(connection, columns: list[str], source: Source) -> None:
    """Give each value of a list in a column a row of its own, where the source says so; rows are numbered anew."""
    by_name = {name.strip().lower(): name for name in columns}
    for wanted, separator in source.split.items():
        if not columns:
            return
        if wanted.lower() not in by_name:
            raise OnefoldError(f"split: there is no column '{wanted}'; the file has {', '.join(columns)}")
        name = identifier(by_name[wanted.lower()])
        values = f"coalesce(nullif(string_split(cast({name} as varchar), '{quoted(separator)}'), []), [null])"
        connection.execute(
            f"""
            create temp table parts as
            select row_number() over (order by _row, _part) as _row, * exclude (_row, _part)
            from (
                select * replace (unnest({values}) as {name}), generate_subscripts({values}, 1) as _part from raw
            )
            """
        )
        _drop_raw(connection)
        connection.execute("alter table parts rename to raw")


def _drop_raw(connection) -> None:
    """Make room for the next `raw`: a table does not take the place of a view, nor a view that of a table."""
    for (kind,) in connection.execute(
        "select table_type from information_schema.tables where table_catalog = 'temp' and table_name = 'raw'"
    ).fetchall():
        connection.execute(f"drop {'view' if kind == 'VIEW' else 'table'} temp.raw")


def without_values(error: Exception) -> str:
    """An error of DuckDB in one line, without the values it quotes: they may be contact data, and this is shown and logged."""
    return re.sub(r"'[^']*'", "'…'", str(error).strip().splitlines()[0])


def identifier(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(path: Path) -> str:
    """A path inside a SQL literal that names just this file: DuckDB takes [, * and ? for patterns."""
    return quoted(re.sub(r"([\[*?])", r"[\1]", str(path)))


def pointer(name: str) -> str:
    """A field of an object as a JSON pointer, inside a SQL literal."""
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


def _read_delimited(connection, path: Path, source: Source, file_format: str, compression: str, folder: Path) -> list[str]:
    text = as_utf8(path, compression, source.encoding, folder)
    try:
        return _read_text(connection, text, source, file_format)
    except duckdb.InvalidInputException:
        # Line ends of both kinds, and a stray quote that hid them: only now are those inside quotes changed as well.
        return _read_text(connection, text.with_plain_line_ends(folder), source, file_format)


def _read_workbook(connection, path: Path, source: Source, file_format: str, compression: str, folder: Path) -> list[str]:
    if compression != "none":
        raise OnefoldError("is a workbook packed once more; workbooks are packed already: land it without .gz or .zst")
    sheet = workbook.as_csv(path, source.sheet, folder)
    plain = source.model_copy(update={"delimiter": ",", "encoding": "utf-8"})
    return _read_delimited(connection, sheet, plain, file_format, compression, folder)


def _read_text(connection, text: TextFile, source: Source, file_format: str) -> list[str]:
    delimiter = source.delimiter or _delimiter_of(text, "\t" if file_format == "tsv" else ",")
    # The header is read here and not left to DuckDB's sniffer: that one refuses a whole file for one stray quote.
    header = next(_records(text, delimiter), [])
    if not header:
        raise OnefoldError("is empty, without even a header; remove it or export it again")
    if len(header) > MOST_COLUMNS:
        raise _too_wide(len(header))
    names = _unique(header)
    columns = ", ".join(f"'{quoted(name)}': 'varchar'" for name in names)
    blank_lines = len(text.head) - len(text.head.lstrip("\r\n"))
    skipped = text.head[:blank_lines].replace("\r\n", "\n").count("\n")
    connection.execute("drop table if exists csv_errors; drop table if exists csv_scans")
    connection.execute(
        f"""
        create or replace temp table raw as
        select row_number() over () as _row, * from read_csv(
            '{_literal(text.path)}', columns = {{{columns}}}, auto_detect = false, header = true, skip = {skipped},
            delim = '{quoted(delimiter)}', quote = '"', escape = '"', compression = '{text.compression}',
            store_rejects = true, rejects_table = 'csv_errors', rejects_scan = 'csv_scans')
        """
    )
    # DuckDB keeps 10,000 characters of a broken record, and none of one that begins in an earlier buffer.
    open_quote = connection.execute(
        """
        select min(line) from csv_errors
        where error_message like '%unterminated quote%' and (length(csv_line) >= 10000 or not contains(csv_line, '"'))
        """
    ).fetchone()[0]
    if open_quote:
        raise OnefoldError(
            f"opens a quote in line {open_quote} that takes up many lines behind it; close it, or write it twice inside of "
            "quotes, and land the file again"
        )
    connection.execute(
        """
        insert into malformed
        select line, coalesce(arg_min(error_message, column_idx), 'the line is too long'), any_value(csv_line)
        from csv_errors group by line
        """
    )
    _set_headers_aside(connection, names, header)
    return names


def _set_headers_aside(connection, names: list[str], header: list[str]) -> None:
    """Take out the rows that are the header again, as where exports were appended to each other."""
    is_header = " and ".join(
        f"coalesce({identifier(name)}, '') = '{quoted(given)}'" for name, given in zip(names, header, strict=True)
    )
    repeated = f"from raw where {is_header}"
    connection.execute(
        f"insert into malformed select _row + 1, 'is the header again', to_json(raw) {repeated}; delete {repeated}"
    )


def _records(text: TextFile, delimiter: str) -> Iterator[list[str]]:
    """The records at the beginning of a delimited file that are there in full, without empty lines."""
    lines = io.StringIO(text.head, newline="").readlines()
    complete = lines if text.is_whole or len(lines) == 1 else lines[:-1]
    csv.field_size_limit(2**31 - 1)
    return (record for record in csv.reader(complete, delimiter=delimiter) if record)


def _delimiter_of(text: TextFile, usual: str) -> str:
    """The delimiter that cuts the header into most fields; of equal ones the one that cuts most of the following records
    into as many; then the usual one, and the order in which they are listed."""

    def fit(delimiter: str) -> tuple[int, int, bool]:
        header, *others = [len(record) for record in _records(text, delimiter)] or [0]
        return header, others.count(header), delimiter == usual

    return max(_DELIMITERS, key=fit)


def _unique(header: list[str]) -> list[str]:
    """The names in a header, made unique without regard to case, as SQL compares them."""
    names: list[str] = []
    taken = {"_row"}
    for position, name in enumerate(header):
        unique = name.strip() or f"column{position}"
        while unique.lower() in taken:
            unique += "_1"
        names.append(unique)
        taken.add(unique.lower())
    return names


def _too_wide(columns: int) -> OnefoldError:
    return OnefoldError(
        f"has {columns:,} columns, more than {MOST_COLUMNS:,}: its names seem to be data; "
        "export one record a line, with fixed names"
    )


def _lines(path: Path, compression: str) -> str:
    """Relation of a file's lines as they are, one column `text`; what is not UTF-8 goes to the table csv_errors."""
    return f"""read_csv(
        '{_literal(path)}', columns = {{'text': 'varchar'}}, header = false, delim = chr(1), quote = '', escape = '',
        auto_detect = false, strict_mode = false, compression = '{compression}', max_line_size = 20000000,
        store_rejects = true, rejects_table = 'csv_errors', rejects_scan = 'csv_scans')"""


def _read_json_lines(connection, path: Path, source: Source, file_format: str, compression: str, folder: Path) -> list[str]:
    text = as_utf8(path, compression, source.encoding, folder)
    layout = _layout(text, "newline_delimited", ignore_errors=True)
    key_sets = _key_sets(connection, f"read_json_objects({layout})")
    names = _names(key_sets)
    # Null: no JSON; no keys: an array, a number, a text, or an empty object. Some names a table cannot have, or not twice.
    can_be_columns = len({name.lower() for name in names} - {"", "_row", "rowid"}) == len(names)
    if not can_be_columns or any(not keys or len(set(keys)) < len(keys) for keys in key_sets):
        _read_json_line_by_line(connection, text.path, text.compression)
        return raw_from_objects(connection)
    columns = ", ".join(f"{identifier(name)}: 'varchar'" for name in names)
    reader = f"read_json({layout}, columns = {{{columns}}})" if names else f"read_json_objects({layout})"
    # A table keeps the order of the file, so that its row ids number the lines; row_number() would read in one thread.
    connection.execute(
        f"""
        create or replace temp table lines as from {reader};
        create temp view raw as select rowid + 1 as _row, * {"" if names else "exclude (json)"} from lines
        """
    )
    return names


def _read_json(connection, path: Path, source: Source, file_format: str, compression: str, folder: Path) -> list[str]:
    """One array of objects, or objects after each other, over as many lines as they like."""
    text = as_utf8(path, compression, source.encoding, folder, lines=False)
    start = text.head.lstrip()
    if start.startswith("{") and start.splitlines()[0].rstrip().endswith("}"):
        return _read_json_lines(connection, path, source, "jsonl", compression, folder)
    layout = _layout(text, "array" if start.startswith("[") else "unstructured", ignore_errors=False)
    connection.execute(
        f"""
        create or replace temp table elements as select row_number() over () as _row, json from read_json_objects({layout});
        create or replace temp table objects as from elements where json_type(json) = 'OBJECT';
        insert into malformed select _row, 'not a JSON object', json from elements where json_type(json) <> 'OBJECT';
        drop table elements
        """
    )
    return raw_from_objects(connection)


def _layout(text: TextFile, layout: str, ignore_errors: bool) -> str:
    """Arguments of DuckDB's readers of JSON."""
    compression = "uncompressed" if text.compression == "none" else text.compression
    return f"'{_literal(text.path)}', format = '{layout}', ignore_errors = {ignore_errors}, compression = '{compression}'"


def _key_sets(connection, objects: str) -> list[list[str] | None]:
    """The sets of keys that the objects of a relation have; grouped by a hash, which takes half as long as by lists."""
    found = connection.execute(
        f"select any_value(keys) from (select json_keys(json) as keys from {objects}) group by len(keys), hash(keys)"
    ).fetchall()
    return [keys for (keys,) in found]


def _names(key_sets: list[list[str] | None]) -> list[str]:
    names = sorted({name for keys in key_sets for name in keys or []})
    if len(names) > MOST_COLUMNS:
        raise _too_wide(len(names))
    return names


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


def raw_from_objects(connection: duckdb.DuckDBPyConnection, leave_out: frozenset[str] = frozenset()) -> list[str]:
    """Make `raw` of the temporary table `objects` (_row, json), without the keys that are to be left out.

    Keys that differ only in case are one column, as SQL does not tell them apart; an object's first of them counts.
    """
    names = [name for name in _names(_key_sets(connection, "objects")) if name not in leave_out]
    spellings: dict[str, list[int]] = {}
    for position, name in enumerate(names, 1):
        spellings.setdefault(name.lower(), []).append(position)
    fields = ", ".join(
        f"coalesce({', '.join(f'fields[{position}]' for position in same)}) as {identifier(names[same[0] - 1] or 'unnamed')}"
        for same in spellings.values()
    )
    # All fields in one call: one call for each would parse the object as many times as it has fields.
    pointers = ", ".join(f"'{pointer(name)}'" for name in names)
    fetched = f"select _row, json_extract_string(json, [{pointers}]) as fields from objects" if names else "from objects"
    rows = f"select _row{', ' if fields else ''}{fields} from ({fetched})"
    connection.execute(f"create or replace temp table raw as {rows} order by _row")
    described = connection.execute("select column_name from (describe raw)").fetchall()
    return [name for (name,) in described if name != "_row"]


def _read_parquet(connection, path: Path, source: Source, file_format: str, compression: str, folder: Path) -> list[str]:
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


_READERS = {
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "jsonl": _read_json_lines,
    "json": _read_json,
    "parquet": _read_parquet,
    "excel": _read_workbook,
}
