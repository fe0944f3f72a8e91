"""Turning one sheet of a workbook into the CSV file that a person would export of it, without a person's locale."""

import csv
import re
import zipfile
from datetime import date, datetime, time, timedelta
from pathlib import Path

from dagster_project.lib.errors import OnefoldError

MOST_CELLS = 50_000_000  # of one sheet, empty ones too: the reader holds all of them
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_OLD_FORMAT = b"\xd0\xcf\x11\xe0"  # what holds .xls, and an encrypted workbook of any kind


def as_csv(path: Path, sheet: str | None, folder: Path) -> Path:
    """Write a sheet as UTF-8 CSV: dates in ISO 8601, numbers without format, formulas as last computed; no empty rows.

    A merged cell's value is in its first cell only.

    Args:
        sheet: its name; None: the first.
        folder: where the CSV file goes.

    Raises:
        OnefoldError: the workbook is damaged, encrypted or too large, or has no such sheet.
    """
    import python_calamine

    _refuse_unreadable(path)
    try:
        with python_calamine.CalamineWorkbook.from_path(path) as workbook:
            names = workbook.sheet_names
            if sheet is not None and sheet not in names:
                raise OnefoldError(f"has no sheet '{sheet}' but {', '.join(names)}; correct `sheet` in its source")
            cells = workbook.get_sheet_by_name(sheet if sheet is not None else names[0])
    except python_calamine.PasswordError as error:
        raise OnefoldError("is protected by a password; save it without one and land it again") from error
    except python_calamine.CalamineError as error:
        raise OnefoldError(f"is no readable workbook: {error}; save it again in Excel, or as CSV, and land it again") from error
    target = folder / "sheet.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        rows = ([_text(cell) for cell in row] for row in cells.iter_rows())
        csv.writer(file, lineterminator="\n").writerows(row for row in rows if any(row))
    return target


def _refuse_unreadable(path: Path) -> None:
    """Refuse what would end in an unclear error, or in memory running out."""
    with path.open("rb") as file:
        is_old = file.read(4) == _OLD_FORMAT
    if is_old and (path.suffix.lower() != ".xls" or _ENCRYPTED in path.read_bytes()):
        raise OnefoldError(
            "is protected by a password, or an old workbook under a new name; "
            "save it as .xlsx without a password and land it again"
        )
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as parts:
        for name in parts.namelist():
            if not re.fullmatch(r"xl/worksheets/[^/]+[.]xml", name):
                continue
            with parts.open(name) as part:
                found = re.search(rb'<dimension ref="[A-Z]+\d+:([A-Z]+)(\d+)"', part.read(4096))
            if found and _column(found[1]) * int(found[2]) > MOST_CELLS:
                raise OnefoldError(
                    f"has a sheet that reaches to {(found[1] + found[2]).decode()}, more than {MOST_CELLS:,} cells; "
                    "delete the empty rows and columns behind the data, or export it as CSV"
                )


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _text(cell: object) -> str:
    match cell:
        case bool():
            return "true" if cell else "false"
        case float():
            # A workbook keeps 15 digits of a number; a longer id has lost its end, and its form shows that.
            return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else f"{cell:.15g}".replace("e", "E")
        case datetime():
            return cell.isoformat(" ")
        case date() | time():
            return cell.isoformat()
        case timedelta():
            minutes, seconds = divmod(round(cell.total_seconds()), 60)
            return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        case _:
            return str(cell)
