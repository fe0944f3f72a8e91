-- Grain: one customer who ever bought. Tier by net revenue among all buyers, cut once a day: the top 5% are vip, to 20% high,
-- to 50% medium. Fed by unified.customers and the cut points.

with cuts as ({{ cut_points(['tier'], [2, 3, 4]) }}),

banded as (
    select
        customers.customer_id,
        customers.net_revenue_base,
        {{ band_of('customers.net_revenue_base', 'tier', [2, 3, 4]) }} as band
    from {{ of_touched('unified_customers') }} as customers
    cross join cuts
    where customers.order_count > 0
)

select
    {{ tag('value_tier',
        value="case band when 4 then 'vip' when 3 then 'high' when 2 then 'medium' else 'low' end",
        number_value='net_revenue_base') }}
from banded
