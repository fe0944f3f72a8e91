-- Grain: one customer. Stage by orders: prospect (none), new (first within 30 days), active (last within 90 days), at_risk
-- (within 180 days), lapsed. An order dated after as_of, by a clock that runs ahead, counts as just made. Fed by
-- unified.customers.

select
    {{ tag('lifecycle',
        value="case
            when order_count = 0 then 'prospect'
            when first_order_at > " ~ dbt.dateadd('day', -stage_days('new'), as_of()) ~ " then 'new'
            when last_order_at > " ~ dbt.dateadd('day', -stage_days('active'), as_of()) ~ " then 'active'
            when last_order_at > " ~ dbt.dateadd('day', -stage_days('at_risk'), as_of()) ~ " then 'at_risk'
            else 'lapsed' end",
        number_value=dbt.datediff('last_order_at', as_of(), 'day')) }}
from {{ of_touched('unified_customers') }}
