"""Landing files of any size for the benchmarks: web events of returning visitors, their orders, e-mails, chats and posts.

DuckDB writes them: the simulator works people out one by one and would take hours for millions of events. A person has
fifty events on two browsers, logs in for three of ten, places one order of two lines and gets four e-mails; one of ten writes
to customer service, answers a survey and speaks of the company in public. Everything follows from hashes of a number.
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
_ORDER_ITEM = """
select 'o' || n as order_id, line as line_number, 'p' || hash(n, line) % 2000 as product_id, 1 as quantity,
    25 + hash(n, line) % 1000 as unit_price
from (select range // 2 as n, 1 + range % 2 as line from range({first} * 2, {last} * 2))
"""
_PRODUCT = """
select 'p' || n as product_id, 'Product ' || n as name, 'category ' || n % 40 as category, 'brand ' || n % 90 as brand,
    25 + hash(n) % 1000 as price, 10 + hash(n) % 400 as cost, 'CNY' as currency
from range(2000) as numbers (n)
"""
_EMAIL = """
select 'm' || n || '-' || step as event_id, 'message-' || n as message_id, 'campaign-' || h % 24 as campaign_id,
    ['sent', 'delivered', 'opened', 'clicked'][step] as event_name, 'person' || n // 4 || '@mail.bench-company.cn' as email,
    strftime(timestamp '{until}' - to_days(cast(h % 24 * 15 as integer)) + to_minutes(cast(step * 7 as integer)),
        '%Y-%m-%dT%H:%M:%SZ') as occurred_at
from (select range as n, hash(range, {seed}, 'email') as h from range({first} * 4, {last} * 4)), range(1, 5) as steps (step)
where step <= 2 or (step = 3 and (h >> 8) % 10 < 3) or (step = 4 and (h >> 8) % 10 < 1)
"""
_CHAT = """
select 'c' || n || '-' || turn as message_id, 'c' || n as conversation_id, 'u' || n as user_id,
    case turn when 1 then 'in' else 'out' end as direction, case turn when 2 then 'A' || n % 20 end as agent_id,
    case turn when 1 then 'Where is my order number ' || n || '?' else 'It is on its way.' end as text,
    case turn when 1 then 'open' else 'closed' end as status, case turn when 2 then 1 + h % 5 end as csat_score,
    strftime(timestamp '{until}' - to_microseconds(cast(h % {microseconds} as bigint)) + to_minutes(cast(turn * 9 as integer)),
        '%Y-%m-%dT%H:%M:%SZ') as occurred_at
from (select range * 10 as n, hash(range, {seed}, 'chat') as h from range({first}, {last} // 10)), range(1, 3) as turns (turn)
"""
_ANSWER = """
select 'r' || n as response_id, 'u' || n as user_id, 'after purchase' as survey_id, 'nps' as question, h % 11 as score,
    strftime(timestamp '{until}' - to_microseconds(cast(h % {microseconds} as bigint)), '%Y-%m-%dT%H:%M:%SZ') as answered_at
from (select range * 10 as n, hash(range, {seed}, 'answer') as h from range({first}, {last} // 10))
"""
_POST = """
select 'i' || n as interaction_id, 'weibo' as platform, 'mention' as kind, 'fan' || n as handle, 'u' || n as user_id,
    ['Delivery of product ' || h % 2000 || ' was late again', '很好，第' || h % 2000 || '次买了', 'Got it'][1 + n % 3] as text,
    strftime(timestamp '{until}' - to_microseconds(cast(h % {microseconds} as bigint)), '%Y-%m-%dT%H:%M:%SZ') as occurred_at
from (select range * 10 as n, hash(range, {seed}, 'post') as h from range({first}, {last} // 10))
"""
_OTHERS = {
    "orders/orders": _ORDER,
    "orders/order_items": _ORDER_ITEM,
    "catalog/products": _PRODUCT,
    "crm/contacts": _CONTACT,
    "email/events": _EMAIL,
    "chat/messages": _CHAT,
    "survey/responses": _ANSWER,
    "social/interactions": _POST,
}


def people_of(events: int) -> int:
    """How many people a history of so many events has."""
    return max(events // EVENTS_A_PERSON, 1)


def write_history(landing: Path, events: int, until: datetime, seed: int = 1) -> None:
    """A year of `events` web events, a file for each month, with what else its people leave in other channels."""
    people, span = people_of(events), timedelta(days=_DAYS / 12)
    for month in range(12):
        first, last = events * month // 12, events * (month + 1) // 12
        file = landing / "web" / "events" / f"history-{month:02}.jsonl"
        write_events(file, first, last, people, until - span * (11 - month), seed, span)
    window = {"until": until, "microseconds": _DAYS * 86_400_000_000, "seed": seed, "first": 0, "last": people}
    for place, query in _OTHERS.items():
        _write(landing / place / "history.jsonl", query.format(**window))


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
