"""Loading landed files into staging: validated, typed by contract, ledgered, rejects quarantined.

Rows and the batch's ledger entry commit in one transaction, keyed by the file's content, so that a re-run, a renamed
copy or a killed run loads nothing twice and loses nothing.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import duckdb

from dagster_project.lib import mapping, reading, statements
from dagster_project.lib.contracts import STAGING_TYPES, ChannelContract, Entity, Source
from dagster_project.lib.errors import OnefoldError, remedy
from dagster_project.lib.files import LandedFile, UnreachableError, content_hash, landed_files, without_credentials
from dagster_project.lib.home import Home, quoted, transaction
from dagster_project.lib.phones import learn_phones
from dagster_project.lib.progress import tell
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State
from dagster_project.lib.traffic import learn_ip_addresses, learn_user_agents
from dagster_project.lib.values import forms_of

log = logging.getLogger("onefold")

# Every staging table carries these after the contract's columns. `_seq` numbers the writes of a warehouse: a model has
# consumed all rows whose number is not above the greatest of its own.
CARRIED = {
    "_batch_id": "VARCHAR",
    "_source_uri": "VARCHAR",
    "_source_row": "BIGINT",
    "_loaded_at": "TIMESTAMP",
    "_extra": "JSON",
    "_payload_hash": "VARCHAR",
    "_seq": "BIGINT",
}
_SYSTEM_TABLES = """
create schema if not exists staging;
create table if not exists staging._sequence (value bigint not null);
insert into staging._sequence select 0 where not exists (select 1 from staging._sequence);
create table if not exists staging._loads (
    batch_id varchar primary key,
    seq bigint not null,
    channel varchar not null,
    entity varchar not null,
    source varchar not null,
    source_uri varchar not null,
    content_hash varchar not null,
    contract varchar not null,
    status varchar not null check (status in ('loaded', 'refused', 'replayed')),
    reason varchar,
    rows_in_file bigint not null,
    rows_filtered bigint not null check (rows_filtered >= 0),
    rows_grouped bigint not null check (rows_grouped >= 0),
    rows_read bigint not null,
    rows_accepted bigint not null check (rows_accepted >= 0),
    rows_rejected bigint not null check (rows_rejected >= 0),
    rows_duplicate bigint not null check (rows_duplicate >= 0),
    unknown_columns varchar[],
    loaded_at timestamp not null,
    check (rows_read = rows_accepted + rows_rejected + rows_duplicate),
    check (rows_in_file = rows_read + rows_filtered + rows_grouped)
);
create table if not exists staging._rejected (
    batch_id varchar not null,
    channel varchar not null,
    entity varchar not null,
    source varchar not null,
    source_uri varchar not null,
    source_row bigint,
    kind varchar not null check (kind in ('row', 'record', 'line')),  -- what payload is: source row, mapped record, text
    reason varchar not null,
    payload varchar,
    rejected_at timestamp not null,
    replayed_in varchar
);
-- Ledger entries of batches whose rows were taken back, as they were.
create table if not exists staging._withdrawn as
select *, cast(null as bigint) as withdrawn_seq, cast(null as timestamp) as withdrawn_at from staging._loads where false;
create table if not exists staging._phones (given varchar, region varchar, e164 varchar, primary key (given, region));
create table if not exists staging._user_agents (
    given varchar primary key,
    bot_pattern varchar,  -- of the list, null: no bot
    is_http_library boolean not null,
    device_class varchar not null
);
create table if not exists staging._ip_addresses (  -- only those of a listed range
    given varchar primary key,
    traffic varchar not null check (traffic in ('staff', 'test')),
    ip_range varchar not null
);
"""


@dataclass
class EntityLoad:
    """What one ingestion did for one entity; counts are rows unless they say files."""

    table: str
    files: int = 0
    known_files: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    read: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicate: int = 0
    withdrawn: int = 0  # rows that files had brought before they were read again
    unknown_columns: set[str] = field(default_factory=set)


def prepare_warehouse(connection: duckdb.DuckDBPyConnection, channels: dict[str, ChannelContract]) -> None:
    """Create the system tables and every entity's staging table, with columns that a contract has gained.

    Raises:
        OnefoldError: a contract changed the type of a column that holds data.
    """
    connection.execute(_SYSTEM_TABLES)
    for channel in channels.values():
        for name, entity in channel.entities.items():
            _prepare_table(connection, channel.table(name), entity)


def next_sequence(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the write that is about to happen, greater than any before."""
    return connection.execute("update staging._sequence set value = value + 1 returning value").fetchone()[0]


def ingest_channel(home: Home, channel: ChannelContract, settings: Settings, settle: bool = False) -> list[EntityLoad]:
    """Load every file of a channel that is not in the ledger yet.

    A file that cannot be loaded is refused with its reason and tried again when the contract changes; one that cannot be
    reached is tried again on the next run; others go on.

    Args:
        settle: leave files alone that changed within `landing_settle_seconds`, as they may still be written.
    """
    state, loads = State(home), []
    with home.connect(f"ingest of {channel.channel}") as connection:
        prepare_warehouse(connection, {channel.channel: channel})
        written = connection.execute("select value from staging._sequence").fetchone()[0]
    if written < state.progress("loaded"):
        log.warning("the warehouse is older than state.sqlite (a backup, or a new one): every landed file is looked at again")
        state.start_over(written)
    for name, entity in channel.entities.items():
        load = EntityLoad(channel.table(name))
        for source in entity.sources:
            label = f"{load.table}/{source.name}"
            seen = state.seen_files(label, entity.fingerprint)
            try:
                found = landed_files(home, channel, name, source, settings.landing_settle_seconds if settle else 0)
            except UnreachableError as error:
                load.refused.append((without_credentials(source.location or label), str(error)))
                continue
            new = [file for file in found if file.identity not in seen]
            load.known_files += len(found) - len(new)
            # Opening and closing the warehouse costs as much as loading a small file, so local files share one opening;
            # remote ones do not, as nothing may hold the warehouse while they are fetched.
            local = bool(new) and all(file.path for file in new)
            with home.connect(f"ingest of {label}") if local else contextlib.nullcontext():
                for done, file in enumerate(new, 1):
                    try:
                        Batch(home, channel, name, source, file, settings).load(load)
                        state.remember_file(label, *file.identity, entity.fingerprint)
                    except UnreachableError as error:
                        load.refused.append((file.uri, str(error)))
                    tell(f"{load.table}: {file.uri.rsplit('/', 1)[-1]}", done, len(new))
        loads.append(load)
    return loads


def new_files(home: Home, channel: ChannelContract, settings: Settings) -> list[LandedFile]:
    """Complete files on this machine that no ingestion of a channel has seen; opens neither warehouse nor network."""
    state, unseen = State(home), []
    for name, entity in channel.entities.items():
        for source in entity.sources:
            if source.is_remote:
                continue
            seen = state.seen_files(f"{channel.table(name)}/{source.name}", entity.fingerprint)
            found = landed_files(home, channel, name, source, settings.landing_settle_seconds)
            unseen += [file for file in found if file.identity not in seen]
    return unseen


def withdraw(connection, batch_id: str, seq: int) -> int:
    """Take back what a batch brought: its rows, its rejects, and the rows that were replayed from them; for a transaction.

    A replay that held rows of other batches too is taken back whole, and those rows wait in quarantine again. The ledger
    entry moves to `staging._withdrawn`.

    Args:
        seq: the number of this write.

    Returns:
        How many staged rows are gone.
    """
    [table] = connection.execute(
        "select concat(channel, '_', entity) from staging._loads where batch_id = ?", [batch_id]
    ).fetchone()
    replays = connection.execute(
        "select distinct replayed_in from staging._rejected where batch_id = ? and replayed_in is not null", [batch_id]
    ).fetchall()
    gone = 0
    for (batch,) in [(batch_id,), *replays]:
        gone += connection.execute(f"delete from staging.{table} where _batch_id = ?", [batch]).fetchone()[0]
        connection.execute(
            "insert into staging._withdrawn by name "
            "select *, ? as withdrawn_seq, now()::timestamp as withdrawn_at from staging._loads where batch_id = ?",
            [seq, batch],
        )
        connection.execute("delete from staging._loads where batch_id = ?", [batch])
        connection.execute("update staging._rejected set replayed_in = null where replayed_in = ?", [batch])
    connection.execute("delete from staging._rejected where batch_id = ?", [batch_id])
    return gone


class Batch:
    """One file for one entity; `replaces` names the batches that it takes the place of."""

    def __init__(
        self,
        home: Home,
        channel: ChannelContract,
        entity: str,
        source: Source,
        file: LandedFile,
        settings: Settings,
        replaces: Sequence[str] = (),
    ) -> None:
        self.home, self.channel, self.entity_name, self.source, self.file = home, channel, entity, source, file
        self.entity = channel.entities[entity]
        self.table = channel.table(entity)
        self.settings = settings
        self.replaces = replaces

    def load(self, load: EntityLoad) -> None:
        with self.file.local(self.home) as path, ThreadPoolExecutor(max_workers=1) as beside:
            hashing = beside.submit(content_hash, path)  # takes one core, and so does much of reading
            with self.home.connect(f"ingest of {self.file.uri}") as connection:
                raw, refusal = None, None
                try:
                    raw = reading.read_file(connection, path, self.source, self.home.workspace)
                except OnefoldError as error:
                    refusal = error
                content = hashing.result()
                batch_id = hashlib.sha256(f"{self.table}|{self.source.name}|{content}".encode()).hexdigest()[:16]
                before = connection.execute(
                    "select status, contract, source_uri from staging._loads where batch_id = ?", [batch_id]
                ).fetchone()
                # A refused file is tried again under a changed contract or another name: both may cure it.
                is_known = before and (before[0] == "loaded" or before[1:] == (self.entity.fingerprint, self.file.uri))
                if is_known and not self.replaces:
                    load.known_files += 1
                else:
                    try:
                        if refusal:
                            raise refusal
                        self._stage(connection, raw, batch_id, content, load)
                    except UnreachableError:
                        raise
                    except OnefoldError as error:
                        if remedy(str(error.__cause__)):  # a full disk is no fault of the file
                            raise
                        if self.replaces:
                            load.refused.append((self.file.uri, f"{error}; its rows are as they were loaded before"))
                        else:
                            self._refuse(connection, batch_id, content, str(error), load)
                # Told also of a known file: a run that was killed after its commit had no time to.
                seq = connection.execute("select value from staging._sequence").fetchone()[0]
                State(self.home).advance("loaded", seq)

    def _stage(self, connection, raw: reading.Raw, batch_id: str, content: str, load: EntityLoad) -> None:
        mapped, unknown = mapping.mapped_sql(self.entity, self.source, raw.columns)
        typed = map_rows(connection, self.entity, self.source, mapped, self.settings, raw.is_workbook)
        records = connection.execute("select count(*) from mapped").fetchone()[0]
        in_filter = raw.records
        if self.source.filter and raw.columns:
            in_filter = connection.execute(f"select count(*) from raw where {self.source.filter}").fetchone()[0]
        with transaction(connection):
            connection.execute("delete from staging._loads where batch_id = ? and status = 'refused'", [batch_id])
            seq = next_sequence(connection)
            withdrawn = sum(withdraw(connection, batch, seq) for batch in self.replaces)
            rows = f"({typed('_row is not null')}) where _reason is null"
            valid = insert_accepted(connection, self.table, self.entity, batch_id, seq, f"'{quoted(self.file.uri)}'", rows)
            rejected, duplicate = self._set_aside(connection, typed, seq, valid == records)
            accepted = records - rejected - duplicate
            learn_values(connection, f"(select * from staging.{self.table} where _seq = {seq})", self.entity, self.settings)
            statements.remember_refusals(self.home, connection, self.table, batch_id, seq)
            self._quarantine(connection, batch_id)
            if not self.file.is_unchanged():
                raise UnreachableError(f"{self.file.uri}: changed while it was read; the next run reads it again")
            connection.execute(
                f"insert into staging._loads values ({', '.join('?' * 18)}, now()::timestamp)",
                [
                    batch_id,
                    seq,
                    self.channel.channel,
                    self.entity_name,
                    self.source.name,
                    self.file.uri,
                    content,
                    self.entity.fingerprint,
                    "loaded",
                    None,
                    raw.records + raw.malformed,
                    raw.records - in_filter,
                    in_filter - records,
                    records + raw.malformed,
                    accepted,
                    rejected + raw.malformed,
                    duplicate,
                    sorted(unknown),
                ],
            )
        load.files += 1
        load.read += records + raw.malformed
        load.accepted += accepted
        load.rejected += rejected + raw.malformed
        load.duplicate += duplicate
        load.withdrawn += withdrawn
        load.unknown_columns |= set(unknown)

    def _set_aside(self, connection, typed: Callable[[str], str], seq: int, all_valid: bool) -> tuple[int, int]:
        """Take out what is twice in the file, and make the temporary table `typed` of the rows that are not accepted, with
        their `_verdict`; how many were rejected, and how many are duplicates.

        A duplicate has the same key and the same content as an earlier row of the same file. Nearly every row of a file is
        accepted, so that only the others are looked at a second time.
        """
        mine = f"staging.{self.table} where _seq = {seq}"
        repeated = connection.execute(
            f"""
            delete from {mine} and _source_row in (
                select _source_row
                from (
                    select _source_row, row_number() over (partition by _payload_hash order by _source_row) as _copy
                    from {mine} and _payload_hash in (select _payload_hash from {mine} group by 1 having count(*) > 1)
                )
                where _copy > 1)
            """
        ).fetchone()[0]
        others = f"_row not in (select _source_row from {mine})" if repeated or not all_valid else "false"
        connection.execute(
            f"""
            create or replace temp table typed as
            select *, case
                when _reason is null or row_number() over (partition by _payload_hash order by _row) > 1 then 'duplicate'
                else 'rejected' end as _verdict
            from ({typed(others)})
            """
        )
        return connection.execute(
            "select count(*) filter (_verdict = 'rejected'), count(*) filter (_verdict = 'duplicate') from typed"
        ).fetchone()

    def _quarantine(self, connection, batch_id: str) -> None:
        place = [batch_id, self.channel.channel, self.entity_name, self.source.name, self.file.uri]
        if self.source.group_by:
            columns = ", ".join(self.entity.columns)
            connection.execute(
                f"""
                insert into staging._rejected
                select ?, ?, ?, ?, ?, t._row, 'record', t._reason, to_json(m), now()::timestamp, null
                from typed as t join (select _row, {columns} from mapped) as m using (_row)
                where t._verdict = 'rejected'
                """,
                place,
            )
        else:
            connection.execute(
                """
                insert into staging._rejected
                select ?, ?, ?, ?, ?, t._row, 'row', t._reason, to_json(r), now()::timestamp, null
                from typed as t join raw as r using (_row) where t._verdict = 'rejected'
                """,
                place,
            )
        connection.execute(
            """
            insert into staging._rejected
            select ?, ?, ?, ?, ?, line, 'line', reason, payload, now()::timestamp, null from malformed
            """,
            place,
        )

    def _refuse(self, connection, batch_id: str, content: str, reason: str, load: EntityLoad) -> None:
        """Keep the refusal; the file stays in landing and is tried again under a changed contract."""
        with transaction(connection):
            connection.execute("delete from staging._loads where batch_id = ?", [batch_id])
            connection.execute(
                f"insert into staging._loads values ({', '.join('?' * 10)}, 0, 0, 0, 0, 0, 0, 0, [], now()::timestamp)",
                [
                    batch_id,
                    next_sequence(connection),
                    self.channel.channel,
                    self.entity_name,
                    self.source.name,
                    self.file.uri,
                    content,
                    self.entity.fingerprint,
                    "refused",
                    reason,
                ],
            )
        load.refused.append((self.file.uri, reason))
        log.warning("%s refused: %s", self.file.uri, reason)


def map_rows(
    connection,
    entity: Entity,
    source: Source,
    mapped: str,
    settings: Settings,
    from_workbook: bool = False,
    is_whole_file: bool = True,
) -> Callable[[str], str]:
    """Make `mapped` of a mapped SELECT: a temporary view with all columns of the contract.

    Returns:
        What gives the typed SELECT (`mapping.typed_sql`) of those rows of `mapped` that a SQL condition names.

    Args:
        from_workbook: the rows come from a spreadsheet, whose numbers may be days.
        is_whole_file: the rows are one file, so that clear dates and numbers in it tell how to read unclear ones.

    Raises:
        OnefoldError: an expression of the mapping does not run.
    """
    zone = source.time_zone or settings.default_time_zone
    try:
        if source.sql or source.filter or source.group_by:  # what may be dear, or fail, is worked out once
            connection.execute(f"create or replace temp table computed as {mapped}")
            mapped = "from computed"
        connection.execute(f"create or replace temp view filled as {mapped}")
    except duckdb.Error as error:
        raise OnefoldError(
            f"the source '{source.name}' does not fit this file: {reading.without_values(error)}; correct its mapping"
        ) from error
    filled = {name for name, *_ in connection.execute("describe filled").fetchall()}
    connection.execute(f"create or replace temp view mapped as {mapping.contract_sql(entity, filled)}")
    forms = forms_of(connection, entity, source, from_workbook, is_whole_file)
    return lambda condition: mapping.typed_sql(entity, source, f"select * from mapped where {condition}", filled, zone, forms)


def learn_values(connection, relation: str, entity: Entity, settings: Settings) -> None:
    """Have every new value that SQL cannot read by itself read once: phones, user agents and IP addresses."""

    def columns(*formats: str) -> list[str]:
        return [name for name, column in entity.columns.items() if column.format in formats]

    if phones := columns("phone", "identifier"):
        learn_phones(connection, relation, phones, settings.default_region)
    if user_agents := columns("user_agent"):
        learn_user_agents(connection, relation, user_agents)
    if addresses := columns("ip_address"):
        learn_ip_addresses(connection, relation, addresses, settings)


def insert_accepted(connection, table: str, entity: Entity, batch_id: str, seq: int, uri: str, rows: str) -> int:
    """Append rows of a typed SELECT to a staging table; `uri` is SQL, `rows` what follows FROM; how many it were."""
    columns = ", ".join(entity.columns)
    return connection.execute(
        f"""
        insert into staging.{table} by name
        select {columns}, '{batch_id}' as _batch_id, {uri} as _source_uri, _row as _source_row,
            now()::timestamp as _loaded_at, _extra, _payload_hash, {seq} as _seq
        from {rows}
        """
    ).fetchone()[0]


def _prepare_table(connection, table: str, entity: Entity) -> None:
    wanted = {name: STAGING_TYPES[c.type].replace(", ", ",") for name, c in entity.columns.items()} | CARRIED
    try:
        existing = {name: kind for name, kind, *_ in connection.execute(f"describe staging.{table}").fetchall()}
    except duckdb.CatalogException:
        columns = ", ".join(f"{name} {kind}" for name, kind in wanted.items())
        connection.execute(f"create table staging.{table} ({columns})")
        return
    for name, kind in wanted.items():
        if name not in existing:
            connection.execute(f"alter table staging.{table} add column {name} {kind}")
        elif existing[name] != kind:
            raise OnefoldError(
                f"staging.{table}.{name} holds {existing[name]}, its contract now says {kind}; "
                "give the new form a new column, or convert the table first"
            )
