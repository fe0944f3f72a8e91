-- Grain: one line of a receipt. Fed by pos/receipt_items; read by the customer's purchases.

with staged as ({{ staged('pos_receipt_items') }})

select
    {{ carried() }},
    receipt_id,
    line_number,
    trim(product_id) as product_id,
    quantity,
    unit_price,
    cast(quantity * unit_price as decimal(18, 4)) as amount
from staged
