"""Batches in any order and grouping, late and repeated, give the same rows: the whole chain against one single load.

Alone: `.venv/bin/python -m pytest -q tests/test_batches.py`; twenty examples of it: `FAULTS=200 FAULT_SEED=100` before it.
Each example is a seed; a failure names it, keeps its home, and `FAULTS=1 FAULT_SEED=<that seed>` repeats it.
"""

import csv
import gzip
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import duckdb
import pytest
from company import ingest_all, refresh
from comparing import differences, present_tables

from dagster_project.lib import dbt
from dagster_project.lib.home import Home
from simulator import SETTINGS, simulate

UNTIL = datetime(2026, 10, 31)
_DELIMITERS = {"csv": ",", "tsv": "\t"}
FIRST, EXAMPLES = int(os.environ.get("FAULT_SEED", 0)), -(-int(os.environ.get("FAULTS", 12)) // 10)


@dataclass(frozen=True)
class Row:
    """One row of an export, and the form of the file that it came in; rows of one form may share a file."""

    entity: str  # channel/entity
    form: tuple  # csv or tsv with the header; jsonl; parquet with columns and their types
    content: str | tuple


@dataclass(frozen=True)
class Single:
    """Rows, and the tables that loading them at once gives, by whether customers go by their ids."""

    rows: list[Row]
    tables: dict[bool, dict[str, list[tuple]]]


# The rows ------------------------------------------------------------------------------------------------------------


def _simulated(landing: Path) -> Iterator[Row]:
    for file in sorted(path for path in landing.glob("*/*/**/*") if path.is_file()):
        entity = "/".join(file.relative_to(landing).parts[:2])
        if file.suffix == ".parquet":
            table = duckdb.read_parquet(str(file))
            form = ("parquet", tuple(zip(table.columns, map(str, table.types), strict=True)))
            yield from (Row(entity, form, row) for row in table.fetchall())
            continue
        text = _unpacked(file)
        if ".jsonl" in file.name:
            yield from (Row(entity, ("jsonl",), line) for line in text.splitlines())
        else:
            kind = "tsv" if ".tsv" in file.name else "csv"
            header, *rows = csv.reader(io.StringIO(text), delimiter=_DELIMITERS[kind])
            yield from (Row(entity, (kind, tuple(header)), tuple(row)) for row in rows)


def _unpacked(file: Path) -> str:
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes()).decode()
    if file.suffix == ".zst":  # Python 3.11 has no Zstandard
        lines = duckdb.read_csv(str(file), header=False, delimiter="\x01", quotechar="", escapechar="", all_varchar=True)
        return "".join(f"{line}\n" for (line,) in lines.fetchall())
    return file.read_text(encoding="utf-8")


def _contested(chance: random.Random) -> Iterator[Row]:
    """Few people and many versions of what is known of them: equal keys, equal times, identifiers that come, go and move."""

    def someone() -> dict:
        return {
            "user_id": chance.choice(["", "", "q1", "q2", "q3", "q4", "q5", "test"]),
            "email": chance.choice(["", "", "a@q.example", "B@q.example ", "b@q.example", "c@q.example", "c@q"]),
            "phone": chance.choice(["", "", "13800138001", "+86 138 0013 8002", "138-0013-8003", "12"]),
        }

    def day() -> str:
        return (date(2026, 10, 1) + timedelta(days=chance.randrange(6))).isoformat()

    def row(entity: str, **fields: object) -> Row:
        if chance.random() < 0.5:
            return Row(entity, ("jsonl",), json.dumps(fields))
        return Row(entity, ("csv", tuple(fields)), tuple(str(value) for value in fields.values()))

    for _ in range(40):
        name = chance.choice(["", "Ann", "Bo", "Cy"])
        yield row("crm/contacts", contact_id=f"k{chance.randrange(8)}", full_name=name, **someone(), updated_at=day())
    for _ in range(40):
        yield row(
            "orders/orders", order_id=f"qo{chance.randrange(15)}", ordered_at=day(), status=chance.choice(["paid", "void"]),
            **someone(), amount=chance.choice([10, 20, 30]), currency=chance.choice(["CNY", "USD", "eur"]), updated_at=day(),
        )  # fmt: skip
    for _ in range(12):
        yield row("external/fx_rates", date=day(), currency=chance.choice(["USD", "EUR"]), rate_to_base=chance.choice([7, 8]))
    for _ in range(20):
        member = someone()
        yield row(
            "loyalty/members", member_id=f"m{chance.randrange(5)}", phone=member["phone"], email=member["email"],
            tier=chance.choice(["gold", "silver", ""]), joined_at=day(),
        )  # fmt: skip
    for _ in range(30):
        kind = chance.choice(["user_id", "email", "phone"])
        yield row(
            "crm/consents", identifier_type=kind, identifier_value=someone()[kind] or "q1", purpose="marketing",
            channel=chance.choice(["email", "any", ""]), status=chance.choice(["granted", "denied", "withdrawn"]),
            occurred_at=day(),
        )  # fmt: skip
    for _ in range(40):
        fields = someone()
        yield row(
            "web/events", event_id=f"qe{chance.randrange(25)}", event_name=chance.choice(["page_viewed", "searched", "login"]),
            occurred_at=day(), anonymous_id=f"qa{chance.randrange(6)}", user_id=fields["user_id"], search_term="tea",
        )  # fmt: skip
    for _ in range(10):
        yield row(
            "external/attributes", identifier_type="user_id", identifier_value=f"q{chance.randrange(1, 5)}", attribute="city",
            value=chance.choice(["上海", "北京", ""]), as_of=day(),
        )  # fmt: skip


def _write(home: Home, name: str, rows: list[Row]) -> None:
    """One file for each form among the rows; the names keep their order."""
    for number, (entity, form) in enumerate(dict.fromkeys((row.entity, row.form) for row in rows)):
        chosen = [row.content for row in rows if (row.entity, row.form) == (entity, form)]
        file = home.landing / entity / f"{name}-{number}.{form[0]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if form[0] == "parquet":
            with duckdb.connect() as connection:
                connection.execute(f"create table rows ({', '.join(' '.join(column) for column in form[1])})")
                connection.executemany(f"insert into rows values ({', '.join('?' * len(form[1]))})", chosen)
                connection.execute(f"copy rows to '{file}' (format parquet)")
        elif form[0] == "jsonl":
            file.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
        else:
            with file.open("w", newline="", encoding="utf-8") as handle:
                csv.writer(handle, delimiter=_DELIMITERS[form[0]]).writerows([form[1], *chosen])


def _groups(rows: list[Row], chance: random.Random, refreshes: int) -> list[list[tuple[str, list[Row]]]]:
    """Files for each refresh: every row in one of them, some in two, some files in two of the loads."""
    groups: list[list[tuple[str, list[Row]]]] = [[] for _ in range(refreshes)]
    for entity in sorted({row.entity for row in rows}):
        mine = [row for row in rows if row.entity == entity]
        mine += chance.sample(mine, len(mine) // 10)
        chance.shuffle(mine)
        cuts = sorted(chance.randrange(len(mine) + 1) for _ in range(chance.randrange(5)))
        for start, end in zip([0, *cuts], [*cuts, len(mine)], strict=True):
            name = f"{chance.randrange(10**6):06}"
            groups[chance.randrange(refreshes)].append((name, mine[start:end]))
            if chance.random() < 0.2:
                groups[chance.randrange(refreshes)].append((f"{name}-again", mine[start:end]))
    for group in groups:
        chance.shuffle(group)
    return groups


# The chain -----------------------------------------------------------------------------------------------------------


class Company:
    """One home after the other, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")

    def found(self) -> None:
        """Begin with nothing."""
        shutil.rmtree(self.home.path, ignore_errors=True)
        self.home.prepare()
        (self.home.path / "onefold.yaml").write_text(SETTINGS)

    def take_in(self, files: list[tuple[str, list[Row]]], as_of: datetime) -> None:
        """Load and refresh; that half a company is not what is usual stops nothing."""
        for name, rows in files:
            _write(self.home, name, rows)
        ingest_all(self.home)
        refresh(self.home, as_of.replace(tzinfo=UTC))


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """Leaves the process's variables as they were: dbt is told of its home by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", "set for dbt")
        yield Company(tmp_path_factory.mktemp("batches"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("exports")
    simulate(folder / "landing", folder / "truth", people=40, days=60, seed=5, until=UNTIL.date())
    return list(_simulated(folder / "landing"))


@pytest.fixture(scope="module")
def single(company: Company, simulated: list[Row]) -> Callable[[int], Single]:
    """The rows of a seed, and the tables that one load and one refresh make of them; ten seeds share them."""

    @cache
    def of_ten(seed: int) -> Single:
        rows = [*simulated, *_contested(random.Random(seed))]
        company.found()
        company.take_in([("all", rows)], UNTIL)
        return Single(rows, {same_ids: present_tables(company.home, same_ids) for same_ids in (True, False)})

    return lambda seed: of_ten(seed // 10)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + EXAMPLES))
def test_batches_in_any_order_and_grouping_give_the_rows_of_a_single_load(
    company: Company, single: Callable[[int], Single], seed: int
) -> None:
    """Every third example refreshes once, from an empty state: there the customer ids are the same, too.

    Cut points and daily reports are worked out once a day, by the first refresh of it: after two on the last day the tags
    may differ, and the reports are of the first.
    """
    chance, expected = random.Random(seed), single(seed)
    refreshes = 1 if seed % 3 == 1 else chance.randint(2, 4)
    company.found()
    days_before = [*(chance.choice([0, 1, 5, 20]) for _ in range(refreshes - 1)), 0]
    for files, days in zip(_groups(expected.rows, chance, refreshes), days_before, strict=True):
        company.take_in(files, UNTIL - timedelta(days=days))
    same_ids = refreshes == 1
    found = differences(present_tables(company.home, same_ids), expected.tables[same_ids])
    if days_before.count(0) > 1:
        reports = [f"{n['schema']}.{n['alias']}:" for n in dbt.manifest(company.home)["nodes"].values() if dbt.is_daily(n)]
        from_tags = ("tags.", "audiences.", "quality.", "analytics.key_customers:")
        found = [line for line in found if not line.startswith((*from_tags, *reports))]
    if found:
        kept = company.folder / f"failed-{seed}"
        shutil.copytree(company.home.path, kept, symlinks=True)
        pytest.fail("\n".join([f"FAULTS=1 FAULT_SEED={seed} repeats it; its home is kept in {kept}", *found]))
