-- Grain: one order. Fed by orders/orders; read by cleaned.events, identity and the customer's purchases.

with staged as ({{ staged('orders_orders', rates_at='ordered_at') }})

select
    {{ carried() }},
    {{ event('orders_orders',
        event_name="case when " ~ lower_case('trim(status)') ~ " in ('cancelled', 'canceled', 'voided') then 'order_cancelled'
            else 'order_placed' end",
        occurred_at='ordered_at', amount_base=in_base_currency('amount', currency('staged.currency'))) }},
    order_id,
    ordered_at,
    {{ lower_case('trim(status)') }} as status,
    user_id,
    {{ contact('email', 'email') }},
    {{ contact('phone', 'phone') }},
    amount,
    {{ currency('staged.currency') }} as currency,
    discount,
    trim(coupon) as coupon,
    trim(shipping_city) as shipping_city,
    {{ normal('shipping_country', country('shipping_country')) }},
    updated_at
from staged
{{ join_rates('staged', 'currency', 'ordered_at') }}
