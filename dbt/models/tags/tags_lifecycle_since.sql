-- Grain: one customer. The day on which their present stage of tags.lifecycle began, UTC; the number is the days since.
-- A prospect is one since they were first seen; a new customer since the first order; an active one since 30 days after
-- that, or since the order that ended a pause of over 90 days; at_risk and lapsed begin 90 and 180 days after the last order.
-- Fed by tags.lifecycle, unified.customers and unified.customer_events.

with orders as (
    select
        customer_id,
        occurred_at,
        lag(occurred_at) over (partition by customer_id order by occurred_at, event_id) as previous_order_at
    from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and {{ is_purchase('event_name') }} and {{ is_customer_traffic() }}
),

-- The order from which on no pause was longer than 90 days.
runs as (
    select customer_id, max(occurred_at) as resumed_at
    from orders
    where occurred_at > {{ dbt.dateadd('day', stage_days('active'), 'previous_order_at') }}
    group by customer_id
),

begun as (
    select
        stages.customer_id,
        case stages.value
            when 'prospect' then customers.first_seen_at
            when 'new' then customers.first_order_at
            when 'active' then coalesce(runs.resumed_at, {{ dbt.dateadd('day', stage_days('new'), 'customers.first_order_at') }})
            when 'at_risk' then {{ dbt.dateadd('day', stage_days('active'), 'customers.last_order_at') }}
            when 'lapsed' then {{ dbt.dateadd('day', stage_days('at_risk'), 'customers.last_order_at') }}
        end as began_at
    from {{ of_touched('tags_lifecycle') }} as stages
    inner join {{ ref('unified_customers') }} as customers on customers.customer_id = stages.customer_id
    left join runs on runs.customer_id = stages.customer_id
),

-- An order dated after as_of, by a clock that runs ahead, counts as just made.
dated as (select customer_id, least(began_at, {{ as_of() }}) as began_at from begun where began_at is not null)

select
    {{ tag('lifecycle_since', value='cast(began_at as date)', number_value=dbt.datediff('began_at', as_of(), 'day')) }}
from dated
