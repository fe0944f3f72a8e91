"""How right identity is: against a truth, or against another run.

Pairs are counted, never listed: of n units of one person there are n (n − 1) / 2. Measures: pairwise precision, recall and F1,
and B³ (Bagga and Baldwin 1998), the mean over all units of the share of right ones among those they are put together with
(precision), or should be (recall). Recall is also given over the pairs that share linking evidence: those whose identifiers a
chain of records of that one person connects, since nobody can find the others by identifiers. Precision is also given over the
identifiers that only one person's records carry: what is wrong beyond that are records on things that people share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.identity.components import connected_components

RECORDS, IDENTIFIERS = "records", "identifiers"
_FORMS = {
    RECORDS: {"channel", "entity", "record_id", "person_id"},
    IDENTIFIERS: {"identifier_type", "identifier_value", "person_id"},
}


@dataclass(frozen=True)
class Evaluation:
    """Counts of units (records or identifiers) and of pairs of them; what is derived follows.

    `found` are the pairs that are one customer here, `true` those that are one person there, `agreed` both. `linked` are the
    true pairs that share evidence, `linked_agreed` those of them that were found; `own` are the pairs of identifiers
    of one customer that are each one person's alone, `own_agreed` those of them that are of the same person; all None where
    units are identifiers.
    """

    unit: str
    units: int
    unknown: int  # units of the truth that identity does not know; left out of everything else
    people: int
    customers: int
    largest: int  # units of the largest customer
    found: int
    true: int
    agreed: int
    b3_precision: float
    b3_recall: float
    linked: int | None
    linked_agreed: int | None
    own: int | None
    own_agreed: int | None
    wrongly_joined: list[dict[str, Any]]  # customers that hold several people
    wrongly_parted: list[dict[str, Any]]  # people who are several customers

    @property
    def precision(self) -> float | None:
        return _share(self.agreed, self.found)

    @property
    def recall(self) -> float | None:
        return _share(self.agreed, self.true)

    @property
    def recall_of_linked(self) -> float | None:
        return None if self.linked is None else _share(self.linked_agreed, self.linked)

    @property
    def identifier_precision(self) -> float | None:
        return None if self.own is None else _share(self.own_agreed, self.own)

    @property
    def f1(self) -> float | None:
        return _share(2 * self.agreed, self.found + self.true)

    @property
    def b3_f1(self) -> float | None:
        return _share(2 * self.b3_precision * self.b3_recall, self.b3_precision + self.b3_recall)

    @property
    def measures(self) -> dict[str, Any]:
        """All figures by their names, as they are shown."""
        return {
            self.unit: self.units,
            "unknown": self.unknown,
            "people": self.people,
            "customers": self.customers,
            "largest_customer": self.largest,
            "pairs_gained": self.found - self.agreed,
            "pairs_lost": self.true - self.agreed,
            "precision": self.precision,
            "recall": self.recall,
            "recall_of_linked": self.recall_of_linked,
            "identifier_precision": self.identifier_precision,
            "f1": self.f1,
            "b3_precision": self.b3_precision,
            "b3_recall": self.b3_recall,
            "b3_f1": self.b3_f1,
        }


def evaluate(home: Home, truth: Path, examples: int = 10) -> Evaluation:
    """Hold the customers of a home against a truth.

    Args:
        truth: a CSV or Parquet file with the columns channel, entity, record_id and person_id (record_id: the key's parts with
            | between), or identifier_type, identifier_value and person_id; or another run: a served version's folder or its
            `onefold_private.duckdb`, whose customers are taken for the truth.
        examples: how many customers to name that hold several people, and people who are several customers.

    Raises:
        OnefoldError: there is no such file, it has none of these forms, it names a unit twice, or it names nothing known.
    """
    with home.connect("evaluate", patience=30) as connection:
        if not connection.execute(
            "select 1 from information_schema.tables where table_schema = 'identity' and table_name = 'assignments'"
        ).fetchone():
            raise OnefoldError(f"{home.path} has no customers yet; run `onefold refresh`")
        unit = _read(connection, truth)
        return measure(connection, unit, examples)


def _read(connection: duckdb.DuckDBPyConnection, truth: Path) -> str:
    """Make the temporary tables `truth` (unit, person_id) and `found` (unit, customer_id); returns what the units are."""
    file = truth / "onefold_private.duckdb" if truth.is_dir() else truth
    if not file.exists():
        raise OnefoldError(f"{file}: no such file; give a CSV or Parquet file, or the folder of a served version")
    if file.suffix == ".duckdb":
        unit = IDENTIFIERS
        connection.execute(f"attach '{quoted(file.resolve())}' as other_run (read_only)")
        # An identifier that several share in time counts for the last of them.
        rows = """
            select concat(identifier_type, ':', identifier_value) as unit, customer_id as person_id
            from other_run.identity.assignments where valid_to is null
        """
    else:
        reader = "read_parquet('{}')" if file.suffix == ".parquet" else "read_csv('{}', all_varchar = true, header = true)"
        source = reader.format(quoted(file))
        try:
            columns = {name for name, *_ in connection.execute(f"describe from {source}").fetchall()}
        except duckdb.Error as error:
            raise OnefoldError(f"{file}: {str(error).splitlines()[0]}") from error
        unit = next((unit for unit, needed in _FORMS.items() if needed <= columns), "")
        if not unit:
            forms = " or ".join(", ".join(sorted(needed)) for needed in _FORMS.values())
            raise OnefoldError(f"{file}: has the columns {', '.join(sorted(columns))}; needed are {forms}")
        name = (
            "concat(channel, '_', entity, ':', record_id)"
            if unit == RECORDS
            else "concat(identifier_type, ':', identifier_value)"
        )
        rows = f"select {name} as unit, cast(person_id as varchar) as person_id from {source} where person_id is not null"
    connection.execute(f"create or replace temp table truth as select distinct unit, person_id from ({rows})")
    if file.suffix == ".duckdb":
        connection.execute("detach other_run")
    twice = connection.execute("select unit from truth group by unit having count(*) > 1 order by unit limit 1").fetchone()
    if twice:
        raise OnefoldError(f"{file}: one of the {unit} belongs to two people; a truth names each once")
    found = {
        RECORDS: "select record_key as unit, customer_id from identity.records",
        IDENTIFIERS: "select node_id as unit, customer_id from identity.assignments where valid_to is null",
    }
    connection.execute(f"create or replace temp table found as {found[unit]}")
    known = connection.execute("select count(*) from truth semi join found using (unit)").fetchone()[0]
    if not known:
        raise OnefoldError(f"{file}: none of its {unit} is known here; is it the truth of this home?")
    return unit


def measure(connection: duckdb.DuckDBPyConnection, unit: str, examples: int = 10) -> Evaluation:
    """Measure the temporary table `found` (unit, customer_id) against `truth` (unit, person_id); each unit stands once in each.

    A unit without a customer is a customer of its own.
    """
    connection.execute(
        """
        create or replace temp table judged as
        select truth.unit, truth.person_id, coalesce(found.customer_id, concat('nobody ', truth.unit)) as customer_id
        from truth join found using (unit);
        create or replace temp table holdings as
        select customer_id, person_id, count(*) as n from judged group by all;
        create or replace temp table sizes as
        select *, sum(n) over (partition by customer_id) as of_customer, sum(n) over (partition by person_id) as of_person
        from holdings
        """
    )
    units, people, customers, largest, b3_precision, b3_recall, agreed = connection.execute(
        """
        select sum(n)::bigint, count(distinct person_id), count(distinct customer_id), max(of_customer)::bigint,
            sum(n * n / of_customer) / sum(n), sum(n * n / of_person) / sum(n), (sum(n * (n - 1)) // 2)::bigint
        from sizes
        """
    ).fetchone()
    pairs = "select coalesce((sum(n * (n - 1)) // 2)::bigint, 0) from (select sum(n) as n from holdings group by {})"
    found, true = (connection.execute(pairs.format(by)).fetchone()[0] for by in ("customer_id", "person_id"))
    unknown = connection.execute("select count(*) from truth anti join found using (unit)").fetchone()[0]
    linked = _linked(connection) if unit == RECORDS else (None, None)
    own = _own(connection) if unit == RECORDS else (None, None)
    return Evaluation(
        unit, units, unknown, people, customers, largest, found, true, agreed, b3_precision, b3_recall, *linked, *own,
        wrongly_joined=_examples(connection, "customer_id", "person_id", examples),
        wrongly_parted=_examples(connection, "person_id", "customer_id", examples),
    )  # fmt: skip


def _linked(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """True pairs of records that a chain of identifiers on records of the same person connects: all, and those found."""
    connection.execute(
        """
        create or replace temp table named as
        select
            judged.unit, dense_rank() over (order by judged.unit) - 1 as record,
            dense_rank() over (order by judged.person_id, identifier_type, identifier_value) - 1 as identifier
        from judged
        join identity.sightings on judged.unit = concat(source_table, ':', sightings.record_id)
        where is_current and is_usable
        """
    )
    records, identifiers = connection.execute(
        "select count(distinct record), coalesce(max(identifier) + 1, 0) from named"
    ).fetchone()
    links = connection.execute("select record, identifier from named").fetchnumpy()
    left, right = (np.asarray(links[side]).astype(np.int64) for side in ("record", "identifier"))
    parts = connected_components(records + identifiers, left, right + records)[:records]
    connection.register("parts", {"record": np.arange(records), "part": parts.astype(np.int64)})
    pairs = """
        select coalesce((sum(n * (n - 1)) // 2)::bigint, 0)
        from (
            select count(*) as n
            from (select distinct unit, record from named) join parts using (record) join judged using (unit) group by {}
        )
    """
    try:
        return tuple(connection.execute(pairs.format(by)).fetchone()[0] for by in ("part", "part, customer_id"))
    finally:
        connection.unregister("parts")


def _own(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Pairs of identifiers of one customer, of those that only one person's records carry: all, and those of one person."""
    connection.execute(
        """
        create or replace temp table owned as
        with own as (
            select identifier_type, identifier_value, min(person_id) as person_id
            from judged
            join identity.sightings as sightings on judged.unit = concat(source_table, ':', sightings.record_id)
            where is_current and is_usable
            group by all
            having count(distinct person_id) = 1
        )
        select kept.customer_id, own.person_id, count(*) as n
        from own join identity.assignments as kept using (identifier_type, identifier_value)
        where kept.valid_to is null
        group by all
        """
    )
    pairs = "select coalesce((sum(n * (n - 1)) // 2)::bigint, 0) from (select sum(n) as n from owned group by {})"
    return tuple(connection.execute(pairs.format(by)).fetchone()[0] for by in ("customer_id", "customer_id, person_id"))


def _examples(connection, one: str, several: str, most: int) -> list[dict[str, Any]]:
    """Those of one kind that hold several of the other, by the pairs that are wrong in them, with two of the units."""
    rows = connection.execute(
        f"""
        with wrong as (
            select {one}, count(*) as parts, sum(n)::bigint as units, ((sum(n) * sum(n) - sum(n * n)) // 2)::bigint as pairs
            from holdings group by {one} having count(*) > 1
            order by pairs desc, {one} limit {most}
        )
        select wrong.{one}, parts, units, pairs, min_by(unit, {several}) as example, max_by(unit, {several}) as another
        from wrong join judged using ({one})
        group by all order by pairs desc, {one}
        """
    ).fetchall()
    names = [one, {"customer_id": "customers", "person_id": "people"}[several], "units", "wrong_pairs", "example", "and"]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
