"""Publishing audiences: memberships move from version to version by differences, and each version lands as a file.

Nobody is published who may not be contacted for the audience's purpose; who is left out is kept with the reason.
"""

import csv
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster_project.lib import dbt
from dagster_project.lib.audiences.known import CARING
from dagster_project.lib.consent import customer_permissions
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.ingest import next_sequence
from dagster_project.lib.quality import require_proof
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refresh

log = logging.getLogger("onefold")

_TABLES = """
create schema if not exists audiences;
create table if not exists audiences.memberships (
    audience varchar not null, customer_id varchar not null, entered_at timestamp not null, left_at timestamp,
    version bigint not null
);
create table if not exists audiences.changes (
    audience varchar not null, version bigint not null, operation varchar not null check (operation in ('add', 'remove')),
    customer_id varchar not null, changed_at timestamp not null
);
create table if not exists audiences.exclusions (
    audience varchar not null, customer_id varchar not null, reason varchar not null
);
create table if not exists audiences.publications (
    audience varchar not null, version bigint not null, refresh bigint not null, members bigint not null,
    added bigint not null, removed bigint not null, excluded bigint not null, published_at timestamp not null,
    delivered_to varchar, primary key (audience, version)
);
create table if not exists audiences.deliveries (
    audience varchar not null, destination varchar not null, version bigint not null, status varchar not null,
    adds bigint not null, updates bigint not null, removes bigint not null, accepted bigint not null, rejected bigint not null,
    planned_at timestamp not null, finished_at timestamp, primary key (audience, destination, version)
)
"""


_OWN_TABLES = {"memberships", "changes", "exclusions", "publications", "deliveries"}


@dataclass(frozen=True)
class Audience:
    """An audience that an exposure of the dbt project publishes."""

    name: str
    label: str
    description: str
    owner: str  # e-mail address
    purpose: str
    reads: frozenset[str]  # every table it is built from, as layer/table


@dataclass(frozen=True)
class Publication:
    """What publishing one audience did; `version` did not grow where nothing changed."""

    audience: str
    version: int
    members: int
    added: int
    removed: int
    excluded: int
    file: Path | None


def audiences(manifest: dict[str, Any]) -> list[Audience]:
    """The audiences that dbt's manifest exposes, by name.

    Raises:
        OnefoldError: an exposure lacks its purpose, exposes two audiences, or its name is not its model's.
    """
    found = []
    for exposure in manifest["exposures"].values():
        models = [m for m in exposure["depends_on"]["nodes"] if m.startswith("model.onefold.audiences_")]
        if not models:
            continue
        place = f"{exposure['original_file_path']}: exposure {exposure['name']}"
        if models != [f"model.onefold.audiences_{exposure['name']}"]:
            raise OnefoldError(f"{place}: depends on {', '.join(models)}; expose one audience, under its own name")
        if exposure["name"] in _OWN_TABLES:
            raise OnefoldError(f"{place}: publication keeps a table of this name; choose another")
        purpose = exposure["config"].get("meta", {}).get("purpose")
        if not purpose:
            raise OnefoldError(f"{place}: config.meta.purpose is missing; say what consent is asked for, such as marketing")
        if purpose not in CARING and (restricted := _restricted_tags(manifest, models[0])):
            raise OnefoldError(
                f"{place}: restricted tags are for {' and '.join(CARING)} and never for {purpose}: {', '.join(restricted)}; "
                "take them out, also of the audiences that this one reads, or change the purpose"
            )
        nodes = (manifest["nodes"][n] for n in {models[0], *dbt.ancestors(manifest, models[0])} if n.startswith("model."))
        reads = frozenset(f"{node['schema']}/{node['alias']}" for node in nodes)
        label = exposure["label"] or exposure["name"]
        owner = exposure["owner"]["email"]
        found.append(Audience(exposure["name"], label, exposure["description"], owner, purpose, reads))
    return sorted(found, key=lambda audience: audience.name)


def _restricted_tags(manifest: dict[str, Any], model: str) -> list[str]:
    """The restricted tags that a model is made from: by their models, or by name among all tags, itself or through others."""
    nodes = manifest["nodes"]
    restricted = {name for name, node in nodes.items() if node["config"].get("meta", {}).get("sensitivity") == "restricted"}
    among_all = {f"model.onefold.tags_{table}" for table in ("customer_tags", "history")}
    found, waiting, seen = set(), [model], {model}
    while waiting:
        current = waiting.pop()
        parents = set(manifest["parent_map"].get(current, []))
        found |= parents & restricted
        if parents & among_all:
            names = {name for name in restricted if f"'{nodes[name]['alias']}'" in nodes[current]["raw_code"]}
            found |= names
        new = {p for p in parents - among_all - restricted - seen if p in nodes and nodes[p]["schema"] != "tags"}
        seen |= new
        waiting += new
    return sorted(nodes[name]["alias"] for name in found)


def prepare_audiences(connection) -> None:
    """Create the tables of publication, if they are not there."""
    for statement in _TABLES.split(";\n"):
        connection.execute(statement)


def publish(home: Home, audience: Audience, refresh: Refresh) -> Publication:
    """Bring an audience's memberships up to its model, as a new version if anything changed, and write its file.

    Running it again changes nothing; a version that was committed but not written to its file is written now.

    Raises:
        OnefoldError: a check of what the audience is built from failed or did not run in this refresh, or the model is
            empty while the audience has members.
    """
    now = refresh.as_of.replace(tzinfo=None)
    with home.connect(f"publication of {audience.name}") as connection:
        prepare_audiences(connection)
        try:
            require_proof(connection, set(audience.reads), refresh)
        except OnefoldError as error:
            raise OnefoldError(f"{audience.name} is not published: {error}") from error
        _select_members(connection, audience, Settings.of(home).legitimate_interest)
        source, excluded, before = connection.execute(
            "select (select count(*) from wanted), (select count(*) from wanted where reason is not null), "
            "(select count(*) from members)"
        ).fetchone()
        is_emptied = source == 0 and before > 0
        if is_emptied:  # nobody leaves but those who must not stay
            connection.execute("delete from difference where customer_id in (select customer_id from judged where is_allowed)")
        added, removed = connection.execute(
            "select count(*) filter (operation = 'add'), count(*) filter (operation = 'remove') from difference"
        ).fetchone()
        version = connection.execute(
            "select coalesce(max(version), 0) from audiences.publications where audience = ?", [audience.name]
        ).fetchone()[0]
        _write_exclusions(connection, audience)
        if added or removed or version == 0:
            version += 1
            _commit_version(connection, audience, refresh, version, now, before, added, removed, excluded)
        files = _deliver(home, connection, audience)
        if is_emptied:
            raise OnefoldError(
                f"{audience.name} is not published: its model has no rows, and an empty source removes nobody who consents "
                f"({before - removed} members stay); see why audiences.{audience.name} is empty"
            )
    members = before + added - removed
    return Publication(audience.name, version, members, added, removed, excluded, files[-1] if files else None)


def _write_exclusions(connection, audience: Audience) -> None:
    with transaction(connection):
        connection.execute("delete from audiences.exclusions where audience = ?", [audience.name])
        connection.execute(
            "insert into audiences.exclusions select ?, customer_id, reason from wanted where reason is not null",
            [audience.name],
        )


def _select_members(connection, audience: Audience, legitimate_interest: Collection[str]) -> None:
    """Make the temporary tables `members` (now), `judged`, `wanted` (with the reason of an exclusion) and `difference`."""
    connection.execute(
        "create or replace temp table members as "
        "select customer_id from audiences.memberships where audience = ? and left_at is null",
        [audience.name],
    )
    connection.execute(
        "create or replace temp table asked as "
        f"select customer_id from audiences.{audience.name} union select customer_id from members"
    )
    judged = customer_permissions(audience.purpose, None, "asked", legitimate_interest)
    connection.execute(f"create or replace temp table judged as {judged}")
    columns = {row[0] for row in connection.execute(f"describe audiences.{audience.name}").fetchall()}
    is_control = "source.is_control" if "is_control" in columns else "false"  # an analyst's model need not have one
    connection.execute(
        f"""
        create or replace temp table wanted as
        select distinct source.customer_id, case when {is_control} then 'control group' else judged.reason end as reason
        from audiences.{audience.name} as source inner join judged on judged.customer_id = source.customer_id
        """
    )
    connection.execute(
        """
        create or replace temp table difference as
        select 'add' as operation, customer_id from wanted anti join members using (customer_id) where reason is null
        union all
        select 'remove', customer_id from members
        anti join (select customer_id from wanted where reason is null) as kept using (customer_id)
        """
    )


def _commit_version(connection, audience, refresh, version, now, before, added, removed, excluded) -> None:
    name = audience.name
    with transaction(connection):
        next_sequence(connection)
        connection.execute(
            "update audiences.memberships set left_at = ? where audience = ? and left_at is null "
            "and customer_id in (select customer_id from difference where operation = 'remove')",
            [now, name],
        )
        connection.execute(
            "insert into audiences.memberships select ?, customer_id, ?, null, ? from difference where operation = 'add'",
            [name, now, version],
        )
        connection.execute(
            "insert into audiences.changes select ?, ?, operation, customer_id, ? from difference order by all",
            [name, version, now],
        )
        connection.execute(
            "insert into audiences.publications values (?, ?, ?, ?, ?, ?, ?, ?, null)",
            [
                name,
                version,
                refresh.number,
                before + added - removed,
                added,
                removed,
                excluded,
                datetime.now(UTC).replace(tzinfo=None),
            ],
        )


def _deliver(home: Home, connection, audience: Audience) -> list[Path]:
    """Write the versions that have no file yet; a file appears whole or not at all."""
    waiting = connection.execute(
        "select version from audiences.publications where audience = ? and delivered_to is null order by version",
        [audience.name],
    ).fetchall()
    files = []
    for (version,) in waiting:
        rows = connection.execute(
            "select operation, customer_id, changed_at from audiences.changes where audience = ? and version = ? "
            "order by operation, customer_id",
            [audience.name, version],
        ).fetchall()
        file = home.deliveries / audience.name / f"v{version:06}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".csv.part")
        with draft.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["audience", "version", "operation", "customer_id", "changed_at"])
            writer.writerows([audience.name, version, op, customer, at.isoformat()] for op, customer, at in rows)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(file)
        connection.execute(
            "update audiences.publications set delivered_to = ? where audience = ? and version = ?",
            [str(file.relative_to(home.path)), audience.name, version],
        )
        log.info("%s: version %d, %d changes", audience.name, version, len(rows))
        files.append(file)
    return files
