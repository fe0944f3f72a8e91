"""Who is left out of an audience, or of what a destination gets of it, and why."""

from datetime import datetime

import duckdb

from dagster_project.lib.audiences import tables
from dagster_project.lib.home import transaction


def write_exclusions(connection: duckdb.DuckDBPyConnection, audience: str, destination: str, now: datetime) -> None:
    """Keep who of an audience's members a destination does not get.

    Takes the temporary tables `unsent` (customer_id, reason) and `chosen` (customer_id): those who were looked at. What is
    known of others stays. Costs as much as was looked at and differs. Results that are still read from the connection end here.

    Args:
        now: UTC, without a zone; since when whoever was not left out before for this reason is.
    """
    tables.prepare_audiences(connection)
    with transaction(connection):
        exchange(connection, audience, destination, now, "unsent", looked_at="chosen")


def exclude_members(connection: duckdb.DuckDBPyConnection, audience: str, destination: str, reason: str, now: datetime) -> None:
    """Keep that a destination gets none of an audience's members, for one reason."""
    members = "select customer_id, $reason as reason from audiences.memberships where audience = $audience and left_at is null"
    connection.execute(f"create or replace temp table unsent as {members}", {"reason": reason, "audience": audience})
    tables.prepare_audiences(connection)
    with transaction(connection):
        exchange(connection, audience, destination, now, "unsent")


def forget_exclusions(connection: duckdb.DuckDBPyConnection, audience: str, destination: str) -> None:
    """Forget whom a destination did not get, once it gets nothing of the audience any more."""
    tables.prepare_audiences(connection)
    connection.execute("delete from audiences.exclusions where audience = ? and destination = ?", [audience, destination])


def exchange(
    connection: duckdb.DuckDBPyConnection,
    audience: str,
    destination: str | None,
    now: datetime,
    excluded: str,
    looked_at: str | None = None,
) -> None:
    """Write the difference to what is known; for a caller who holds a transaction.

    Args:
        destination: None: left out of the audience as such.
        excluded: a table or query with customer_id and reason.
        looked_at: a table with customer_id; None: everybody was.
    """
    connection.execute(
        f"""
        create or replace temp table excluded_now as
        select customer_id, min(reason) as reason from (from {excluded})
        where reason is not null {f"and customer_id in (select customer_id from {looked_at})" if looked_at else ""}
        group by customer_id
        """
    )
    of_these = "audience = ? and destination is not distinct from ?"
    connection.execute(
        f"""
        delete from audiences.exclusions as known
        where {of_these} {f"and customer_id in (select customer_id from {looked_at})" if looked_at else ""} and not exists (
            select 1 from excluded_now as n where n.customer_id = known.customer_id and n.reason = known.reason)
        """,
        [audience, destination],
    )
    connection.execute(
        f"""
        insert into audiences.exclusions (audience, destination, customer_id, reason, since)
        select ?, ?, customer_id, reason, ? from excluded_now
        anti join (select customer_id from audiences.exclusions where {of_these}) using (customer_id)
        """,
        [audience, destination, now, audience, destination],
    )
