"""Whether two homes hold the same rows: table by table, row by row, value by value."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.progress import tell

# Sums of floating numbers depend on the order in which they are added, which no engine promises. Relative, or absolute near 0.
TOLERANCE = 1e-9
# What tells of the way to a row, and not of the row.
OF_THE_WAY = frozenset(
    ["_seq", "seq", "_first_seq", "source_seq", "run", "metric_key", "_loaded_at", "loaded_at", "rejected_at", "checked_at"]
)
LAYERS = ("reference", "cleaned", "identity", "unified", "tags", "analytics", "audiences", "quality")
_FLOATS = ("DOUBLE", "FLOAT")
_SIDES = ("ours", "theirs")
_SHOWN = 5  # differences of one table that are told


@dataclass(frozen=True)
class Difference:
    """One value, row or table that is not the same."""

    table: str
    key: str = ""  # column=value of the row
    column: str = ""
    ours: Any = None
    theirs: Any = None

    def __str__(self) -> str:
        if not self.key:
            return f"{self.table}: {self.ours} here, {self.theirs} there"
        if not self.column:
            return f"{self.table}: the row {self.key} is {'only here' if self.ours else 'only there'}"
        return f"{self.table}: {self.column} of {self.key} is {self.ours!r} here, {self.theirs!r} there"


@dataclass(frozen=True)
class Comparison:
    """What was compared; counts are tables, rows of ours, and values that differ (all, not only those that are told)."""

    tables: int
    rows: int
    differing: int
    differences: list[Difference]


def compare(home: Home, other: Home, tables: Iterable[str] = (), ignored: Iterable[str] = ()) -> Comparison:
    """Compare the models' tables of two homes, whatever engine built them.

    Args:
        tables: only these (`schema.table`); by default those of every layer that either home has, but for those whose name
            begins with _, which are a layer's own.
        ignored: more columns that are not looked at.

    Raises:
        OnefoldError: the homes have different keys, or one has no warehouse.
    """
    for each in (home, other):
        if not each.warehouse.exists():
            raise OnefoldError(f"{each.path} has no warehouse: it is no home, or nothing was ingested yet")
    left_out = OF_THE_WAY | set(ignored)
    with home.scratch() as scratch, home.connect("comparison") as here, other.connect("comparison") as there:
        ours, theirs = _columns(here), _columns(there)
        if home.key != other.key:
            raise OnefoldError(
                "the homes have different keys, of which customer ids and tokens are made: compare with a copy of this home, "
                "or give both the same secret.key before their first refresh"
            )
        names = sorted(set(tables) or {name for name in (ours.keys() | theirs.keys()) if "._" not in name})
        found: list[Difference] = []
        rows = differing = 0
        for done, name in enumerate(names, 1):
            if name not in ours or name not in theirs:
                said = ("there is no such table", "there is one")
                found.append(Difference(name, "", "", said[name in ours], said[name in theirs]))
                differing += 1
                continue
            columns = [c for c in ours[name] if c in theirs[name] and c not in left_out]
            for column in sorted((ours[name].keys() ^ theirs[name].keys()) - left_out):
                kinds = (str(side.get(column, "no such column")) for side in (ours[name], theirs[name]))
                found.append(Difference(f"{name}.{column}", "", "", *kinds))
                differing += 1
            files = [scratch / "ours.parquet", scratch / "theirs.parquet"]
            for connection, file in zip((here, there), files, strict=True):
                listed = ", ".join(f'"{column}"' for column in columns)
                connection.execute(f"copy (select {listed} from {name}) to '{quoted(file)}' (format parquet)")
            counted, wrong, told = _compare_rows(name, {c: (ours[name][c], theirs[name][c]) for c in columns}, *files)
            rows, differing = rows + counted, differing + wrong
            found += told
            tell(name, done, len(names))
    return Comparison(len(names), rows, differing, found)


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Column types of a home's tables, by `schema.table`."""
    rows = connection.execute(
        "select concat(table_schema, '.', table_name), column_name, data_type from information_schema.columns "
        "where table_catalog = current_catalog() and table_schema in (select unnest($layers)) order by 1, ordinal_position",
        {"layers": list(LAYERS)},
    ).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        tables.setdefault(table, {})[column] = kind
    return tables


def _compare_rows(
    table: str, columns: dict[str, tuple[str, str]], ours: Path, theirs: Path
) -> tuple[int, int, list[Difference]]:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for side, file in zip(_SIDES, (ours, theirs), strict=True):
            connection.execute(f"create view {side} as select * from read_parquet('{quoted(file)}')")
        rows, other_rows = (connection.execute(f"select count(*) from {side}").fetchone()[0] for side in _SIDES)
        if not columns:
            return rows, 0, []
        key = _key(connection, columns)
        others = [column for column in columns if column not in key]
        same = {column: _is_same(column, kinds) for column, kinds in columns.items()}
        if not key:  # rows that come twice: which is which cannot be told
            listed = ", ".join(f'"{c}"' for c in columns)
            only = [
                connection.execute(f"select {listed} from {a} except all select {listed} from {b}").fetchall()
                for a, b in (("ours", "theirs"), ("theirs", "ours"))
            ]
            told = [
                Difference(table, _words(columns, row), "", is_ours, not is_ours)
                for is_ours, some in ((True, only[0]), (False, only[1]))
                for row in some[:_SHOWN]
            ]
            return rows, len(only[0]) + len(only[1]), told
        matched = " and ".join(f'o."{c}" is not distinct from t."{c}"' for c in key)
        wrong = " or ".join(f"not ({same[c]})" for c in others) or "false"
        connection.execute(
            f"""
            create temp table pairs as
            select o, t, coalesce(o._is_there, false) as is_here, coalesce(t._is_there, false) as is_there
            from (select *, true as _is_there from ours) as o
            full join (select *, true as _is_there from theirs) as t on {matched}
            where o._is_there is null or t._is_there is null or {wrong}
            """
        )
        told, count = [], 0
        shown_key = [f'coalesce(o."{c}", t."{c}")' for c in key]
        for column in (None, *others):
            which = "not (is_here and is_there)" if column is None else f"is_here and is_there and not ({same[column]})"
            values = "is_here, is_there" if column is None else f'o."{column}", t."{column}"'
            (number,) = connection.execute(f"select count(*) from pairs where {which}").fetchone()
            count += number
            if number:
                some = connection.execute(
                    f"select {', '.join(shown_key)}, {values} from pairs where {which} order by all limit {_SHOWN}"
                ).fetchall()
                told += [Difference(table, _words(key, row[:-2]), column or "", *row[-2:]) for row in some]
        if rows != other_rows:
            told.insert(0, Difference(table, "", "", f"{rows} rows", f"{other_rows} rows"))
        return rows, count, told


def _is_same(column: str, kinds: tuple[str, str]) -> str:
    """SQL: whether a column of both sides has the same value."""
    o, t = f'o."{column}"', f't."{column}"'
    if not any(kind in _FLOATS for kind in kinds):
        return f"{o} is not distinct from {t}"
    return f"({o} is not distinct from {t} or coalesce(abs({o} - {t}) <= {TOLERANCE} * greatest(1, abs({o}), abs({t})), false))"


def _key(connection: duckdb.DuckDBPyConnection, columns: dict[str, tuple[str, str]]) -> list[str]:
    """The first columns that together are another value for each row of both sides; none where whole rows come twice."""
    key: list[str] = []
    for column in (c for c, kinds in columns.items() if not any(kind in _FLOATS for kind in kinds)):
        key.append(column)
        listed = ", ".join(f'"{c}"' for c in key)
        if all(
            connection.execute(f"select count(*) = count(distinct ({listed})) from {side}").fetchone()[0] for side in _SIDES
        ):
            return key
    return []


def _words(columns: Iterable[str], row: Iterable[Any]) -> str:
    return ", ".join(f"{column}={value}" for column, value in zip(columns, row, strict=True))


def told(comparison: Comparison) -> Iterator[str]:
    """The comparison in lines for people."""
    yield from map(str, comparison.differences)
    if comparison.differing:
        yield f"{comparison.differing} differences in {comparison.tables} tables with {comparison.rows:,} rows"
    else:
        yield f"the same: {comparison.rows:,} rows in {comparison.tables} tables"
