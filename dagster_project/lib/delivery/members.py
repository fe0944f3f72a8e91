"""Members of a published audience with the values that a destination gets, out of the warehouse."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import duckdb

from dagster_project.lib.consent import address_permissions, customer_permissions
from dagster_project.lib.delivery.destination import Row
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.reading import identifier

_CHUNK = 5_000

# A table, so that the engine knows how few they are when it joins.
_THEIRS = """
create or replace temp table theirs as
select customer_id, identifier_type, identifier_value, valid_to, last_seen_at
from unified.customer_identifiers
where valid_to is null and identifier_type in ({types}) and customer_id in (select customer_id from chosen)
"""

# Of several addresses that may be contacted the last seen.
_CONTACTS = """
create or replace temp table contacts as
select customer_id, identifier_type, identifier_value
from addresses
where is_allowed
qualify row_number() over (
    partition by customer_id, identifier_type order by last_seen_at desc nulls last, identifier_value
) = 1
"""

_PRESENT = """
create or replace temp table present as
select distinct members.customer_id
from audiences.memberships as members
semi join chosen using (customer_id)
semi join unified.customers as customers using (customer_id)
where audience = $audience and left_at is null
"""

_UNSENT = """
create or replace temp table unsent as
select present.customer_id, case
        when bool_or(addresses.reason in ('suppressed', 'person suppressed')) then 'suppressed'
        when count(addresses.customer_id) > 0 then 'no consent for the channel'
        else 'no usable identifier'
    end as reason
from present
anti join contacts using (customer_id)
left join addresses on addresses.customer_id = present.customer_id
group by present.customer_id
"""

_UNSENT_BY_ID = """
create or replace temp table unsent as
select customer_id, case
        when reason = 'suppressed' or $channel is null then reason
        else 'no consent for the channel'
    end as reason
from judged
where not is_allowed
"""


class WarehouseMembers:
    """Members of one audience by its last published version.

    A member is sent with addresses that may be contacted for the purpose, one of each type that the columns ask for; whoever
    has none is not sent at all. Where no column asks for an address, the customer is judged.

    While rows are read, the temporary table `unsent(customer_id, reason)` has the members among those asked for who are not
    sent. Reasons: `no usable identifier`, `suppressed`, `no consent for the channel`, and where neither an address nor a
    channel is asked for `consent denied or withdrawn` or `no consent`.

    Args:
        connection: the warehouse; it is read while a plan is made, and nothing is sent meanwhile.
        columns: for each column of the destination what it holds: a column of unified.customers, or `audience`.
        channel: the one that consent is asked for; None: the usual one of each type of address.
        legitimate_interest: purposes for which who said nothing may be contacted, of the home's settings.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        audience: str,
        purpose: str,
        columns: Mapping[str, str],
        channel: str | None = None,
        legitimate_interest: Collection[str] = (),
    ) -> None:
        self._connection, self.audience, self.purpose = connection, audience, purpose
        self.columns, self.channel = dict(columns), channel
        self._legitimate = [purpose] if purpose in legitimate_interest else []
        self.shape = json.dumps([self.columns, purpose, channel, self._legitimate])
        self._version = self._one("select coalesce(max(version), 0) from audiences.publications where audience = ?", audience)
        self._sequence = self._one("select value from staging._sequence")
        self.position = json.dumps({"version": self._version, "write": self._sequence})

    def is_empty(self) -> bool:
        """Whether the audience was never published, or there are no customers at all."""
        return self._version == 0 or not self._one("select count(*) > 0 from (select 1 from unified.customers limit 1)")

    def everyone(self) -> Iterator[tuple[str, Row | None]]:
        """Every member, by customer id upwards, also those who may not be sent to."""
        self._choose("select customer_id from audiences.memberships where audience = $audience and left_at is null")
        return self._rows()

    def changed(self, since: str, besides: Iterable[str]) -> Iterator[tuple[str, Row | None]] | None:
        """Who entered or left since, members who were touched, and those named besides.

        A customer is touched by every change of records, identity and consent, also when a statement dated ahead comes due.
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
            )
            """
        )
        self._choose_besides(besides)
        return self._rows()

    def leaving(self, since: str | None, besides: Iterable[str]) -> Iterator[tuple[str, None]]:
        """Those who must not be held any more as they are: who left the audience, who may not be sent to, and who may not be
        sent to at one of their addresses any more, which may be the one that is held.

        Not a member whose record is gone: while an audience is stopped, who was merged into whom is not to be trusted.

        Args:
            since: None: only those named besides are looked at.
        """
        rows = self.changed(since, besides) if since else self.these(besides)
        if rows is None:
            return iter(())
        gone = {customer_id for customer_id, row in rows if row is None}
        merged = self._connection.execute(
            "select customer_id from audiences.memberships semi join chosen using (customer_id) "
            "anti join present using (customer_id) where audience = ? and left_at is null",
            [self.audience],
        ).fetchall()
        refusing = self._connection.execute(
            "select customer_id from unified.contact_permissions semi join chosen using (customer_id) "
            "where not is_allowed and list_contains(?, identifier_type) and purpose in (?, 'any') and _seq > ?",
            [self._wanted(), self.purpose, json.loads(since)["write"] if since else self._sequence],
        ).fetchall()
        gone = (gone - {one for (one,) in merged}) | {one for (one,) in refusing}
        return ((customer_id, None) for customer_id in sorted(gone))

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
        wanted = self._wanted()
        audience = {"audience": self.audience}
        self._connection.execute(_PRESENT, audience)
        if wanted:
            self._connection.execute(_THEIRS.format(types=", ".join(f"'{kind}'" for kind in wanted)))
            judged = address_permissions(self.purpose, self.channel, "theirs", self._legitimate)
            self._connection.execute(f"create or replace temp table addresses as {judged}")
            self._connection.execute(_CONTACTS)
            self._connection.execute(_UNSENT)
        else:
            judged = customer_permissions(self.purpose, self.channel, "present", self._legitimate)
            self._connection.execute(f"create or replace temp table judged as {judged}")
            self._connection.execute(_UNSENT_BY_ID, {"channel": self.channel})
        taken = {"customer_id": "chosen.customer_id", "audience": "$audience"}
        taken |= {kind: f"{kind}.identifier_value" for kind in wanted}
        values = [taken.get(source, f"customers.{identifier(source)}") for source in self.columns.values()]
        joins = "".join(
            f"\nleft join contacts as {kind} on {kind}.customer_id = chosen.customer_id and {kind}.identifier_type = '{kind}'"
            for kind in wanted
        )
        rows = self._connection.execute(
            f"""
            select chosen.customer_id, present.customer_id is not null and unsent.customer_id is null,
                {", ".join(values)}
            from chosen
            left join present on present.customer_id = chosen.customer_id
            left join unsent on unsent.customer_id = chosen.customer_id
            left join unified.customers as customers on customers.customer_id = chosen.customer_id{joins}
            order by chosen.customer_id
            """,
            audience if "$audience" in values else {},
        )
        names = tuple(self.columns)
        while chunk := rows.fetchmany(_CHUNK):
            for customer_id, is_sent, *row in chunk:
                yield customer_id, dict(zip(names, row, strict=True)) if is_sent else None

    def _wanted(self) -> list[str]:
        """The types of addresses that the columns ask for.

        Raises:
            OnefoldError: the channel reaches nobody at any of them.
        """
        served: dict[str, set[str]] = {}
        for kind, channel in self._connection.execute(
            "select identifier_type, channel from reference.contact_channels order by 1, 2"
        ).fetchall():
            served.setdefault(kind, set()).add(channel)
        wanted = [kind for kind in served if kind in self.columns.values()]
        if wanted and self.channel and not any(self.channel in served[kind] for kind in wanted):
            raise OnefoldError(
                f"the channel {self.channel} reaches nobody by {' or '.join(wanted)}; what serves which channel is in "
                "dbt/seeds/contact_channels.csv"
            )
        return wanted

    def _one(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(statement, list(values)).fetchone()[0]
