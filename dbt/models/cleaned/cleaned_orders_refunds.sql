-- Grain: one refund. Fed by orders/refunds; read by cleaned.events, identity and the customer's purchases.

with staged as ({{ staged('orders_refunds', rates_at='refunded_at') }})

select
    {{ carried() }},
    {{ event('orders_refunds', event_name="'order_refunded'", occurred_at='refunded_at',
        amount_base='abs(' ~ in_base_currency('amount', currency('staged.currency')) ~ ')') }},
    refund_id,
    refunded_at,
    amount,
    {{ currency('staged.currency') }} as currency,
    order_id,
    user_id,
    trim(product_id) as product_id,
    quantity
from staged
{{ join_rates('staged', 'currency', 'refunded_at') }}
