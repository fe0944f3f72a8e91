-- Grain: one line of an order or receipt, with its customer; customer_id is null where nobody is named. Amounts take the
-- exchange rate of their order. Fed by cleaned items and unified.customer_events; read by tags and recommendations.
{{ config(unique_key='purchase_id', incremental_strategy='delete+insert') }}

with items as (
    select
        concat('orders_order_items:', record_id) as purchase_id, concat('orders_orders:', order_id) as event_id,
        product_id, quantity, amount, _seq
    from {{ ref('cleaned_orders_order_items') }}
    union all
    select
        concat('pos_receipt_items:', record_id) as purchase_id, concat('pos_receipts:', receipt_id) as event_id,
        product_id, quantity, amount, _seq
    from {{ ref('cleaned_pos_receipt_items') }}
),

-- Lines that are new, and those whose order or product is.
touched as (
    select purchase_id from items where {{ is_new() }}
    union
    select purchase_id from items
    where event_id in (select event_id from {{ ref('unified_customer_events') }} where {{ is_new() }})
    union
    select purchase_id from items
    where product_id in (select product_id from {{ ref('cleaned_catalog_products') }} where {{ is_new() }})
),

final as (
    select
        items.purchase_id,
        items.event_id,
        events.customer_id,
        events.channel,
        events.event_name,
        events.occurred_at,
        items.product_id,
        products.category,
        products.brand,
        items.quantity,
        case
            when events.amount_base = events.amount then cast(items.amount as decimal(18, 4))
            else cast(cast(items.amount as double) * cast(events.amount_base as double)
                / nullif(cast(events.amount as double), 0) as decimal(18, 4))
        end as amount_base
    from items
    inner join touched on touched.purchase_id = items.purchase_id
    inner join {{ ref('unified_customer_events') }} as events on events.event_id = items.event_id
    left join {{ ref('cleaned_catalog_products') }} as products on products.product_id = items.product_id
)

select *, {{ seq() }} from final
