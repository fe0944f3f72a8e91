"""What other rules would change: identity solved again on a copy, held against what is now."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from dagster_project.lib import dbt, progress
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.identity.evaluate import IDENTIFIERS, measure
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.steps import model_file
from dagster_project.lib.state import State

# Built anew in the copy from the sightings under the new rules; what is downstream of records is not.
_MODELS = (
    "identity_nodes",
    "identity_matches",
    "identity_evidence",
    "identity_edges",
    "identity_assignments",
    "identity_records",
)
# What makes ids survive, and so goes into the copy.
_STATE = ("assignments", "_changes", "_redirects", "_refusals", "_decisions", "_customer_ids", "_solved")


@dataclass(frozen=True)
class WhatIf:
    """What other rules would change.

    `figures` are (now, then) by name; `moves` are counts of pairs of identifiers gained and lost, of customers merged and
    split, and of ids that would change. `audiences` has, for each audience, its members now, how many customers they would be,
    and how many of those would be merged with somebody who is no member.
    """

    version_now: str
    version_then: str
    figures: dict[str, tuple[Any, Any]]
    moves: dict[str, int]
    audiences: list[dict[str, Any]]
    merged: list[dict[str, Any]]
    split: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def what_if(home: Home, rules_file: Path, examples: int = 5) -> WhatIf:
    """Solve a home's identity under the rules of a file, on a copy that is thrown away.

    The warehouse is locked only while its identifiers are copied; nothing in the home changes.

    Raises:
        OnefoldError: the file is not one of rules, or the home has no customers yet.
    """
    rules, now = Rules.read(rules_file), Rules.of(home)
    with home.scratch() as folder:
        copy = Home(folder / "home").prepare()
        progress.tell("copy what identifies customers", 0, len(_MODELS))
        _copy(home, copy, rules_file, rules)
        with _environment():
            done = dbt.run(copy, ["run", "--select", *_MODELS, "--full-refresh"], on_event=progress.tell_dbt, target="duckdb")
        if not done.success:
            raise OnefoldError(dbt.failures(done))
        with copy.connect("what-if") as connection:
            return _compare(connection, now.version, rules.version, examples)


@contextmanager
def _environment() -> Iterator[None]:
    """dbt learns the home from the environment; put back what was there."""
    before = os.environ.get("ONEFOLD_HOME")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("ONEFOLD_HOME", None)
        else:
            os.environ["ONEFOLD_HOME"] = before


def _copy(home: Home, copy: Home, rules_file: Path, rules: Rules) -> None:
    """Make a home with the rules of a file, and with all that identity is worked out from: sightings under these rules, what
    people decided, ids and their history. What is now stands in the schema `now`."""
    for name in ("onefold.yaml", "secret.key", model_file(home).name):
        if (home.path / name).exists():
            (copy.path / name).write_bytes((home.path / name).read_bytes())
    for mapping in home.sources.glob("**/*.yaml"):
        target = copy.sources / mapping.relative_to(home.sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(mapping.read_bytes())
    (copy.path / "identity.yaml").write_bytes(rules_file.read_bytes())
    for decision in State(home).decisions():
        State(copy).decide(decision)
    with home.connect("what-if: copy", patience=60) as connection:
        tables = {
            f"{schema}.{table}"
            for schema, table in connection.execute("select table_schema, table_name from information_schema.tables").fetchall()
        }
        if not {"identity.sightings", "identity.profiles", "identity.assignments"} <= tables:
            raise OnefoldError(f"{home.path} has no customers yet; run `onefold refresh`")
        connection.execute(f"attach '{quoted(copy.warehouse)}' as copy")
        try:
            connection.execute("create schema copy.identity; create schema copy.now")
            for table in _STATE:
                connection.execute(f"create table copy.identity.{table} as from identity.{table}")
            connection.execute(f"create table copy.identity.sightings as {_sightings(rules)}")
            connection.execute("create table copy.identity.profiles as from identity.profiles")
            connection.execute(
                """
                create table copy.now.assignments as from identity.assignments;
                create table copy.now._refusals as from identity._refusals;
                create table copy.now.records as
                select distinct channel, identifier_type, identifier_value, customer_id from identity.records
                """
            )
            memberships = "select audience, customer_id from audiences.memberships where left_at is null"
            if "audiences.memberships" not in tables:
                memberships = "select null::varchar as audience, null::varchar as customer_id where false"
            connection.execute(f"create table copy.now.memberships as {memberships}")
        finally:
            connection.execute("detach copy")


def _sightings(rules: Rules) -> str:
    """The sightings as dbt's model identity_sightings makes them, under other rules, from those that are there."""
    ranks, blocked, alone = [], [], []
    for name, identifier in rules.types.items():
        patterns = quoted("|".join((*rules.blocked, *identifier.blocked)))
        ranks.append(f"when '{quoted(name)}' then {identifier.rank}")
        blocked.append(f"when '{quoted(name)}' then regexp_matches(lower(identifier_value), '^({patterns})$')")
        alone.append(f"when '{quoted(name)}' then {str(identifier.alone).lower()}")
    undeclared = quoted("|".join((*rules.blocked, *rules.undeclared.blocked)))
    parts = f"""
        select
            * exclude (is_usable, priority),
            case identifier_type {" ".join(ranks)} else {rules.undeclared.rank} end as priority,
            is_valid and length(identifier_value) <= {rules.longest} and not case identifier_type {" ".join(blocked)}
                else regexp_matches(lower(identifier_value), '^({undeclared})$') end as is_part,
            is_part and case identifier_type {" ".join(alone)} else {str(rules.undeclared.alone).lower()} end as is_usable
        from identity.sightings where identifier_type not like '%+%'
    """
    columns = (
        "sighting_id, channel, source_table, record_id, identifier_type, priority, identifier_value, is_valid, is_usable, "
        "seen_at, is_current, _is_revision, _seq"
    )
    together = []
    for name in rules.together:
        first, *others = name.split("+")
        parts = [f"replace(replace(of_{at}.identifier_value, '%', '%25'), '|', '%7C')" for at in range(len(others) + 1)]
        values = ", ".join(parts)
        joins = "".join(
            f" join parts as of_{at} on of_{at}.source_table = of_0.source_table and of_{at}.record_id = of_0.record_id"
            f" and of_{at}.identifier_type = '{quoted(other)}' and of_{at}.is_part and of_{at}.is_current"
            for at, other in enumerate(others, start=1)
        )
        together.append(
            f"""
            union all
            select
                md5(concat_ws('|', of_0.source_table, of_0.record_id, '{quoted(name)}', {values})), of_0.channel,
                of_0.source_table, of_0.record_id, '{quoted(name)}', {rules.types[name].rank}, concat_ws('|', {values}), true,
                true, of_0.seen_at, true, of_0._is_revision, of_0._seq
            from parts as of_0{joins}
            where of_0.identifier_type = '{quoted(first)}' and of_0.is_part and of_0.is_current
            """
        )
    return f"with parts as ({parts}) select {columns} from parts {''.join(together)}"


def _compare(connection: duckdb.DuckDBPyConnection, version_now: str, version_then: str, examples: int) -> WhatIf:
    # Of a value shared in time, the last holder counts. What is now takes the part of the truth.
    connection.execute(
        """
        create temp table truth as select node_id as unit, customer_id as person_id from now.assignments where valid_to is null;
        create temp table found as select node_id as unit, customer_id from identity.assignments where valid_to is null;
        create temp table then_records as
        select distinct channel, identifier_type, identifier_value, customer_id from identity.records
        """
    )
    held = measure(connection, IDENTIFIERS, examples)
    customers = "select count(distinct customer_id) from {}.assignments"
    matched = """
        with reach as (select customer_id, min(channel) <> max(channel) as is_matched from {0} group by customer_id)
        select count(*) filter (is_matched) / count(*) from {0} left join reach using (customer_id)
    """
    shared = "select count(distinct node_id) from {}.assignments where valid_to is not null"
    refused = "select count(*) from {}._refusals"

    def both(query: str, now: str, then: str) -> tuple[Any, Any]:
        return tuple(connection.execute(query.format(table)).fetchone()[0] for table in (now, then))

    moves = connection.execute(
        """
        with holdings as (select distinct person_id, customer_id from truth join found using (unit))
        select
            (select count(*) from (select customer_id from holdings group by customer_id having count(*) > 1)),
            (select count(*) from (select person_id from holdings group by person_id having count(*) > 1)),
            (select count(*) from truth join found using (unit) where person_id <> customer_id),
            (select count(*) from (select distinct person_id from truth) anti join found on found.customer_id = person_id),
            (select count(*) from truth anti join found using (unit)),
            (select count(*) from found anti join truth using (unit))
        """
    ).fetchone()
    audiences = connection.execute(
        """
        with members as (
            select distinct audience, person_id, found.customer_id
            from now.memberships as m join truth on truth.person_id = m.customer_id join found using (unit)
        ),
        others as (
            select distinct members.audience, members.customer_id
            from members join found using (customer_id) join truth using (unit)
            left join now.memberships as m on m.audience = members.audience and m.customer_id = truth.person_id
            where m.audience is null
        )
        select
            audience, count(distinct members.person_id) as members_now, count(distinct members.customer_id) as customers_then,
            count(distinct others.customer_id) as merged_with_others
        from members left join others using (audience, customer_id)
        group by audience order by audience
        """
    )
    columns = [name for name, *_ in audiences.description]
    moved_audiences = [dict(zip(columns, row, strict=True)) for row in audiences.fetchall()]
    return WhatIf(
        version_now,
        version_then,
        {
            "customers": both(customers, "now", "identity"),
            "match_rate": both(matched, "now.records", "then_records"),
            "shared_identifiers": both(shared, "now", "identity"),
            "refusals": both(refused, "now", "identity"),
        },
        {
            "pairs_gained": held.found - held.agreed,
            "pairs_lost": held.true - held.agreed,
            **dict(zip(("customers_merged", "customers_split", "identifiers_moved", "ids_retired",
                        "identifiers_no_longer_usable", "identifiers_usable_now"), moves, strict=True)),
        },
        moved_audiences,
        _renamed(held.wrongly_joined),
        _renamed(held.wrongly_parted),
    )  # fmt: skip


def _renamed(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples of an evaluation in words of two runs: its people are the customers now."""
    names = {
        "customer_id": "customer_then",
        "person_id": "customer_now",
        "people": "customers_now",
        "customers": "customers_then",
    }
    names |= {"units": "identifiers", "wrong_pairs": "pairs"}
    return [{names.get(name, name): value for name, value in row.items()} for row in examples]
