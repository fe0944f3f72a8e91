"""The quarantine: what was rejected, and loading it again after a fix."""

import hashlib
import logging
from dataclasses import dataclass

from dagster_project.lib import mapping, reading, statements
from dagster_project.lib.contracts import ChannelContract, Entity, Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.ingest import insert_accepted, learn_values, map_rows, next_sequence, prepare_warehouse
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

log = logging.getLogger("onefold")


@dataclass(frozen=True)
class Replay:
    """What a replay did for one entity."""

    table: str
    tried: int
    accepted: int
    problem: str | None = None  # why none could be tried: the mapping does not fit the rows


def list_rejected(home: Home, channel: str | None = None, limit: int = 50) -> list[dict[str, object]]:
    """Rows that wait in quarantine, newest first; with payloads, so keep the answer to those who may see contact data."""
    with home.connect("rejected list", patience=30) as connection:
        prepare_warehouse(connection, {})
        cursor = connection.execute(
            """
            select channel, entity, source_uri, source_row, kind, reason, payload, rejected_at, batch_id
            from staging._rejected where replayed_in is null and ($channel is null or channel = $channel)
            order by rejected_at desc, source_uri, source_row limit $limit
            """,
            {"channel": channel, "limit": limit},
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def replay(home: Home, channels: dict[str, ChannelContract], settings: Settings) -> list[Replay]:
    """Read the quarantined rows again under the present contracts; what is valid now is loaded as a batch of its own.

    Lines that no record could be made of stay: only a repaired file brings their data.
    """
    results = []
    for channel in channels.values():
        for name, entity in channel.entities.items():
            for source in entity.sources:
                for kind in ("row", "record"):
                    with home.connect(f"replay of {channel.table(name)}") as connection:
                        prepare_warehouse(connection, {channel.channel: channel})
                        result = _replay(home, connection, channel, name, entity, source, kind, settings)
                        seq = connection.execute("select value from staging._sequence").fetchone()[0]
                    if result:
                        State(home).advance("loaded", seq)
                        log.info("%s: %d of %d rows replayed", result.table, result.accepted, result.tried)
                        results.append(result)
            results += _without_source(home, channel, name)
    return results


def _without_source(home: Home, channel: ChannelContract, name: str) -> list[Replay]:
    known = [source.name for source in channel.entities[name].sources]
    with home.connect(f"replay of {channel.table(name)}") as connection:
        waiting = connection.execute(
            "select source, count(*) from staging._rejected where replayed_in is null and kind <> 'line' and channel = ? "
            "and entity = ? and not list_contains(?, source) group by source order by source",
            [channel.channel, name, known],
        ).fetchall()
    remedy = f"read their files again: onefold ingest --again {channel.channel}/{name}"
    return [Replay(channel.table(name), n, 0, f"there is no source '{source}' any more; {remedy}") for source, n in waiting]


def _replay(
    home: Home, connection, channel: ChannelContract, name: str, entity: Entity, source: Source, kind: str, settings: Settings
) -> Replay | None:
    table = channel.table(name)
    connection.execute(
        """
        create or replace temp table waiting as
        select row_number() over () as _row, rowid as quarantined, source_uri, source_row, cast(payload as json) as json
        from staging._rejected
        where replayed_in is null and channel = ? and entity = ? and source = ? and kind = ?
        """,
        [channel.channel, name, source.name, kind],
    )
    tried = connection.execute("select count(*) from waiting").fetchone()[0]
    if not tried:
        return None
    connection.execute("create or replace temp table objects as select _row, json from waiting")
    columns = reading.raw_from_objects(connection, leave_out=frozenset({"_row"}))
    # A record was mapped already; only its values are judged again.
    rules = source if kind == "row" else Source(name=source.name, time_zone=source.time_zone)
    try:
        mapped, _ = mapping.mapped_sql(entity, rules, tuple(columns))
        workbooks = "select bool_and(regexp_matches(source_uri, '(?i)[.](xls[xmb]?|ods)$')) from waiting"
        from_workbook = connection.execute(workbooks).fetchone()[0]
        typed = map_rows(connection, entity, source, mapped, settings, from_workbook, is_whole_file=False)
    except OnefoldError as error:
        log.warning("%s: nothing replayed: %s", table, error)
        return Replay(table, tried, 0, str(error))
    connection.execute(f"create or replace temp table typed as from ({typed('_row is not null')})")
    accepted = connection.execute("select count(*) from typed where _reason is null").fetchone()[0]
    if not accepted:
        return Replay(table, tried, 0)
    with transaction(connection):
        seq = next_sequence(connection)
        batch_id = hashlib.sha256(f"{table}|replay|{seq}".encode()).hexdigest()[:16]
        insert_accepted(connection, table, entity, batch_id, seq, "'quarantine'", "typed where _reason is null")
        learn_values(connection, "typed", entity, settings)
        statements.remember_refusals(home, connection, table, batch_id, seq)
        connection.execute(
            f"""
            update staging.{table} as s set _source_uri = w.source_uri, _source_row = w.source_row
            from waiting as w where s._batch_id = ? and s._source_row = w._row
            """,
            [batch_id],
        )
        connection.execute(
            """
            update staging._rejected set replayed_in = ? where rowid in (
                select quarantined from waiting join typed using (_row) where _reason is null)
            """,
            [batch_id],
        )
        connection.execute(
            """
            insert into staging._loads values
                (?, ?, ?, ?, ?, 'quarantine', ?, ?, 'replayed', null, ?, 0, 0, ?, ?, 0, 0, [], now()::timestamp)
            """,
            [batch_id, seq, channel.channel, name, source.name, batch_id, entity.fingerprint, *[accepted] * 3],
        )
    return Replay(table, tried, accepted)
