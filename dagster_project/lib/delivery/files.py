"""Files in a folder or behind an fsspec URL: one for each batch, named by its key."""

import csv
import io
import json
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dagster_project.lib.delivery.destination import ACCEPTED, Operation, Outcome, Row, Unavailable
from dagster_project.lib.files import open_store, without_credentials

Format = Literal["csv", "jsonl", "parquet"]


class Files:
    """Writes each batch as a file with a column `operation` before the row's own; a file appears whole or not at all.

    Sent again, a batch replaces the file of its key by the same one. Names sort in the order in which files apply.
    """

    semantics: Literal["deduplicates"] = "deduplicates"

    def __init__(self, url: str, form: Format, columns: tuple[str, ...], keyed_by: tuple[str, ...], batch_size: int) -> None:
        self.url, self.form = url, form
        self.columns, self.keyed_by, self.batch_size = columns, keyed_by, batch_size
        self._store: tuple[Any, str] | None = None  # and the folder in it

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Write one file; a removal has null in all columns but those that name the row."""
        content = _content(self.form, ("operation", *self.columns), [{"operation": operation, **row} for row in rows])
        name = f"{key}.{self.form}"
        try:
            if "://" in self.url:
                self._put(name, content)
            else:
                _write(Path(self.url) / name, content)
        except Exception as error:  # every store raises its own
            self._store = None  # its connection may be broken
            raise Unavailable(f"{type(error).__name__}: {without_credentials(error)}") from error
        return Outcome(name, [ACCEPTED] * len(rows))

    def _put(self, name: str, content: bytes) -> None:
        if self._store is None:
            self._store = open_store(self.url)
            self._store[0].makedirs(self._store[1], exist_ok=True)
        store, folder = self._store
        draft, final = posixpath.join(folder, f".{name}.part"), posixpath.join(folder, name)
        store.pipe_file(draft, content)
        if store.exists(final):  # some stores do not rename onto a file, and it is the same one
            store.rm_file(final)
        store.mv(draft, final)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.part")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:  # it may hold contact data
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a loss of power could take the file that the ledger knows as sent
    finally:
        os.close(folder)


def _content(form: Format, columns: tuple[str, ...], rows: list[dict]) -> bytes:
    if form == "jsonl":
        lines = (json.dumps({name: row.get(name) for name in columns}, ensure_ascii=False) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()
    if form == "csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
        return text.getvalue().encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    # All as text: types guessed from values would differ from file to file, and a column may be null in all of one.
    cells = {name: pa.array([_cell(row.get(name)) for row in rows], pa.string()) for name in columns}
    buffer = io.BytesIO()
    pq.write_table(pa.table(cells), buffer)
    return buffer.getvalue()


def _cell(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
