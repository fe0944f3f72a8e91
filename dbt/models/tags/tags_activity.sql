-- Grain: one customer. How much they did of their own in the last 30 days: high (20 acts or more), medium (5), low (1),
-- inactive. Fed by unified.customer_events and unified.customers.

with acts as (
    select customer_id, count(*) as acts
    from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and {{ is_own_act('event_name') }} and {{ within_days('occurred_at', 30) }}
    group by customer_id
),

counted as (
    select customers.customer_id, coalesce(acts.acts, 0) as acts
    from {{ of_touched('unified_customers') }} as customers
    left join acts on acts.customer_id = customers.customer_id
)

select
    {{ tag('activity',
        value="case when acts >= 20 then 'high' when acts >= 5 then 'medium' when acts >= 1 then 'low' else 'inactive' end",
        number_value='acts') }}
from counted
