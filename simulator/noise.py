"""What goes wrong on the way from a person to a file, each kind with a rate of its own."""

import re
from dataclasses import dataclass, fields
from random import Random

from simulator.exports import Export

NULL_IDS = ("0", "null", "unknown", "", "anonymous", "-1")
INVALID_CONTACTS = {"email": ("n/a", "test@test", "not-an-email", "无"), "phone": ("12345", "n/a", "00000000", "无")}
BROKEN_NUMBER, BROKEN_TIME, BROKEN_VALUE = "abc", "31/02/yesterday", "typo"
_UNUSABLE = re.compile(r"[0-]*|-1|null|anonymous|void|abc123|invalid|blank|unknown|none|test|n/a|无", re.IGNORECASE)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")


@dataclass(frozen=True)
class Noise:
    """Rates of everything that goes wrong, each between 0 and 1. `Noise.none()` is a company without mistakes.

    A rate over people that is above 0 makes at least one case, so that small samples have them.
    """

    typo_rate: float = 0.01
    """Share of rows with a contact or name typed by hand in which one of them has a typing error."""
    null_id_rate: float = 0.01
    """Share of rows with a machine id in which it reads '0', 'null', 'unknown', '', 'anonymous' or '-1'."""
    invalid_contact_rate: float = 0.005
    """Share of rows with an e-mail or phone typed by hand in which it is no address at all ('n/a', '12345')."""
    missing_value_rate: float = 0.03
    """Share of rows that lack one optional value which usually is there."""
    shared_device_rate: float = 0.02
    """Share of households in which two people use one browser and one device; each logs in as themselves."""
    recycled_phone_rate: float = 0.003
    """Share of people whose phone number was somebody else's before."""
    office_email_rate: float = 0.005
    """Share of people who also write from an address such as info@firm that colleagues use as well."""
    duplicate_contact_rate: float = 0.03
    """Share of CRM contacts entered a second time under another contact_id, with other spelling and address."""
    broken_row_rate: float = 0.003
    """Share of rows nobody can accept: cut lines, words for numbers, missing keys, values outside the contract."""
    duplicate_row_rate: float = 0.005
    """Share of rows repeated exactly, half in the same file, half in the next one."""
    late_rate: float = 0.01
    """Share of rows that arrive in the file after their own."""
    resent_file_rate: float = 0.02
    """Share of files sent a second time, unchanged, under another name."""
    drifted_file_rate: float = 0.03
    """Share of files with an unknown column and the columns in another order."""

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise ValueError(f"Noise.{field.name} is {rate!r}; a rate must be a number between 0 and 1")

    @classmethod
    def none(cls) -> "Noise":
        """Every rate zero."""
        return cls(**{field.name: 0.0 for field in fields(cls)})


def is_usable(identifier_type: str, value: object) -> bool:
    """Whether the value can name a person: no null in disguise, and a well-formed address."""
    text = "" if value is None else str(value).strip()
    if _UNUSABLE.fullmatch(text):
        return False
    if identifier_type == "email":
        return _EMAIL.fullmatch(text) is not None
    if identifier_type == "phone":
        return sum(character.isdigit() for character in text) > 7
    return True


def mistype(column: str, value: str, rng: Random) -> str:
    """One slip of the finger. E-mails and phones stay well-formed, so that nobody but the owner can tell."""
    if column == "phone":
        digits = [place for place in range(len(value) - 4, len(value)) if value[place].isdigit()]
        place = rng.choice(digits)
        return value[:place] + str((int(value[place]) + rng.randint(1, 9)) % 10) + value[place + 1 :]
    end = value.index("@") if "@" in value else len(value)
    if end < 3:
        return value[:end] + value[end - 1] + value[end:]
    place = rng.randrange(1, end - 1)
    kind = rng.random()
    if kind < 0.4:  # two letters in the wrong order
        return value[:place] + value[place + 1] + value[place] + value[place + 2 :]
    if kind < 0.7:  # one letter lost
        return value[:place] + value[place + 1 :]
    return value[:place] + value[place] + value[place:]  # one letter twice


class RowNoise:
    """Spoils the values of one export's rows; rows are lists in the order of `export.columns`."""

    def __init__(self, export: Export, noise: Noise, rng: Random) -> None:
        self._export, self._noise, self._rng = export, noise, rng
        self._places = {column: place for place, column in enumerate(export.columns)}

    def blemish(self, row: list) -> None:
        """Typing errors, invalid contacts, null ids and missing values, in place; the row stays acceptable."""
        export, noise, rng = self._export, self._noise, self._rng
        if export.typed_by_hand:
            chance = rng.random()
            if chance < noise.typo_rate:
                self._change(row, export.typed_by_hand, lambda column, value: mistype(column, value, rng))
            elif chance < noise.typo_rate + noise.invalid_contact_rate:
                contacts = [column for column in export.typed_by_hand if column in INVALID_CONTACTS]
                self._change(row, contacts, lambda column, value: rng.choice(INVALID_CONTACTS[column]))
        if export.machine_ids and rng.random() < noise.null_id_rate:
            self._change(row, export.machine_ids, lambda column, value: rng.choice(NULL_IDS))
        if export.may_be_missing and rng.random() < noise.missing_value_rate:
            self._change(row, export.may_be_missing, lambda column, value: None)

    def _change(self, row: list, columns, change) -> None:
        """Apply `change` to one of those columns that hold a value."""
        filled = [column for column in columns if row[self._places[column]] not in (None, "")]
        if filled:
            column = self._rng.choice(filled)
            row[self._places[column]] = change(column, str(row[self._places[column]]))

    def break_values(self, row: list) -> None:
        """Make the row one that a reader by the contract must reject, in place."""
        export, rng = self._export, self._rng
        ways = [(export.required[0], None)]
        if export.file_format != "parquet":  # Parquet is typed: a word cannot get into a number
            filled_numbers = [column for column in export.numbers if row[self._places[column]] not in (None, "")]
            ways += [(column, BROKEN_NUMBER) for column in filled_numbers]
            ways += [(column, BROKEN_VALUE) for column in export.enumerations]
            if export.time_column in export.required:
                ways.append((export.time_column, BROKEN_TIME))
        column, value = rng.choice(ways)
        row[self._places[column]] = value
