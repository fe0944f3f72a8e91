-- Grain: one stay of a customer in a lifecycle stage, by the rule of tags.lifecycle, from the dates of their orders; so it is
-- known for the time before the first refresh, too. Whose stage ends by time alone is worked out when it does. An order dated
-- after as_of counts as just made. Fed by unified.customers and analytics.conversions; read by analytics.stage_transitions,
-- analytics.key_customers and BI.
{{ config(meta={'due_at': 'due_at'}) }}

with orders as (
    select
        conversions.*,
        lag(ordered_at) over (partition by customer_id order by ordered_at, conversion_id) as previous_at
    from (
        select customer_id, conversion_id, least(converted_at, {{ as_of() }}) as ordered_at, converted_at > {{ as_of() }} as is_ahead
        from {{ of_touched('analytics_conversions') }} as bought
        where customer_id is not null
    ) as conversions
),

-- Orders without a pause that would have ended the stage.
runs as (
    select customer_id, run, min(ordered_at) as began_at, max(ordered_at) as last_at, bool_or(is_ahead) as is_ahead
    from (
        select
            orders.*,
            sum(case when ordered_at <= {{ dbt.dateadd('day', stage_days('active'), 'previous_at') }} then 0 else 1 end) over (
                partition by customer_id order by ordered_at, conversion_id rows unbounded preceding
            ) as run
        from orders
    ) as numbered
    group by customer_id, run
),

timed as (
    select
        runs.*,
        {{ dbt.dateadd('day', stage_days('new'), 'began_at') }} as new_until,
        {{ dbt.dateadd('day', stage_days('active'), 'last_at') }} as active_until,
        {{ dbt.dateadd('day', stage_days('at_risk'), 'last_at') }} as at_risk_until,
        lead(began_at) over (partition by customer_id order by run) as returned_at,
        bool_or(is_ahead) over (partition by customer_id) as has_order_ahead
    from runs
),

stays as (
    select customers.customer_id, 'prospect' as stage, customers.first_seen_at as entered_at, timed.began_at as ends_at,
        coalesce(timed.has_order_ahead, false) as has_order_ahead
    from {{ of_touched('unified_customers') }} as customers
    left join timed on timed.customer_id = customers.customer_id and timed.run = 1
    where timed.customer_id is null or customers.first_seen_at < timed.began_at
    union all
    select customer_id, 'new', began_at, new_until, has_order_ahead from timed where run = 1
    union all
    select customer_id, 'active', case when run = 1 then new_until else began_at end, active_until, has_order_ahead from timed
    union all
    select customer_id, 'at_risk', active_until, least(at_risk_until, coalesce(returned_at, at_risk_until)), has_order_ahead from timed
    union all
    select customer_id, 'lapsed', at_risk_until, returned_at, has_order_ahead from timed
    where returned_at is null or returned_at > at_risk_until
),

begun as (
    select
        stays.*,
        ends_at <= {{ as_of() }} as is_over,
        row_number() over (partition by customer_id order by entered_at) as stage_number,
        lead(stage) over (partition by customer_id order by entered_at) as following_stage
    from stays
    where stage = 'prospect' or entered_at <= {{ as_of() }}
)

select
    md5(concat_ws('|', customer_id, stage_number)) as stage_id,
    customer_id,
    stage_number,
    stage,
    entered_at,
    case when is_over then ends_at end as left_at,
    case when is_over then following_stage end as next_stage,
    case when is_over then ({{ epoch_micros('ends_at') }} - {{ epoch_micros('entered_at') }}) / cast(86400000000 as double) end as days,
    case when not is_over then case when has_order_ahead then {{ as_of() }} else ends_at end end as due_at,
    {{ seq() }}
from begun
