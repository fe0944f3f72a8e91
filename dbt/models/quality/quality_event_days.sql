-- Grain: one channel and day (UTC) with its events. New events are added to what was counted; a channel in which an event was
-- revised is counted anew, as the day it came from is not known. Read by the batch and customer metrics.
{{ config(unique_key='day_key', incremental_strategy='delete+insert') }}

{%- set counts -%}
    count(*) as events, count(amount) as amounts, count(amount_base) as converted, max(occurred_at) as newest_at
{%- endset %}

with fresh as (
    select channel, cast(occurred_at as date) as event_date, occurred_at, amount, amount_base, _is_revision
    from {{ ref('cleaned_events') }}
    where {{ is_new() }}
),

{% if is_incremental() -%}
revised as (select distinct channel from fresh where _is_revision),

counted as (
    select fresh.channel, event_date, {{ counts }}
    from fresh
    left join revised on revised.channel = fresh.channel
    where revised.channel is null
    group by fresh.channel, event_date
    union all
    select kept.channel, kept.event_date, kept.events, kept.amounts, kept.converted, kept.newest_at
    from {{ this }} as kept
    inner join (select distinct channel, event_date from fresh) as days
        on days.channel = kept.channel and days.event_date = kept.event_date
    left join revised on revised.channel = kept.channel
    where revised.channel is null
    union all
    select events.channel, cast(events.occurred_at as date), {{ counts }}
    from {{ ref('cleaned_events') }} as events
    inner join revised on revised.channel = events.channel
    group by events.channel, cast(events.occurred_at as date)
    union all  -- a day may have lost its only event
    select kept.channel, kept.event_date, 0, 0, 0, null
    from {{ this }} as kept
    inner join revised on revised.channel = kept.channel
)
{%- else -%}
counted as (select channel, event_date, {{ counts }} from fresh group by channel, event_date)
{%- endif %}

select
    concat_ws('|', channel, cast(event_date as string)) as day_key,
    channel,
    event_date,
    cast(sum(events) as bigint) as events,
    cast(sum(amounts) as bigint) as amounts,
    cast(sum(converted) as bigint) as converted,
    max(newest_at) as newest_at,
    {{ seq() }}
from counted
group by channel, event_date
