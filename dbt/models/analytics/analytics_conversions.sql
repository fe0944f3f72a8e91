-- Grain: one conversion: an order that was not cancelled, or a purchase in a store; customer_id is null where nobody is named.
-- Fed by unified.customer_events and unified.purchases; read by attribution and BI.
-- The strategy asks who changed: depends_on: {{ ref('analytics_touched_customers') }}
{{ config(incremental_strategy='conversions') }}

with changed as (
    select event_id, customer_id, channel, occurred_at, currency, amount, amount_base
    from {{ ref('unified_customer_events') }}
    where {{ is_purchase('event_name') }} and {{ is_customer_traffic() }}
        {%- if is_incremental() %}
        and {{ is_conversion_due('event_id') }}
        {%- endif %}
),

-- A product's cost has no day whose rate could convert it: it counts in the base currency, and in the order's, whose rate the
-- order has.
lines as (
    select
        changed.event_id,
        cast(lines.quantity * case
            when products.currency = '{{ var("base_currency", "CNY") }}' then products.cost
            when products.currency = changed.currency
                then {{ decimal_of('cast(products.cost as double) * cast(changed.amount_base as double)
                    / nullif(cast(changed.amount as double), 0)', 4) }}
        end as decimal(18, 4)) as cost_base
    from changed
    inner join {{ ref('unified_purchases') }} as lines on lines.event_id = changed.event_id
    left join {{ ref('cleaned_catalog_products') }} as products on products.product_id = lines.product_id
),

-- Of a conversion with a line without cost nothing is guessed.
costs as (
    select event_id, case when count(*) = count(cost_base) then sum(cost_base) end as cost_base
    from lines
    group by event_id
)

select
    changed.event_id as conversion_id,
    changed.customer_id,
    changed.channel,
    changed.occurred_at as converted_at,
    cast(coalesce(changed.amount_base, 0) as decimal(18, 4)) as revenue_base,
    cast(changed.amount_base - costs.cost_base as decimal(18, 4)) as margin_base,
    {{ seq() }}
from changed
left join costs on costs.event_id = changed.event_id
