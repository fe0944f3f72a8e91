"""From records in any order to export files with their mistakes, and to the truth about them.

Records are kept in memory up to a limit and then spilled to disk by file, so that a simulation of any size needs the
memory of its people and of its largest file.
"""

import csv
import marshal
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import TextIO

import duckdb

from simulator.exports import DAY, EPOCH, EXPORTS, Export, Traffic
from simulator.files import FileWriter
from simulator.noise import Noise, RowNoise, is_usable
from simulator.people import Person

SPILL_ROWS = 150_000  # some 150 MB of Python objects
LINE_DAMAGE_SHARE = 0.4  # of the broken rows: the line itself is cut or torn, the others hold a value nobody can read
NOBODY = -1

# Moment in ms; index of the person, NOBODY or a kind of traffic; values in the order of the export's columns.
Record = tuple[int, int, list]


class Landing:
    """Collects records with `emit`, then writes everything with `write_files`."""

    def __init__(self, folder: Path, spill: Path, seed: int, start: int, end: int, noise: Noise) -> None:
        self._folder, self._spill, self._seed, self._start, self._end, self._noise = (
            folder,
            spill,
            seed,
            start,
            end,
            noise,
        )
        self._waiting: dict[tuple[str, int], list[Record]] = {}
        self._waiting_rows = 0
        self.files = self.rows = 0
        self.identifiable: set[int] = set()

    def emit(self, name: str, at: int, who: Person | Traffic | None, /, **values: object) -> None:
        """Record that `who` did something at `at` (ms); what is after the end of the simulation has not happened yet."""
        export = EXPORTS[name]
        if at >= self._end and not export.is_reference:
            return
        number = min(max(0, at - self._start) // (export.period_days * DAY), self._file_count(export) - 1)
        if export.time_column is not None:
            uses_alternate = export.alternate_time_format is not None and number % 3 == 2
            render = export.alternate_time_format if uses_alternate else export.time_format
            values[export.time_column] = render(at, who.city.utc_offset if isinstance(who, Person) else 0)
        row = list(map(values.get, export.columns))
        index = NOBODY if who is None else who.value if isinstance(who, Traffic) else who.index
        self._waiting.setdefault((name, number), []).append((at, index, row))
        self._waiting_rows += 1
        if self._waiting_rows >= SPILL_ROWS:
            self._spill_all()

    def _file_count(self, export: Export) -> int:
        days = (self._end - self._start) // DAY
        return max(1, -(-days // export.period_days))

    def _spill_path(self, export: Export, number: int) -> Path:
        return self._spill / f"{export.channel}-{export.entity}-{number}"

    def _spill_all(self) -> None:
        for (name, number), records in self._waiting.items():
            with self._spill_path(EXPORTS[name], number).open("ab") as file:
                marshal.dump(records, file)
        self._waiting.clear()
        self._waiting_rows = 0

    def _records(self, export: Export, number: int) -> list[Record]:
        """All records of one file, by time."""
        records: list[Record] = []
        path = self._spill_path(export, number)
        if path.exists():
            with path.open("rb") as file:
                size = path.stat().st_size
                while file.tell() < size:
                    records += marshal.load(file)
            path.unlink()
        records += self._waiting.pop((export.name, number), [])
        records.sort(key=lambda record: record[0])
        return records

    def write_files(self, truth: Path, people: list[Person], report: Callable[[str, int, int], None]) -> None:
        """Write every file of every export, and the truth's records.csv and traffic.csv beside them."""
        part, traffic_part = truth / ".records.csv.part", truth / ".traffic.csv.part"
        total = sum(self._file_count(export) for export in EXPORTS.values())
        done = 0
        database = duckdb.connect(config={"threads": 1})  # one thread keeps the order of rows
        with part.open("w", encoding="utf-8", newline="") as file, traffic_part.open("w", encoding="utf-8") as traffic:
            file.write("channel,entity,record_id,person_id\n")
            traffic.write("channel,entity,record_id,traffic\n")
            for export in EXPORTS.values():
                for _ in self._write_export(export, database, file, traffic, people):
                    done += 1
                    report("files", done, total)
        database.close()
        part.replace(truth / "records.csv")
        traffic_part.replace(truth / "traffic.csv")

    def _write_export(
        self, export: Export, database: duckdb.DuckDBPyConnection, truth: TextIO, traffic: TextIO, people: list[Person]
    ) -> Iterator[None]:
        """Write the files of one export in order of time, since late and repeated rows go from one file to the next."""
        known_keys: set[str] = set()
        carried: list[tuple[list, bool]] = []
        file_count = self._file_count(export)
        for number in range(file_count):
            noise = Noise.none() if export.is_reference else self._noise
            rng = Random(f"{self._seed}/file/{export.name}/{number}")
            writer = FileWriter(database, export, rng, rng.random() < noise.drifted_file_rate)
            page = _Page(export, noise, rng, is_last=number == file_count - 1, carried=carried)
            for _, index, row in self._records(export, number):
                page.add(index, row)
            carried = page.next_carried
            self._tell_truth(export, [record for record in page.accepted if record[0] >= 0], truth, people, known_keys)
            for index, row in page.accepted:
                if index < 0:
                    key = row[export.columns.index(export.key[0])]
                    traffic.write(f"{export.channel},{export.entity},{key},{Traffic(index).name.lower()}\n")
            if page.rows:  # a quiet period makes no file
                path = self._path(export, number)
                copies = [path, _resent(path)] if rng.random() < noise.resent_file_rate else [path]
                writer.write(copies, page.rows)
                self.files += len(copies)
                self.rows += len(copies) * len(page.rows)
            yield

    def _path(self, export: Export, number: int) -> Path:
        first: date = (EPOCH + timedelta(milliseconds=self._start, days=number * export.period_days)).date()
        folder = self._folder / export.channel / export.entity
        if export.period_days < 30:
            folder /= f"{first:%Y-%m}"
        return folder / f"{export.channel}_{export.entity}_{first:%Y%m%d}.{export.file_format}"

    def _tell_truth(
        self,
        export: Export,
        accepted: list[tuple[int, list]],
        truth: TextIO,
        people: list[Person],
        known_keys: set[str],
    ) -> None:
        columns = export.columns
        key_places = [columns.index(column) for column in export.key]
        identifiers = [(column, columns.index(column)) for column in export.identifiers]
        lines = csv.writer(truth, lineterminator="\n")
        for index, row in accepted:
            key = "|".join(str(row[place]) for place in key_places)
            if export.is_versioned:
                if key in known_keys:
                    continue
                known_keys.add(key)
            lines.writerow((export.channel, export.entity, key, people[index].person_id))
        for index, row in accepted:
            if index not in self.identifiable and any(is_usable(column, row[place]) for column, place in identifiers):
                self.identifiable.add(index)


def _resent(path: Path) -> Path:
    stem, _, suffix = path.name.partition(".")
    return path.with_name(f"{stem}_resent.{suffix}")


class _Page:
    """The rows of one file after everything has gone wrong that does."""

    def __init__(self, export: Export, noise: Noise, rng: Random, is_last: bool, carried: list[tuple[list, bool]]) -> None:
        self._noise, self._rng, self._is_last = noise, rng, is_last
        self._row_noise = RowNoise(export, noise, rng)
        self._can_be_damaged = export.file_format != "parquet"
        self.rows: list[tuple[list, bool]] = list(carried)
        self.next_carried: list[tuple[list, bool]] = []
        self.accepted: list[tuple[int, list]] = []

    def add(self, index: int, row: list) -> None:
        noise, rng = self._noise, self._rng
        self._row_noise.blemish(row)
        if rng.random() < noise.broken_row_rate:
            is_damaged = self._can_be_damaged and rng.random() < LINE_DAMAGE_SHARE
            if not is_damaged:
                self._row_noise.break_values(row)
            self.rows.append((row, is_damaged))
            return
        if index != NOBODY:
            self.accepted.append((index, row))
        is_late = not self._is_last and rng.random() < noise.late_rate
        (self.next_carried if is_late else self.rows).append((row, False))
        if rng.random() < noise.duplicate_row_rate:
            again_later = not self._is_last and rng.random() < 0.5
            (self.next_carried if again_later or is_late else self.rows).append((row, False))
