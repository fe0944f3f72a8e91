-- Grain: one customer. Stage by orders: prospect (none), new (first within 30 days), active (last within 90 days), at_risk
-- (within 180 days), lapsed. Fed by unified.customers.

select
    {{ tag('lifecycle',
        value="case
            when order_count = 0 then 'prospect'
            when " ~ within_days('first_order_at', 30) ~ " then 'new'
            when " ~ within_days('last_order_at', 90) ~ " then 'active'
            when " ~ within_days('last_order_at', 180) ~ " then 'at_risk'
            else 'lapsed' end",
        number_value=dbt.datediff('last_order_at', as_of(), 'day')) }}
from {{ ref('unified_customers') }}
