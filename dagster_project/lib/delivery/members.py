"""Members of a published audience with the values that a destination gets, out of the warehouse."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import duckdb

from dagster_project.lib.delivery.destination import Row
from dagster_project.lib.home import quoted
from dagster_project.lib.reading import identifier

ADDRESSES = {"email": "email", "phone": "sms"}  # types of identifiers that are sent to, and the channel each is asked for
_CHUNK = 5_000

# A table, so that the engine knows how few they are when it joins.
_THEIRS = """
create or replace temp table theirs as
select customer_id, identifier_type, identifier_value, valid_from, last_seen_at
from unified.customer_identifiers
where valid_to is null and is_person and customer_id in (select customer_id from chosen)
"""

# What was stated about an address itself, and about the person by an identifier that is none. The latest statement for each
# channel counts, of equal times a denial; a grant for the channel gives way to a later denial for all channels.
_CONTACTS = """
create or replace temp table contacts as
with addresses as (
    select *, case identifier_type {channels} end as used_channel
    from theirs where identifier_type in ({types})
),

stated as (
    select
        theirs.customer_id,
        case when theirs.identifier_type in ({types}) then theirs.identifier_type end as address_type,
        case when theirs.identifier_type in ({types}) then theirs.identifier_value end as address_value,
        consents.channel,
        consents.status,
        consents.occurred_at
    from theirs
    inner join cleaned.crm_consents as consents
        on consents.identifier_type = theirs.identifier_type and consents.identifier_value = theirs.identifier_value
    where consents.purpose = $purpose and consents.occurred_at <= $now
        and consents.occurred_at >= coalesce(theirs.valid_from, '-infinity'::timestamp)  -- else of whoever had it before
    qualify row_number() over (
        partition by theirs.customer_id, address_type, address_value, consents.channel
        order by consents.occurred_at desc, case when consents.status = 'granted' then 1 else 0 end
    ) = 1
),

judged as (
    select
        addresses.customer_id,
        addresses.identifier_type,
        addresses.identifier_value,
        addresses.last_seen_at,
        {own} as own,
        {personal} as personal
    from addresses
    left join stated as own_channel
        on own_channel.customer_id = addresses.customer_id and own_channel.address_type = addresses.identifier_type
        and own_channel.address_value = addresses.identifier_value and own_channel.channel = addresses.used_channel
    left join stated as own_any
        on own_any.customer_id = addresses.customer_id and own_any.address_type = addresses.identifier_type
        and own_any.address_value = addresses.identifier_value and own_any.channel = 'any'
    left join (select * from stated where address_type is null) as personal_channel
        on personal_channel.customer_id = addresses.customer_id and personal_channel.channel = addresses.used_channel
    left join (select * from stated where address_type is null) as personal_any
        on personal_any.customer_id = addresses.customer_id and personal_any.channel = 'any'
)

select customer_id, identifier_type, identifier_value
from judged
where coalesce(own, true) and coalesce(personal, true) and coalesce(own, personal, false)
qualify row_number() over (
    partition by customer_id, identifier_type order by last_seen_at desc nulls last, identifier_value
) = 1
"""

_VERDICT = """case
            when {0}_channel.status <> 'granted' then false
            when {0}_any.status <> 'granted' and coalesce({0}_any.occurred_at >= {0}_channel.occurred_at, true) then false
            when {0}_channel.status = 'granted' or {0}_any.status = 'granted' then true
        end"""


class WarehouseMembers:
    """Members of one audience by its last published version.

    An address is sent only if it was consented to for the purpose: by a grant of its own, or of its person by an identifier
    that is no address; a denial of either keeps it out. Whoever has none of the addresses that the columns ask for is not
    sent at all.

    Args:
        connection: the warehouse; it is read while a plan is made, and nothing is sent meanwhile.
        columns: for each column of the destination what it holds: a column of unified.customers, or `audience`.
        channel: the one that consent is asked for; None: email for e-mail addresses and sms for phones.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        audience: str,
        purpose: str,
        columns: Mapping[str, str],
        channel: str | None = None,
    ) -> None:
        self._connection, self.audience, self.purpose = connection, audience, purpose
        self.columns, self.channel = dict(columns), channel
        self.shape = json.dumps([self.columns, purpose, channel])
        self._version = self._one("select coalesce(max(version), 0) from audiences.publications where audience = ?", audience)
        self._sequence = self._one("select value from staging._sequence")
        self.position = json.dumps({"version": self._version, "write": self._sequence})

    def is_empty(self) -> bool:
        """Whether the audience was never published, or there are no customers at all."""
        return self._version == 0 or not self._one("select count(*) > 0 from (select 1 from unified.customers limit 1)")

    def everyone(self) -> Iterator[tuple[str, Row]]:
        """Every member who can be sent to, by customer id upwards."""
        self._choose("select customer_id from audiences.memberships where audience = $audience and left_at is null")
        return ((customer_id, row) for customer_id, row in self._rows() if row is not None)

    def changed(self, since: str, besides: Iterable[str]) -> Iterator[tuple[str, Row | None]] | None:
        """Who entered or left since, members whose records, identity or consent changed, and those named besides.

        None where the warehouse is older than `since`, as one from a backup is.
        """
        was = json.loads(since)
        if was["version"] > self._version or was["write"] > self._sequence:
            return None
        self._choose(
            f"""
            select customer_id from audiences.changes where audience = $audience and version > {int(was["version"])}
            union
            select customer_id from audiences.memberships
            where audience = $audience and left_at is null and customer_id in (
                select customer_id from unified.touched_customers where _seq > {int(was["write"])}
                union all
                select named.customer_id from cleaned.crm_consents as consents
                inner join unified.customer_identifiers as named
                    on named.identifier_type = consents.identifier_type and named.identifier_value = consents.identifier_value
                where consents._seq > {int(was["write"])}
            )
            """
        )
        self._choose_besides(besides)
        return self._rows()

    def these(self, customer_ids: Iterable[str]) -> Iterator[tuple[str, Row | None]]:
        """These customers, each once."""
        self._choose("select ''::varchar as customer_id where $audience is null")
        self._choose_besides(customer_ids)
        return self._rows()

    def _choose(self, customers: str) -> None:
        self._connection.execute(f"create or replace temp table chosen as {customers}", {"audience": self.audience})

    def _choose_besides(self, customer_ids: Iterable[str]) -> None:
        others = iter(customer_ids)
        while chunk := list(islice(others, _CHUNK)):
            self._connection.execute(
                "insert into chosen select distinct customer_id from (select unnest(?::varchar[]) as customer_id) "
                "anti join chosen using (customer_id)",
                [chunk],
            )

    def _rows(self) -> Iterator[tuple[str, Row | None]]:
        wanted = [kind for kind in ADDRESSES if kind in self.columns.values()]
        if wanted:
            channels = " ".join(f"when '{kind}' then '{quoted(self.channel or usual)}'" for kind, usual in ADDRESSES.items())
            types = ", ".join(f"'{kind}'" for kind in ADDRESSES)
            self._connection.execute(_THEIRS)
            self._connection.execute(
                _CONTACTS.format(
                    channels=channels, types=types, own=_VERDICT.format("own"), personal=_VERDICT.format("personal")
                ),
                {"purpose": self.purpose, "now": datetime.now(UTC).replace(tzinfo=None)},
            )
        taken = {"customer_id": "chosen.customer_id", "audience": "$audience"}
        taken |= {kind: f"{kind}.identifier_value" for kind in wanted}
        values = [taken.get(source, f"customers.{identifier(source)}") for source in self.columns.values()]
        joins = "".join(
            f"\nleft join contacts as {kind} on {kind}.customer_id = chosen.customer_id and {kind}.identifier_type = '{kind}'"
            for kind in wanted
        )
        has_address = f"({' or '.join(f'{kind}.identifier_value is not null' for kind in wanted)})" if wanted else "true"
        rows = self._connection.execute(
            f"""
            select chosen.customer_id, members.customer_id is not null and customers.customer_id is not null and {has_address},
                {", ".join(values)}
            from chosen
            left join (
                select distinct customer_id from audiences.memberships
                where audience = $audience and left_at is null and customer_id in (select customer_id from chosen)
            ) as members on members.customer_id = chosen.customer_id
            left join unified.customers as customers on customers.customer_id = chosen.customer_id{joins}
            order by chosen.customer_id
            """,
            {"audience": self.audience},
        )
        names = tuple(self.columns)
        while chunk := rows.fetchmany(_CHUNK):
            for customer_id, is_sent, *row in chunk:
                yield customer_id, dict(zip(names, row, strict=True)) if is_sent else None

    def _one(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(statement, list(values)).fetchone()[0]
