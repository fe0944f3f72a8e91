-- Grain: one line of an order. Fed by orders/order_items; read by the customer's purchases.

with staged as ({{ staged('orders_order_items') }})

select
    {{ carried() }},
    order_id,
    line_number,
    trim(product_id) as product_id,
    quantity,
    unit_price,
    cast(quantity * unit_price as decimal(18, 4)) as amount
from staged
