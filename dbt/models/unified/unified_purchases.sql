-- Grain: one line of an order or receipt, with its customer; customer_id is null where nobody is named. Amounts take the
-- exchange rate of their order. Fed by cleaned items and unified.customer_events; read by tags and recommendations.
{{ config(unique_key='purchase_id') }}

{% set kinds = [
    ('orders_order_items', 'orders_orders', 'order_id'), ('pos_receipt_items', 'pos_receipts', 'receipt_id')] -%}
with changed_orders as (
    select event_id from {{ ref('unified_customer_events') }}
    where {{ is_new() }} and source_table in ('orders_orders', 'pos_receipts')
),

changed_products as (
    select product_id from {{ ref('cleaned_catalog_products') }} where {{ is_new() }}
),

-- Lines that are new, and those whose order or product is.
items as (
    {% for items, orders, key in kinds -%}
    select
        concat_ws(':', '{{ items }}', record_id) as purchase_id, concat_ws(':', '{{ orders }}', {{ key }}) as event_id,
        product_id, quantity, amount, {{ revision('_is_revision or not ' ~ is_new()) }}
    from {{ ref('cleaned_' ~ items) }}
    {% if is_incremental() -%}
    where {{ is_new() }}
        or concat_ws(':', '{{ orders }}', {{ key }}) in (select event_id from changed_orders)
        or product_id in (select product_id from changed_products)
    {% endif -%}
    {{ 'union all' if not loop.last }}
    {% endfor %}
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
            else {{ decimal_of('cast(items.amount as double) * cast(events.amount_base as double)
                / nullif(cast(events.amount as double), 0)', 4) }}
        end as amount_base,
        items._is_revision
    from items
    inner join {{ ref('unified_customer_events') }} as events on events.event_id = items.event_id
    left join {{ ref('cleaned_catalog_products') }} as products on products.product_id = items.product_id
)

select *, {{ seq() }} from final
