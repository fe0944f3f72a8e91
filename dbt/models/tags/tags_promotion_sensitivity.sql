-- Grain: one customer with at least three orders in the shop within 365 days. How many of them were reduced or had a coupon:
-- high from a half, medium from a fifth, else low. The number is their share; confidence is the share of the orders that say
-- so. Tills report no discount, so receipts say nothing here. Fed by unified.customer_events and cleaned.orders_orders.

with ordered as (
    select
        events.customer_id,
        count(*) as order_count,
        count(case when coalesce(orders.discount, 0) > 0 or coalesce(orders.coupon, '') <> '' then 1 end) as reduced_count
    from {{ of_touched('unified_customer_events') }} as events
    inner join {{ ref('cleaned_orders_orders') }} as orders on orders.record_id = events.record_id
    where events.source_table = 'orders_orders' and events.customer_id is not null
        and {{ is_purchase('events.event_name') }} and {{ within_days('events.occurred_at', 365) }}
    group by events.customer_id
),

judged as (
    select
        *,
        case when reduced_count * 2 >= order_count then 'high' when reduced_count * 5 >= order_count then 'medium' else 'low' end
            as sensitivity
    from ordered
    where order_count >= 3
)

select
    {{ tag('promotion_sensitivity', value='sensitivity',
        number_value='cast(reduced_count as double) / order_count',
        confidence="case sensitivity
            when 'high' then cast(reduced_count as double) / order_count
            when 'low' then 1 - cast(reduced_count as double) / order_count
            else 1 - abs(2 * cast(reduced_count as double) / order_count - 1) end") }}
from judged
