"""Contact pressure: who got so many messages lately that the audiences of a purpose leave them alone for now."""

from datetime import datetime, timedelta

import duckdb

from dagster_project.lib.settings import Cap


def select_capped(connection: duckdb.DuckDBPyConnection, cap: Cap | None, now: datetime) -> None:
    """Make the temporary table `capped` with the customers who have reached a cap; nobody has without one.

    Every e-mail and text message that was sent counts, whoever sent it for what, unless it came back; none that a campaign held
    out. Events lie in the order of time, so that only those of the window are read.

    Args:
        now: UTC, without a zone; messages sent in the days before count.
    """
    if cap is None:
        connection.execute("create or replace temp table capped (customer_id varchar)")
        return
    connection.execute(
        """
        create or replace temp table capped as
        select customer_id
        from unified.customer_events
        where occurred_at > $since and occurred_at <= $now and customer_id is not null
            and event_name in ('email_sent', 'sms_sent', 'email_bounced', 'sms_bounced')
        group by customer_id
        having count(*) filter (event_name in ('email_sent', 'sms_sent')) - count(*) filter (
            event_name in ('email_bounced', 'sms_bounced')) >= $messages
        """,
        {"since": now - timedelta(days=cap.within_days), "now": now, "messages": cap.messages},
    )
