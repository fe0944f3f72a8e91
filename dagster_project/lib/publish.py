"""Publishing audiences: memberships move from version to version by differences, and each version lands as a file.

Nobody is published who may not be contacted for the audience's purpose; who is left out is kept with the reason. What looks
broken is stopped by the circuit breaker before it is a version.
"""

import csv
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dagster_project.lib import breaker, dbt
from dagster_project.lib.audiences import definitions, exclusions, uplift
from dagster_project.lib.audiences.caps import select_capped
from dagster_project.lib.audiences.explaining import Situation, explain
from dagster_project.lib.audiences.form import Band, Fresh
from dagster_project.lib.audiences.known import CARING
from dagster_project.lib.audiences.preview import Then
from dagster_project.lib.audiences.tables import OWN_TABLES, prepare_audiences
from dagster_project.lib.consent import customer_permissions
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.ingest import next_sequence
from dagster_project.lib.quality import require_proof
from dagster_project.lib.settings import Cap, Settings
from dagster_project.lib.state import Refresh, State
from dagster_project.lib.stops import Finding, Stop, Stops

log = logging.getLogger("onefold")


@dataclass(frozen=True)
class Audience:
    """An audience that an exposure of the dbt project publishes."""

    name: str
    label: str
    description: str
    owner: str  # e-mail address
    purpose: str
    reads: frozenset[str]  # every table it is built from, as layer/table
    restricted: tuple[str, ...] = ()  # tags of sensitive groups that it is made from, which no advertising may get
    ignores_cap: bool = False  # also whoever got as many messages as the purpose allows is in
    is_declared: bool = False  # in YAML, as conditions
    band: Band = field(default_factory=Band)
    fresh: Fresh = field(default_factory=Fresh)
    definitions: tuple[tuple[str, str], ...] = ()  # fingerprint of its own SQL and of each audience that it reads, by name

    @property
    def definition(self) -> str:
        """Changes with whom it selects, as far as its own SQL and that of other audiences say."""
        return definitions.combined(self.definitions)


@dataclass(frozen=True)
class Publication:
    """What publishing one audience did; `version` did not grow where nothing changed.

    Where it was stopped, nobody came in, and only those left who may not stay.
    """

    audience: str
    version: int
    members: int
    added: int
    removed: int
    excluded: int
    file: Path | None
    stop: Stop | None = None
    history: list[dict[str, Any]] = field(default_factory=list)  # its last versions, the newest first


def audiences(manifest: dict[str, Any]) -> list[Audience]:
    """The audiences that dbt's manifest exposes, by name.

    Raises:
        OnefoldError: an exposure lacks its purpose, exposes two audiences, its name is not its model's, or it serves another
            purpose than care with a restricted tag.
    """
    found = []
    for exposure in manifest["exposures"].values():
        models = [m for m in exposure["depends_on"]["nodes"] if m.startswith("model.onefold.audiences_")]
        if not models:
            continue
        place = f"{exposure['original_file_path']}: exposure {exposure['name']}"
        if models != [f"model.onefold.audiences_{exposure['name']}"]:
            raise OnefoldError(f"{place}: depends on {', '.join(models)}; expose one audience, under its own name")
        if exposure["name"] in OWN_TABLES:
            raise OnefoldError(f"{place}: publication keeps a table of this name; choose another")
        meta = exposure["config"].get("meta", {})
        purpose = meta.get("purpose")
        if not purpose:
            raise OnefoldError(f"{place}: config.meta.purpose is missing; say what consent is asked for, such as marketing")
        if not isinstance(ignores_cap := meta.get("ignores_cap", False), bool):
            raise OnefoldError(f"{place}: config.meta.ignores_cap is true or false")
        restricted = _restricted_tags(manifest, models[0])
        if restricted and purpose not in CARING:
            raise OnefoldError(
                f"{place}: restricted tags are for {' and '.join(CARING)} and never for {purpose}: {', '.join(restricted)}; "
                "take them out, also of the audiences that this one reads, or change the purpose"
            )
        nodes = [manifest["nodes"][n] for n in {models[0], *dbt.ancestors(manifest, models[0])} if n.startswith("model.")]
        band, fresh = _limits(meta, place)
        tables = [source["name"] for source in manifest["sources"].values()] if fresh.channels else []
        for channel in fresh.channels:
            if not any(table.startswith(f"{channel}_") for table in tables):
                raise OnefoldError(
                    f"{place}: there is no channel '{channel}'; correct fresh.channels or the condition's channel"
                )
        found.append(
            Audience(
                name=exposure["name"],
                label=exposure["label"] or exposure["name"],
                description=exposure["description"],
                owner=exposure["owner"]["email"],
                purpose=purpose,
                reads=frozenset(f"{node['schema']}/{node['alias']}" for node in nodes),
                restricted=tuple(restricted),
                ignores_cap=ignores_cap,
                band=band,
                fresh=fresh,
                is_declared="made_from" in meta,
                definitions=tuple(
                    sorted((n["alias"], definitions.fingerprint(n["raw_code"])) for n in nodes if n["schema"] == "audiences")
                ),
            )
        )
    return sorted(found, key=lambda audience: audience.name)


def _limits(meta: dict[str, Any], place: str) -> tuple[Band, Fresh]:
    try:
        return Band.model_validate(meta.get("band") or {}), Fresh.model_validate(meta.get("fresh") or {})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise OnefoldError(f"{place}: config.meta.band or fresh: {said.removeprefix(': ')}. See docs/audiences.md") from error


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


def publish(home: Home, audience: Audience, refresh: Refresh) -> Publication:
    """Bring an audience's memberships up to its model, as a new version if anything changed, and write its file.

    Running it again changes nothing; a version that was committed but not written to its file is written now. Where checks
    failed or the circuit breaker finds a reason that nobody approved, the publication has a `stop`.
    """
    state, stops = State(home), Stops(home)
    now = refresh.as_of.replace(tzinfo=None)
    cap = None if audience.ignores_cap else Settings.of(home).caps.get(audience.purpose)
    with home.connect(f"publication of {audience.name}") as connection:
        prepare_audiences(connection)
        version, last_refresh, last_size = connection.execute(
            "select coalesce(max(version), 0), max_by(refresh, version), "
            "coalesce(max_by(members, version) filter (members > 0), 0) from audiences.publications where audience = ?",
            [audience.name],
        ).fetchone()
        stop = stops.now().get(audience.name)
        if stop and stop.version <= version:  # killed between the commit and the note of it
            stops.note_passed(audience.name, last_refresh)
            stop = None
        baseline = stop.baseline if stop else stops.passed(audience.name) or last_refresh
        try:
            require_proof(connection, set(audience.reads), refresh)
            _require_built(connection, audience, refresh)
        except OnefoldError as error:
            return _unproven(connection, stops, audience, refresh, version, baseline, str(error))
        _select_members(connection, audience, Settings.of(home).legitimate_interest, cap, now)
        excluded, counts = _counts(connection, version, last_size)
        findings = breaker.judge(connection, state, counts, audience.band, audience.fresh, refresh, baseline)
        is_stopped = bool(findings) and not breaker.is_approved(stop, findings, counts, audience.band)
        if is_stopped:
            # Kept before anything is committed: else, killed in between, what is committed would pass for the version
            # that was judged, and the next run would compare with it.
            if stop and stop.approved_at:
                stops.end(stop, "other")
            next_version = version + 1 + bool(counts.must_leave)
            sizes = counts.staying, counts.would_be
            stop = stops.stop(audience.name, next_version, refresh.number, baseline, findings, *sizes)
            connection.execute("delete from difference where customer_id not in (select customer_id from must_leave)")
            (excluded,) = connection.execute(  # as of the version before: those of the stopped one are not written
                "select count(*) from audiences.exclusions where audience = ? and destination is null", [audience.name]
            ).fetchone()
        else:
            stop = None
        added, removed = connection.execute(
            "select count(*) filter (operation = 'add'), count(*) filter (operation = 'remove') from difference"
        ).fetchone()
        if added or removed:
            explain(home, connection, _situation(connection, audience, refresh, version == 0, is_stopped))
        with transaction(connection):  # one, as the next publication explains itself by what this one left
            if added or removed or (version == 0 and not is_stopped):
                version += 1
                _commit_version(connection, audience, refresh, version, now, counts.members, added, removed, excluded)
            if not is_stopped:
                _keep_present(connection, audience, version, now)
        files = _deliver(home, connection, audience)
        if not is_stopped:
            stops.note_passed(audience.name, refresh.number)
        members = counts.members + added - removed
        file = files[-1] if files else None
        history = _history(connection, audience)
    return Publication(audience.name, version, members, added, removed, excluded, file, stop, history)


def _unproven(connection, stops: Stops, audience, refresh, version, baseline, problem: str) -> Publication:
    """Tables that were not checked say of nobody whether they may stay: everything stays as it is."""
    (members,) = connection.execute(
        "select count(*) from audiences.memberships where audience = ? and left_at is null", [audience.name]
    ).fetchone()
    finding = Finding("checks", problem)
    kept = stops.stop(audience.name, version + 1, refresh.number, baseline, [finding], members, None)
    stop = replace(kept, findings=(finding,))  # an approval that was given before is kept for when the checks pass
    return Publication(audience.name, version, members, 0, 0, 0, None, stop, _history(connection, audience))


def _counts(connection, version: int, last_size: int) -> tuple[int, breaker.Counts]:
    """How many are excluded, and what the difference would do; makes the temporary table `must_leave`.

    It has those of the members who may not stay, whatever else is held back. An id that was merged away is judged by the
    customer who has it now: else a wrong merge would empty an audience that was stopped for it.
    """
    connection.execute(
        """
        create or replace temp table must_leave as
        select difference.customer_id
        from difference
        left join identity.redirects as merged on merged.from_customer_id = difference.customer_id
        where difference.operation = 'remove'
            and not exists (
                select 1 from judged
                where judged.customer_id = coalesce(merged.to_customer_id, difference.customer_id) and judged.is_allowed
            )
        """
    )
    selected, excluded, before, must_leave, would_be = connection.execute(
        "select (select count(*) from wanted), (select count(*) from wanted where reason is not null), "
        "(select count(*) from members), (select count(*) from must_leave), (select count(*) from wanted where reason is null)"
    ).fetchone()
    return excluded, breaker.Counts(version, selected, before, must_leave, would_be, last_size)


def _history(connection, audience: Audience) -> list[dict[str, Any]]:
    cursor = connection.execute(
        "select version, refresh, members, added, removed, excluded, published_at from audiences.publications "
        "where audience = ? order by version desc limit 20",
        [audience.name],
    )
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _require_built(connection, audience: Audience, refresh: Refresh) -> None:
    """Let no table leave as what its definition says by now: it may hold whom that would not have, by a restricted tag say."""
    if changed := definitions.changed(connection, dict(audience.definitions)):
        raise OnefoldError(
            f"the definition of {', '.join(changed)} changed since refresh {refresh.number} built the table; "
            "run `onefold refresh` first"
        )


def is_published(connection, audience: Audience) -> bool:
    """Whether the audience's members are of its present definition, as far as its own SQL and that of other audiences say."""
    if not audience.definitions:
        return True
    row = connection.execute("select definition from audiences._published where audience = ?", [audience.name]).fetchone()
    return row is not None and row[0] == audience.definition


def _situation(connection, audience: Audience, refresh: Refresh, is_first: bool, is_stopped: bool) -> Situation:
    row = connection.execute(
        "select definition, as_of, _seq from audiences._published where audience = ?", [audience.name]
    ).fetchone()
    return Situation(
        audience=audience.name,
        made_from=dict(audience.definitions)[audience.name] if audience.is_declared else None,
        as_of=refresh.as_of.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds"),
        before=Then(row[1], row[2]) if row else None,
        is_first=is_first,
        is_redefined=bool(row) and row[0] != audience.definition,
        is_stopped=is_stopped,
    )


def _keep_present(connection, audience: Audience, version: int, now: datetime) -> None:
    """Keep what is so without a version of its own: who is left out and why, the control group, and which conditions hold.

    All but the last costs as much as differs; a table is looked through for it, which the difference of members was for, too.
    """
    name = audience.name
    exclusions.exchange(connection, name, None, now, "wanted")
    connection.execute(
        """
        update audiences.control_memberships set left_at = ?
        where audience = ? and left_at is null
            and customer_id not in (select customer_id from wanted where reason = 'control group')
        """,
        [now, name],
    )
    connection.execute(
        """
        insert into audiences.control_memberships select ?, customer_id, ?, null, ? from wanted
        anti join (select customer_id from audiences.control_memberships where audience = ? and left_at is null)
            using (customer_id)
        where reason = 'control group'
        """,
        [name, now, version, name],
    )
    if audience.is_declared:
        connection.execute(
            """
            update audiences.memberships as known set conditions = wanted.conditions from wanted
            where known.audience = ? and known.left_at is null and wanted.customer_id = known.customer_id
                and known.conditions is distinct from wanted.conditions
            """,
            [name],
        )
    if uplift.is_due(connection, name, now):
        uplift.measure(connection, name, now)
    connection.execute("delete from audiences._published where audience = ?", [name])
    connection.execute(
        "insert into audiences._published select ?, ?, ?, value from staging._sequence", [name, audience.definition, now]
    )


def _select_members(
    connection, audience: Audience, legitimate_interest: Collection[str], cap: Cap | None, now: datetime
) -> None:
    """Make the temporary tables `members` (now), `judged`, `wanted` (with the reason of an exclusion) and `difference`.

    The control group comes last: it is those who would be sent to but for the comparison.
    """
    select_capped(connection, cap, now)
    connection.execute(
        "create or replace temp table members as "
        "select customer_id, conditions from audiences.memberships where audience = ? and left_at is null",
        [audience.name],
    )
    connection.execute(
        "create or replace temp table asked as "
        f"select customer_id from audiences.{audience.name} union select customer_id from members "
        "union select to_customer_id from identity.redirects where from_customer_id in (select customer_id from members)"
    )
    judged = customer_permissions(audience.purpose, None, "asked", legitimate_interest)
    connection.execute(f"create or replace temp table judged as {judged}")
    columns = {row[0] for row in connection.execute(f"describe audiences.{audience.name}").fetchall()}
    # An analyst's model need not have these, and may name somebody twice.
    is_control = "bool_or(is_control)" if "is_control" in columns else "false"
    conditions = "min(conditions)" if audience.is_declared else "null::varchar"
    connection.execute(
        f"""
        create or replace temp table wanted as
        select source.customer_id, case
            when not judged.is_allowed then judged.reason
            when source.customer_id in (select customer_id from capped) then 'cap'
            when source.is_control then 'control group' end as reason, source.conditions
        from (
            select customer_id, {is_control} as is_control, {conditions} as conditions
            from audiences.{audience.name} group by customer_id
        ) as source
        inner join judged on judged.customer_id = source.customer_id
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
    """Write the version; for a caller who holds a transaction."""
    name = audience.name
    next_sequence(connection)
    if added or removed:
        connection.execute(
            """
            update audiences.memberships as known
            set left_at = ?, left_kind = kind, left_reason = reason, left_reason_zh = reason_zh
            from explained
            where known.audience = ? and known.left_at is null
                and operation = 'remove' and explained.customer_id = known.customer_id
            """,
            [now, name],
        )
        connection.execute(
            """
            insert into audiences.memberships
                (audience, customer_id, entered_at, version, entered_kind, entered_reason, entered_reason_zh, conditions)
            select ?, explained.customer_id, ?, ?, kind, explained.reason, reason_zh, conditions
            from explained inner join wanted on wanted.customer_id = explained.customer_id
            where operation = 'add'
            """,
            [name, now, version],
        )
        connection.execute(
            """
            insert into audiences.changes (audience, version, operation, customer_id, changed_at, kind, reason, reason_zh)
            select ?, ?, operation, customer_id, ?, kind, reason, reason_zh from explained order by operation, customer_id
            """,
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
