"""Landing files of any size for the benchmarks: web events of returning visitors, their orders, the CRM's contacts.

DuckDB writes them: the simulator works people out one by one and would take hours for millions of events. A person has
fifty events on two browsers, logs in for three of ten, and places one order; everything follows from hashes of a number.
"""

from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from dagster_project.lib.home import quoted

EVENTS_A_PERSON = 50
_DAYS = 365

_EVENT = """
select
    'e' || n as event_id,
    case when h % 100 < 60 then 'page_view' when h % 100 < 80 then 'product_view' when h % 100 < 88 then 'search'
        when h % 100 < 96 then 'add_to_cart' else 'button_clicked' end as event_name,
    strftime(happened_at, '%Y-%m-%dT%H:%M:%S.%gZ') as occurred_at,
    'a' || person || '-' || (h >> 8) % 2 as anonymous_id,
    case when (h >> 16) % 10 < 3 then 'u' || person end as user_id,
    's' || person || '-' || strftime(happened_at, '%j') as session_id,
    'https://shop.bench-company.cn/products/' || product || '?ref=' || (h >> 20) % 1000 as url,
    'Product ' || product || ' | Bench company' as title,
    case when (h >> 24) % 4 = 0 then 'https://www.baidu.com/' end as referrer,
    case when (h >> 24) % 8 = 0 then 'newsletter' end as utm_source,
    case when (h >> 24) % 8 = 0 then 'email' end as utm_medium,
    'p' || product as product_id,
    case when h % 100 between 80 and 87 then 'running shoes ' || product % 50 end as search_term,
    (h >> 28) % 300 as duration_seconds,
    'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/' || 100 + (h >> 32) % 40 || '.0'
        as user_agent,
    '120.' || (h >> 36) % 256 || '.' || (h >> 40) % 256 || '.7' as ip,
    'CN' as country,
    '+08:00' as utc_offset,
    {'scroll': (h >> 44) % 100, 'experiment': case when (h >> 50) % 2 = 0 then 'a' else 'b' end} as properties
from (
    select
        n, h, hash(h, 'person') % {people} as person, hash(h, 'product') % 2000 as product,
        timestamp '{until}' - to_microseconds(cast(hash(h, 'time') % {microseconds} as bigint)) as happened_at
    from (select range as n, hash(range, {seed}) as h from range({first}, {last}))
)
"""
_ORDER = """
select 'o' || n as order_id, 'u' || n as user_id, 'paid' as status, 50 + h % 2000 as amount, 'CNY' as currency,
    strftime(timestamp '{until}' - to_microseconds(cast(h % {microseconds} as bigint)), '%Y-%m-%dT%H:%M:%SZ') as ordered_at
from (select range as n, hash(range, {seed}, 'order') as h from range({first}, {last}))
"""
_CONTACT = """
select 'c' || n as contact_id, 'u' || n as user_id, 'person' || n || '@mail.bench-company.cn' as email,
    '138' || lpad(cast(n % 100000000 as varchar), 8, '0') as phone, 'Person' as first_name, 'Number ' || n as last_name,
    case n % 3 when 0 then '上海' when 1 then '成都' else '广州' end as city, '2020-01-01T00:00:00Z' as updated_at
from range({first}, {last}) as numbers (n)
"""


def people_of(events: int) -> int:
    """How many people a history of so many events has."""
    return max(events // EVENTS_A_PERSON, 1)


def write_history(landing: Path, events: int, until: datetime, seed: int = 1) -> None:
    """A year of `events` web events, a file for each month, with an order and a contact of each person."""
    people, span = people_of(events), timedelta(days=_DAYS / 12)
    for month in range(12):
        first, last = events * month // 12, events * (month + 1) // 12
        file = landing / "web" / "events" / f"history-{month:02}.jsonl"
        write_events(file, first, last, people, until - span * (11 - month), seed, span)
    window = {"until": until, "microseconds": _DAYS * 86_400_000_000, "seed": seed, "first": 0, "last": people}
    _write(landing / "orders" / "orders" / "history.jsonl", _ORDER.format(**window))
    _write(landing / "crm" / "contacts" / "history.jsonl", _CONTACT.format(**window))


def write_events(
    file: Path, first: int, last: int, people: int, until: datetime, seed: int = 1, span: timedelta = timedelta(days=_DAYS)
) -> None:
    """Web events number `first` to `last` (excluded) of so many people, spread over the time before `until`, as JSON lines."""
    microseconds = int(span / timedelta(microseconds=1))
    fields = {"people": people, "until": until, "microseconds": microseconds, "seed": seed, "first": first, "last": last}
    query = _EVENT
    for name, value in fields.items():
        query = query.replace("{" + name + "}", str(value))
    _write(file, query)


def _write(file: Path, query: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}")
    duckdb.connect().execute(f"copy ({query}) to '{quoted(draft)}' (format json)")
    draft.replace(file)
