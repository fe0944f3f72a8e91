-- Grain: one customer and month (UTC) in which they did something themselves or began a visit, with the months around it in
-- which they did so and bought: growth and cohorts then only count. Of a touched customer all months are worked out. Fed by
-- unified.customer_events, unified.sessions and analytics.conversions; read by analytics.growth, analytics.cohorts and BI.
{{ config(meta={'touched_by': ['analytics_conversions']}) }}

with acts as (
    select
        customer_id,
        {{ month_of('occurred_at') }} as month,
        1 as act_count,
        0 as session_count
    from {{ of_touched('unified_customer_events') }} as events
    where customer_id is not null and {{ is_own_act('event_name') }}
    union all
    select customer_id, {{ month_of('started_at') }}, 0, 1
    from {{ of_touched('unified_sessions') }} as sessions
    where customer_id is not null and traffic = 'customer'
),

purchases as (
    select
        customer_id,
        {{ month_of('converted_at') }} as month,
        count(*) as order_count,
        sum(revenue_base) as revenue_base,
        {{ known_sum('margin_base') }} as margin_base
    from {{ of_touched('analytics_conversions') }} as conversions
    where customer_id is not null
    group by customer_id, {{ month_of('converted_at') }}
),

active as (
    select customer_id, month, sum(act_count) as act_count, sum(session_count) as session_count
    from acts
    group by customer_id, month
),

months as (
    select
        active.customer_id,
        customers.is_known,
        active.month,
        active.act_count,
        active.session_count,
        coalesce(purchases.order_count, 0) as order_count,
        coalesce(purchases.revenue_base, 0) as revenue_base,
        case when purchases.customer_id is null then 0 else purchases.margin_base end as margin_base,
        case when purchases.order_count > 0 then active.month end as order_month
    from active
    inner join {{ of_touched('unified_customers') }} as customers on customers.customer_id = active.customer_id
    left join purchases on purchases.customer_id = active.customer_id and purchases.month = active.month
)

select
    md5(concat_ws('|', customer_id, month)) as customer_month_id,
    customer_id,
    is_known,
    month,
    min(month) over (partition by customer_id) as first_month,
    lag(month) over (partition by customer_id order by month) as previous_month,
    lead(month) over (partition by customer_id order by month) as next_month,
    min(order_month) over (partition by customer_id) as first_order_month,
    max(order_month) over (
        partition by customer_id order by month rows between unbounded preceding and 1 preceding) as previous_order_month,
    min(order_month) over (
        partition by customer_id order by month rows between 1 following and unbounded following) as next_order_month,
    cast(act_count as bigint) as act_count,
    cast(session_count as bigint) as session_count,
    cast(order_count as bigint) as order_count,
    cast(revenue_base as decimal(18, 4)) as revenue_base,
    cast(margin_base as decimal(18, 4)) as margin_base,
    {{ seq() }}
from months
