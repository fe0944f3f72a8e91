-- Grain: one customer with at least ten acts of their own in the last 60 days and ten in the 120 before. Whether the channel
-- that they prefer is another now, such as `web to app`, or `stable`. The number is the part of their acts that moved between
-- channels, 0 to 1; confidence is the lesser of the shares of the two channels, each in its time. Fed by
-- unified.customer_events.

with acts as (
    select
        customer_id,
        channel,
        occurred_at,
        case when occurred_at > {{ dbt.dateadd('day', -60, as_of()) }} then 1 else 0 end as is_recent
    from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and {{ is_own_act('event_name') }} and {{ within_days('occurred_at', 180) }}
),

counted as (
    select
        customer_id,
        channel,
        sum(is_recent) as recent,
        sum(1 - is_recent) as earlier,
        max(case when is_recent = 1 then occurred_at end) as last_recent_at,
        max(case when is_recent = 0 then occurred_at end) as last_earlier_at
    from acts
    group by customer_id, channel
),

ranked as (
    select
        customer_id,
        channel,
        recent,
        earlier,
        sum(recent) over (partition by customer_id) as recent_total,
        sum(earlier) over (partition by customer_id) as earlier_total,
        row_number() over (partition by customer_id order by recent desc, last_recent_at desc nulls last, channel) as recent_rank,
        row_number() over (partition by customer_id order by earlier desc, last_earlier_at desc nulls last, channel)
            as earlier_rank
    from counted
),

shares as (
    select
        ranked.*,
        {{ decimal_of('cast(recent as double) / recent_total', 6) }} as recent_share,
        {{ decimal_of('cast(earlier as double) / earlier_total', 6) }} as earlier_share
    from ranked
    where recent_total >= 10 and earlier_total >= 10
),

compared as (
    select
        customer_id,
        max(case when recent_rank = 1 then channel end) as channel_now,
        max(case when earlier_rank = 1 then channel end) as channel_before,
        least(
            max(case when recent_rank = 1 then recent_share end), max(case when earlier_rank = 1 then earlier_share end)
        ) as least_share,
        cast(sum(abs(recent_share - earlier_share)) as double) / 2 as moved
    from shares
    group by customer_id
)

select
    {{ tag('channel_drift',
        value="case when channel_now = channel_before then 'stable' else concat_ws(' to ', channel_before, channel_now) end",
        number_value='moved', confidence='least_share') }}
from compared
