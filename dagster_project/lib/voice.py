"""What reads texts for dbt's model `analytics_sentiments`: a step that commits as it goes and may run again."""

import logging
from datetime import datetime

import duckdb

from dagster_project.lib.home import Home, transaction
from dagster_project.lib.sentiment import VERSION, Sentiment

log = logging.getLogger("onefold")

_BATCH = 5_000  # texts; what a killed run has done is kept in steps of so many
_SCORER = Sentiment()  # its models stay loaded in the continuous mode
TABLES = """
create table if not exists analytics.sentiments (
    text_id varchar not null,
    language varchar,
    polarity double,
    sentiment varchar,
    scored_by varchar not null,
    _seq bigint not null
);
create table if not exists analytics._scored (seq bigint not null);
"""


def score(connection: duckdb.DuckDBPyConnection, home: Home, query: str, seq: int, as_of: datetime) -> None:
    """Bring `analytics.sentiments` up to the texts of a query: each distinct text is scored once, in batches.

    Args:
        query: gives `text`, the `_seq` of its row, and `is_whole`: whether everything is looked at again, and what nobody
            says any more, or an older way has scored, is dropped.
    """
    with transaction(connection):
        connection.execute(TABLES)
        (done,) = connection.execute("select coalesce(max(seq), -1) from analytics._scored").fetchone()
        connection.execute(
            f"""
            delete from analytics.sentiments
            where exists (select 1 from ({query}) where is_whole)
                and (scored_by <> ? or text_id not in (select md5(text) from ({query})));
            """,
            [VERSION],
        )
        connection.execute(
            f"""
            create or replace temp table unread as
            select distinct md5(text) as text_id, text from ({query})
            where (is_whole or _seq > {done}) and md5(text) not in (select text_id from analytics.sentiments)
            """
        )
    (waiting,) = connection.execute("select count(*) from unread").fetchone()
    for start in range(0, waiting, _BATCH):
        rows = connection.execute(
            "select text_id, text from unread where rowid >= ? and rowid < ?", [start, start + _BATCH]
        ).fetchall()
        opinions = _SCORER.score([text for _, text in rows])
        columns = [[key for key, _ in rows], *zip(*((o.language, o.polarity, o.label) for o in opinions), strict=True)]
        with transaction(connection):
            connection.execute(
                f"insert into analytics.sentiments select unnest($1::varchar[]), unnest($2::varchar[]), unnest($3::double[]), "
                f"unnest($4::varchar[]), $5, {seq}",
                [*map(list, columns), VERSION],
            )
        if waiting > _BATCH:
            log.info("sentiment: %d of %d new texts", min(start + _BATCH, waiting), waiting)
    with transaction(connection):
        connection.execute("drop table unread; delete from analytics._scored")
        connection.execute("insert into analytics._scored values (?)", [seq])
