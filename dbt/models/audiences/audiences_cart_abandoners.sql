-- Behaviour. Grain: one customer who put something in the cart in the last 14 days and bought nothing since.

with carts as (
    select customer_id, max(occurred_at) as last_cart_at
    from {{ ref('unified_customer_events') }}
    where customer_id is not null and event_name in ('product_added', 'checkout_started')
        and {{ is_customer_traffic() }} and {{ within_days('occurred_at', 14) }}
    group by customer_id
)

select carts.customer_id
from carts
inner join {{ ref('unified_customers') }} as customers on customers.customer_id = carts.customer_id
where customers.is_known and (customers.last_order_at is null or customers.last_order_at < carts.last_cart_at)
