-- Grain: one customer who ever bought. Tier by net revenue among all buyers: the top 5% are vip, to 20% high, to 50% medium.
-- Fed by unified.customers.

with ranked as (
    select
        customer_id,
        net_revenue_base,
        percent_rank() over (order by net_revenue_base desc) as share_above
    from {{ ref('unified_customers') }}
    where order_count > 0
)

select
    {{ tag('value_tier',
        value="case when share_above < 0.05 then 'vip' when share_above < 0.2 then 'high'
            when share_above < 0.5 then 'medium' else 'low' end",
        number_value='net_revenue_base') }}
from ranked
