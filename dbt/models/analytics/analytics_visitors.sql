-- Grain: one visitor: a customer, anonymous or known, with a touchpoint; where the first came from, and what they did since. Fed
-- by analytics.touchpoints and unified; read by analytics.conversion and BI.

with visited as (
    select
        customer_id,
        min(occurred_at) as visited_at,
        min_by(channel_group, concat_ws('|', {{ sortable('occurred_at') }}, touchpoint_id)) as channel_group
    from {{ of_touched('analytics_touchpoints') }} as touchpoints
    group by customer_id
),

acts as (
    select
        visited.customer_id,
        events.occurred_at,
        case when {{ is_purchase('events.event_name') }} then events.occurred_at end as bought_at,
        case when {{ is_interest('events.event_name') }} then events.occurred_at end as engaged_at,
        sum(case when {{ is_purchase('events.event_name') }} then 1 else 0 end) over (
            partition by visited.customer_id order by events.occurred_at, events.event_id rows unbounded preceding
        ) as purchase_number
    from visited
    inner join {{ of_touched('unified_customer_events') }} as events on events.customer_id = visited.customer_id
    where events.occurred_at >= visited.visited_at and {{ is_customer_traffic() }}
        and ({{ is_purchase('events.event_name') }} or {{ is_interest('events.event_name') }})
),

since as (
    select
        customer_id,
        min(engaged_at) as engaged_at,
        min(bought_at) as bought_at,
        min(case when purchase_number >= 2 then bought_at end) as bought_again_at
    from acts
    group by customer_id
)

select
    visited.customer_id,
    customers.is_known,
    visited.channel_group,
    visited.visited_at,
    since.engaged_at,
    since.bought_at,
    since.bought_again_at,
    {{ seq() }}
from visited
inner join {{ of_touched('unified_customers') }} as customers on customers.customer_id = visited.customer_id
left join since on since.customer_id = visited.customer_id
