-- Grain: one customer of the top value tier, the `key_customer_count` with the greatest net revenue at most, with why a person
-- should look after them now. Built whole: it is small, and most of it moves with time. Fed by tags.value_tier, unified.customers
-- and this layer; read by service and BI.
{{ config(materialized='table') }}

with key_customers as (
    select customer_id, net_revenue_base, revenue_rank
    from (
        select
            customers.customer_id,
            customers.net_revenue_base,
            row_number() over (order by customers.net_revenue_base desc, customers.customer_id) as revenue_rank
        from {{ ref('unified_customers') }} as customers
        inner join {{ ref('tags_value_tier') }} as tiers on tiers.customer_id = customers.customer_id
        where tiers.value = 'vip'
    ) as ranked
    where revenue_rank <= {{ var('key_customer_count') }}
),

spent as (
    select
        customer_id,
        sum(case when {{ within_days('converted_at', 90) }} then revenue_base else 0 end) as spend_90_days_base,
        sum(case when {{ within_days('converted_at', 90) }} then 0 else revenue_base end) as spend_before_base
    from {{ ref('analytics_conversions') }}
    where customer_id in (select customer_id from key_customers) and {{ within_days('converted_at', 180) }}
    group by customer_id
),

measured as (
    select
        key_customers.customer_id,
        key_customers.revenue_rank,
        key_customers.net_revenue_base,
        stages.stage,
        stages.entered_at as stage_since,
        contacts.last_contact_at,
        contacts.last_channel,
        contacts.last_event_name,
        coalesce(spent.spend_90_days_base, 0) as spend_90_days_base,
        coalesce(spent.spend_before_base, 0) as spend_before_base,
        contacts.open_complaint_at,
        contacts.open_conversation_at
    from key_customers
    left join {{ ref('analytics_customer_stages') }} as stages
        on stages.customer_id = key_customers.customer_id and stages.left_at is null
    left join {{ ref('analytics_customer_contacts') }} as contacts on contacts.customer_id = key_customers.customer_id
    left join spent on spent.customer_id = key_customers.customer_id
)

select
    customer_id,
    case
        when {{ within_days('open_complaint_at', 30) }} then 'complaint'
        when {{ within_days('open_conversation_at', 30) }} then 'open_conversation'
        when stage = 'lapsed' then 'lapsed'
        when stage = 'at_risk' then 'at_risk'
        when spend_90_days_base * 2 < spend_before_base then 'spending_less'
        when last_contact_at <= {{ dbt.dateadd('day', -60, as_of()) }} then 'silent'
        else 'none'
    end as reason,
    cast(revenue_rank as bigint) as revenue_rank,
    net_revenue_base,
    stage,
    stage_since,
    last_contact_at,
    cast({{ dbt.datediff('last_contact_at', as_of(), 'day') }} as bigint) as days_since_contact,
    last_channel,
    last_event_name,
    cast(spend_90_days_base as decimal(18, 4)) as spend_90_days_base,
    cast(spend_before_base as decimal(18, 4)) as spend_before_base,
    open_complaint_at,
    open_conversation_at
from measured
