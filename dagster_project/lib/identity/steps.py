"""The steps of identity that keep state, as dbt's models call them; each commits by itself and may run again."""

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.identity.resolve import resolve
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.state import State

if TYPE_CHECKING:
    from dagster_project.lib.identity.backend import Backend
    from dagster_project.lib.identity.match import Model

log = logging.getLogger("onefold")

TABLES = """
create table if not exists identity.matches (
    match_id varchar not null,
    left_record varchar not null,
    right_record varchar not null,
    left_type varchar,
    left_value varchar,
    right_type varchar,
    right_value varchar,
    match_weight double not null,      -- log2 of the odds
    match_probability double not null,
    grade varchar not null,            -- transactional, lifecycle, advertising or near_miss
    contradiction varchar,
    evidence varchar not null,
    matched_by varchar not null,
    is_current boolean not null,
    _is_revision boolean not null,
    _seq bigint not null
);
create table if not exists identity._matched (seq bigint not null);
create table if not exists identity._widened (seq bigint not null);
create table if not exists identity.groups (grade varchar, customer_id varchar, group_id varchar);
"""


def assign(connection: duckdb.DuckDBPyConnection, home: Home, query: str, seq: int, as_of: datetime) -> None:
    """Who is who: bring `identity.assignments` up to the candidate graph that a query gives."""
    resolve(
        connection,
        graph=query,
        seq=seq,
        as_of=as_of,
        key=home.key,
        rules=Rules.of(home),
        decisions=State(home).decisions(),
    )


def match(connection: duckdb.DuckDBPyConnection, home: Home, query: str, seq: int, as_of: datetime) -> None:
    """Which records probably describe one person: bring `identity.matches` up to the profiles that a query gives.

    A home's first model is learnt as soon as there are profiles enough, and kept until somebody trains another.
    """
    from dagster_project.lib.identity.backend import DuckDB

    connection = getattr(connection, "_cursor", connection)  # Splink does not take dbt's wrapper of it
    backend = DuckDB(connection)
    with transaction(connection):
        connection.execute(TABLES)
        if not Rules.of(home).matching.enabled:
            connection.execute(
                "create or replace temp table found as select * exclude (_is_revision, _seq) from identity.matches limit 0"
            )
            _keep(connection, seq)
            connection.execute("delete from identity._matched")
            return
        profiles = what_changed(backend, home, query)
        if not profiles.has_any:
            return
        if found := compare(backend, home, query, profiles.changed, as_of):
            connection.execute(f"create or replace temp table found as {found}")
            _keep(connection, seq)
        connection.execute("delete from identity._matched")
        connection.execute("insert into identity._matched values (?)", [seq])


@dataclass(frozen=True)
class Changed:
    """What there is to match: `changed` is a query of the profiles that are other than before, None where all are."""

    has_any: bool
    changed: str | None


def what_changed(backend: "Backend", home: Home, query: str) -> Changed:
    """What of the profiles of a query was not matched yet, or was by another model or other settings."""
    from dagster_project.lib.identity.match import Model, are_pairs_of

    done, first, last = backend.row(
        "select coalesce((select max(seq) from identity._matched), -1) as done, min(_seq) as first, max(_seq) as last "
        f"from ({query}) as profiles"
    )
    if done < 0 or first is None or first > done:  # never matched, or built anew since
        return Changed(True, None)
    model = Model.load(model_file(home)) if model_file(home).exists() else None
    is_settled = model is None or are_pairs_of(backend, "identity._pairs", model, Rules.of(home).matching)
    changed = f"select profile_id from ({query}) as profiles where _seq > {done}"
    return Changed(last > done or not is_settled, changed)


def compare(backend: "Backend", home: Home, query: str, changed: str | None, as_of: datetime) -> str | None:
    """Bring `identity._profiles` and `identity._pairs` up to the profiles of a query; the query of what `matches` has now.

    Returns:
        None where there is no model, as there are too few profiles to learn one from.
    """
    from dagster_project.lib.identity.match import Model, predict

    backend.prepare(f"select * from ({query}) as profiles where is_current", "identity._profiles", changed)
    if model_file(home).exists():
        model = Model.load(model_file(home))
    else:
        try:
            model = learn(backend, home, as_of)
        except OnefoldError as error:  # too few to learn from, as yet
            log.info("%s", error)
            return None
    prepared = backend.kept("identity._profiles")
    predict(backend, prepared, model, Rules.of(home).matching, "identity._pairs", changed)
    return f"""
        select
            md5(concat_ws('|', pairs.left_id, pairs.right_id)) as match_id, pairs.left_id as left_record,
            pairs.right_id as right_record, one.identifier_type as left_type, one.identifier_value as left_value,
            other.identifier_type as right_type, other.identifier_value as right_value, match_weight, match_probability, grade,
            contradiction, {backend.told("evidence")} as evidence, matched_by, true as is_current
        from {backend.kept("identity._pairs")} as pairs
        join ({query}) as one on one.profile_id = pairs.left_id
        join ({query}) as other on other.profile_id = pairs.right_id
    """


def learn(backend: "Backend", home: Home, as_of: datetime) -> "Model":
    """Train a model on the prepared profiles, and save it.

    Raises:
        OnefoldError: the profiles are too few, or have no names.
    """
    from dagster_project.lib.identity.match import train

    model = train(backend, backend.kept("identity._profiles"), Rules.of(home).matching, as_of.replace(tzinfo=None))
    draft = model_file(home).with_suffix(".part")
    draft.touch(mode=0o600)  # it holds values that several people share
    model.save(draft)
    draft.replace(model_file(home))
    log.info("matching: trained on %d profiles; %s", model.profiles, "; ".join(model.notes) or "every comparison was learnt")
    return model


def model_file(home: Home) -> Path:
    """Where a home's matching model is kept."""
    return home.path / "identity_model.json"


def _keep(connection: duckdb.DuckDBPyConnection, seq: int) -> None:
    """Bring `identity.matches` up to the temporary table `found`, writing only what differs."""
    connection.execute(
        """
        create or replace temp table fresh as
        from found except all select * exclude (_is_revision, _seq) from identity.matches;
        create or replace temp table known as select match_id from identity.matches semi join fresh using (match_id)
        """
    )
    connection.execute(
        f"""
        update identity.matches set is_current = false, _is_revision = true, _seq = {seq}
        where is_current and match_id not in (select match_id from found);
        delete from identity.matches where match_id in (select match_id from fresh);
        insert into identity.matches
        select fresh.*, match_id in (select match_id from known), {seq} from fresh;
        drop table found; drop table fresh; drop table known
        """
    )


def widen(connection: duckdb.DuckDBPyConnection, home: Home, query: str, seq: int, as_of: datetime) -> None:
    """Wider groups: replace `identity.groups` by what the pairs of customers of a query come to, if one changed or moved."""
    from dagster_project.lib.identity.groups import group

    with transaction(connection):
        connection.execute(TABLES)
        done, others = connection.execute(MOVED).fetchone()
        if done >= 0 and not others:
            return
        connection.execute(f"delete from identity._widened; insert into identity._widened values ({seq})")
        connection.execute(f"create or replace temp table pairs as {query}")
        connection.execute("create or replace temp table found (grade varchar, customer_id varchar, group_id varchar)")
        for grade in WIDER:
            group(connection, "pairs", Rules.of(home).matching, grade, "identity._grouped")
            connection.execute(f"insert into found select '{grade}', profile_id, group_id from identity._grouped")
        connection.execute("create or replace table identity.groups as from found; drop table identity._grouped")
        connection.execute("drop table pairs; drop table found")


WIDER = ("lifecycle", "advertising")  # the grades that make groups
# Up to which write groups were made (-1: never), and how many pairs and customers in pairs are other since.
MOVED = """
with done as (select coalesce(max(seq), -1) as seq from identity._widened),
ends as (
    select left_type as identifier_type, left_value as identifier_value from identity.matches
    union
    select right_type, right_value from identity.matches
),
moved as (select identifier_type, identifier_value from identity._changes where _seq > (select seq from done))
select
    (select seq from done) as done,
    (select count(*) from identity.matches where _seq > (select seq from done))
    + (select count(*) from moved semi join ends using (identifier_type, identifier_value)) as others
"""
