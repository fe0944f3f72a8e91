"""Consent stated a moment ago: kept in landing as every statement is, and heeded by whoever is sending before any refresh.

Tables know a statement after the next refresh. Until then the state store keeps what was refused since, as keyed hashes, and
each batch of a delivery is compared with it before it leaves.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from dagster_project.lib.consent import contact_channels
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.delivery.ledger import TOKENS, SentRow
from dagster_project.lib.home import Home
from dagster_project.lib.keyed import tokens
from dagster_project.lib.phones import e164
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refusal, State

GRANTING = ("granted", "released")

# In which staging tables people refuse something, as SQL over their rows. Who unsubscribes is taken to mean every purpose until
# the refresh that knows which.
_UNSUBSCRIBED = (
    "select case when {column} is not null then '{column}' else 'contact_id' end, coalesce({column}, contact_id), 'any', "
    "'{channel}', lower(trim(event_name)), occurred_at from {{rows}} "
    "where lower(trim(event_name)) in ('unsubscribed', 'complained') and coalesce({column}, contact_id) is not null"
)
_REFUSED = {
    "crm_consents": (
        "select identifier_type, identifier_value, lower(trim(purpose)), coalesce(nullif(lower(trim(channel)), ''), 'any'), "
        f"lower(trim(status)), occurred_at from {{rows}} where lower(trim(status)) not in {GRANTING}"
    ),
    "email_events": _UNSUBSCRIBED.format(column="email", channel="email"),
    "sms_events": _UNSUBSCRIBED.format(column="phone", channel="sms"),
}
_CHUNK = 10_000


@dataclass(frozen=True)
class Statement:
    """What somebody said, or said for them, about being contacted; `status` is one that crm/consents allows."""

    identifier_type: str
    identifier_value: str
    purpose: str  # or any, of a refusal
    channel: str  # or any
    status: str
    occurred_at: datetime
    source: str


def state(home: Home, statement: Statement) -> Path:
    """Record a statement; returns its file in landing, which the next ingestion reads.

    A refusal counts for deliveries from now on, everything else from the next refresh on.
    """
    if statement.status not in GRANTING:
        State(home).refuse([_refusal(home, Settings.of(home), statement, None)])
    folder = home.prepare().landing / "crm" / "consents"
    folder.mkdir(parents=True, exist_ok=True)
    moment = statement.occurred_at.astimezone(UTC)
    file = folder / f"onefold_{moment:%Y%m%dT%H%M%S}_{uuid.uuid4().hex[:8]}.jsonl"
    draft = file.with_suffix(".part")
    line = {**vars(statement), "occurred_at": moment.isoformat()}
    draft.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.chmod(0o600)  # it holds an address
    draft.replace(file)
    return file


def remember_refusals(home: Home, connection: duckdb.DuckDBPyConnection, table: str, batch_id: str, seq: int) -> int:
    """Note what a batch refuses, before it is committed, for deliveries that are under way; returns how many statements.

    Args:
        table: in staging, that the batch was written to.
        seq: the number of the write.
    """
    state = State(home)
    if table not in _REFUSED or not (state.has_begun() or state.refusals()):  # nobody was ever sent anything
        return 0
    settings, count = Settings.of(home), 0
    rows = connection.execute(f"{_REFUSED[table].format(rows=f'staging.{table}')} and _batch_id = ?", [batch_id])
    while chunk := rows.fetchmany(_CHUNK):
        state.refuse(
            [
                _refusal(home, settings, Statement(kind, value, purpose, channel, status, at.replace(tzinfo=UTC), ""), seq)
                for kind, value, purpose, channel, status, at in chunk
            ]
        )
        count += len(chunk)
    return count


class NewRefusals:
    """Who refused something since the last refresh; for the threads that send.

    Args:
        connection: the warehouse as plans are made of it: it knows whose an identifier is that was refused before now. For what
            is refused later the served tables are asked, which wait for nobody, and the addresses in the rows themselves.
    """

    def __init__(self, home: Home, connection: duckdb.DuckDBPyConnection) -> None:
        self._home, self._state, self._region = home, State(home), Settings.of(home).default_region
        self._lock, self._last = threading.Lock(), 0
        self._by_token: dict[str, list[Refusal]] = {}
        self._by_customer: dict[str, list[Refusal]] = {}
        self._usual = dict(
            connection.execute("select identifier_type, channel from reference.contact_channels where is_usual").fetchall()
        )
        last = self._state.last_finished_refresh()
        self._known = last.loaded if last else 0  # what was loaded up to then the tables say
        self._state.forget_refusals()
        self._take_in(connection)

    def of(
        self, purpose: str, columns: Mapping[str, str], channel: str | None
    ) -> Callable[[Sequence[SentRow]], dict[str, str]]:
        """What says of rows about to be sent which of their customers must not be sent to, and why.

        Args:
            columns: for each column of the rows the column of a customer that it holds.
            channel: that the destination uses; None: the usual one of each address in the rows, or any where they have none.
        """
        addresses = {column: source for column, source in columns.items() if source in self._usual}
        channels = {channel} if channel else {self._usual[source] for source in addresses.values()}

        def withheld(rows: Sequence[SentRow]) -> dict[str, str]:
            self._take_in(None)
            if not self._by_token:
                return {}
            reasons = {}
            for row in rows:
                refused = list(self._by_customer.get(row.customer_id, ()))
                refused += [r for token in self._tokens(row, addresses) for r in self._by_token.get(token, ())]
                for refusal in refused:
                    is_meant = refusal.purpose in (purpose, "any")
                    if is_meant and (not channels or refusal.channel == "any" or refusal.channel in channels):
                        reasons[row.customer_id] = f"{refusal.status} since the last refresh"
            return reasons

        return withheld

    def _tokens(self, row: SentRow, addresses: Mapping[str, str]) -> list[str]:
        if not addresses:
            return []
        values = json.loads(row.row)
        if TOKENS in values:
            return values[TOKENS]
        named = [f"{kind}:{normal(kind, str(values[c]), self._region)}" for c, kind in addresses.items() if values.get(c)]
        return tokens(self._home.key, named)

    def _take_in(self, connection: duckdb.DuckDBPyConnection | None) -> None:
        with self._lock:
            new = self._state.refusals(after=self._last)
            if not new:
                return
            by_token: dict[str, list[Refusal]] = {}
            for _, refusal in new:
                if refusal.load is None or refusal.load > self._known:
                    by_token.setdefault(refusal.token, []).append(refusal)
            holders = self._holders(by_token, connection) if by_token else []
            for customer_id, token in holders:
                self._by_customer.setdefault(customer_id, []).extend(by_token[token])
            for token, refusals in by_token.items():
                self._by_token.setdefault(token, []).extend(refusals)
            self._last = new[-1][0]  # at the end: whoever fails on the way looks again, and sends nothing

    def _holders(self, by_token: Collection[str], connection: duckdb.DuckDBPyConnection | None) -> list[tuple[str, str]]:
        """Customers who have the identifiers, with the token of each."""
        query = (
            "select customer_id, identifier_token from unified.customer_identifiers "
            "where valid_to is null and identifier_token in (select unnest(?::varchar[]))"
        )
        if connection:
            return connection.execute(query, [list(by_token)]).fetchall()
        served = self._home.serving / "current" / "onefold.duckdb"
        if not served.exists():
            return []
        with duckdb.connect(str(served.resolve()), read_only=True) as masked:
            return masked.execute(query, [list(by_token)]).fetchall()


def unknown(home: Home, identifier_type: str, value: str, channel: str) -> str | None:
    """What is wrong with a statement that somebody types in, who would believe that it is heeded."""
    kind, region = identifier_type.strip().lower(), Settings.of(home).default_region
    types = {
        kind for entities in load_channels(home).values() for e in entities.entities.values() for kind in e.identifiers.values()
    }
    if kind not in types:
        return f"there is no type of identifier '{kind}'; there are {', '.join(sorted(types))}"
    if kind == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value.strip()):
        return f"'{value}' is no e-mail address"
    if kind == "phone" and e164(value.strip(), region) is None:
        return f"'{value}' is no phone number; write it with its country code, such as +8613812345678"
    channels = {"any", *contact_channels()}
    if channel.strip().lower() not in channels:
        return f"there is no channel '{channel}'; there are {', '.join(sorted(channels))} (dbt/seeds/contact_channels.csv)"
    return None


def normal(identifier_type: str, value: str, region: str) -> str:
    """An identifier in the form that tables have it in."""
    text = value.strip()
    if identifier_type == "email":
        return text.lower()
    return (e164(text, region) or text) if identifier_type == "phone" else text


def _refusal(home: Home, settings: Settings, statement: Statement, load: int | None) -> Refusal:
    kind, purpose, channel = (
        text.strip().lower() for text in (statement.identifier_type, statement.purpose, statement.channel)
    )
    (token,) = tokens(home.key, [f"{kind}:{normal(kind, statement.identifier_value, settings.default_region)}"])
    moment = statement.occurred_at.astimezone(UTC).isoformat(timespec="seconds")
    return Refusal(token, purpose, channel, statement.status.strip().lower(), moment, load)
