"""Files in the formats of the contract: delimited text, JSON lines, Parquet; byte-identical when written again."""

import csv
import filecmp
import gzip
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import duckdb

from simulator.exports import Export

DRIFTED_COLUMN = "channel_version"  # no contract knows it
_SEPARATOR = "\x1f"  # occurs in no line, so that DuckDB takes every line as one value


class FileWriter:
    """Writes the rows of one export file; a row is a list in the order of `export.columns`."""

    def __init__(self, database: duckdb.DuckDBPyConnection, export: Export, rng: Random, is_drifted: bool) -> None:
        self._database, self._export, self._rng = database, export, rng
        self._columns = list(export.columns)
        self._extra: tuple[str, ...] = ()
        if is_drifted:
            rng.shuffle(self._columns)
            self._extra = (DRIFTED_COLUMN,)
        self._places = [export.columns.index(column) for column in self._columns]
        self._shape, _, self._compression = export.file_format.partition(".")

    def write(self, paths: list[Path], rows: list[tuple[list, bool]]) -> None:
        """Write all rows, each with True if its line must be damaged, and land the same file under each of `paths`.

        Raises FileExistsError if another file of that name has landed before: landing files are immutable.
        """
        path, *copies = paths
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        lines = self._json_lines(rows) if self._shape == "jsonl" else self._delimited_lines(rows)
        if self._shape == "parquet":
            self._write_parquet(part, lines)
        elif self._compression == "zst":
            self._write_zst(part, lines)
        elif self._compression == "gz":
            with part.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                packed.write("".join(lines).encode())
        else:
            part.write_text("".join(lines), encoding="utf-8", newline="")
        for copy in copies:
            shutil.copyfile(part, copy_part := copy.with_name(f".{copy.name}.part"))
            _put_in_place(copy_part, copy)
        _put_in_place(part, path)

    def _delimited_lines(self, rows: list[tuple[list, bool]]) -> Iterator[str]:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter="\t" if self._shape == "tsv" else ",", lineterminator="\n")
        last_required = max(self._columns.index(column) for column in self._export.required)
        tail = ["2.1"] * len(self._extra)
        writer.writerow([*self._columns, *self._extra])
        for row, is_damaged in rows:
            values = [row[place] for place in self._places] + tail
            if is_damaged:  # too few columns, or too many; a line without any would not even be a row
                is_cut = last_required > 0 and self._rng.random() < 0.5
                values = values[:last_required] if is_cut else [*values, "?", "?"]
            writer.writerow(values)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
        yield buffer.getvalue()

    def _json_lines(self, rows: list[tuple[list, bool]]) -> Iterator[str]:
        keeps_nulls = self._rng.random() < 0.2  # some sources write every key, most leave empty ones out
        extra = {column: "2.1" for column in self._extra}
        encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        for row, is_damaged in rows:
            values = zip(self._columns, [row[place] for place in self._places], strict=True)
            record = {column: value for column, value in values if keeps_nulls or value is not None} | extra
            line = encode(record)
            yield (line[: len(line) * 2 // 3] if is_damaged else line) + "\n"

    def _write_zst(self, path: Path, lines: Iterator[str]) -> None:
        """DuckDB packs the text line by line, since Python 3.11 has no zstd."""
        plain = path.with_name(f"{path.name}.txt")
        plain.write_text("".join(lines), encoding="utf-8", newline="")
        one_column = f"delim = '{_SEPARATOR}', quote = '', escape = '', header = false, auto_detect = false"
        self._database.execute(
            f"copy (select * from read_csv($source, columns = {{'line': 'varchar'}}, {one_column})) "
            f"to '{_quoted(path)}' "
            f"(format csv, header false, delimiter '{_SEPARATOR}', quote '', escape '', compression zstd)",
            {"source": str(plain)},
        )
        plain.unlink()

    def _write_parquet(self, path: Path, lines: Iterator[str]) -> None:
        plain = path.with_name(f"{path.name}.txt")
        plain.write_text("".join(lines), encoding="utf-8", newline="")
        types = dict(self._export.parquet_types)
        columns = ", ".join(f"'{column}': '{types.get(column, 'VARCHAR')}'" for column in [*self._columns, *self._extra])
        self._database.execute(
            f"copy (select * from read_csv($source, columns = {{{columns}}}, header = true, auto_detect = false)) "
            f"to '{_quoted(path)}' (format parquet)",
            {"source": str(plain)},
        )
        plain.unlink()


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _put_in_place(part: Path, path: Path) -> None:
    """Rename a finished file, so that nobody ever sees half of it; a file that is there already must be the same."""
    if path.exists() and not filecmp.cmp(part, path, shallow=False):
        part.unlink()
        raise FileExistsError(
            f"{path} has landed with other content, and landing files are immutable; simulate into an empty folder"
        )
    part.replace(path)
