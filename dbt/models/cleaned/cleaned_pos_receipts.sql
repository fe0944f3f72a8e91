-- Grain: one receipt of a store. Fed by pos/receipts; read by cleaned.events, identity and the customer's purchases.

with staged as ({{ staged('pos_receipts', rates_at='sold_at') }}),

-- Tills mark a return by its kind, by a negative amount, or by both.
receipts as (select staged.*, coalesce(kind, 'sale') = 'refund' or amount < 0 as is_return from staged)

select
    {{ carried('receipts') }},
    {{ event('pos_receipts',
        event_name="case when is_return then 'store_return' else 'store_purchase' end",
        occurred_at='sold_at', order_id='receipt_id',
        amount_base='abs(' ~ in_base_currency('amount', currency('receipts.currency')) ~ ')') }},
    receipt_id,
    store_id,
    sold_at,
    case when is_return then 'refund' else 'sale' end as kind,
    member_id,
    {{ contact('phone', 'phone') }},
    amount,
    {{ currency('receipts.currency') }} as currency
from receipts
{{ join_rates('receipts', 'currency', 'sold_at') }}
