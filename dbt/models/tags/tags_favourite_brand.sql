-- Grain: one customer with at least three views or purchases of catalogued products of a brand. The brand they favour; a
-- purchase weighs as much as five views. Confidence is its share. Fed by unified.purchases and unified.customer_events.

with interest as (
    select customer_id, brand, 5 as weight, 1 as evidence
    from {{ of_touched('unified_purchases') }}
    where customer_id is not null and brand is not null and {{ is_purchase('event_name') }}
    union all
    select events.customer_id, products.brand, 1 as weight, 1 as evidence
    from {{ of_touched('unified_customer_events') }} as events
    inner join {{ ref('cleaned_catalog_products') }} as products on products.product_id = events.product_id
    where events.customer_id is not null and products.brand is not null
        and events.event_name in ('product_viewed', 'product_added', 'product_liked', 'product_shared')
        and {{ is_customer_traffic() }}
),

shares as (
    select
        customer_id,
        brand,
        sum(weight) as weight,
        sum(sum(weight)) over (partition by customer_id) as weight_total,
        sum(sum(evidence)) over (partition by customer_id) as evidence_total,
        row_number() over (partition by customer_id order by sum(weight) desc, brand) as preference
    from interest
    group by customer_id, brand
)

select
    {{ tag('favourite_brand', value='brand', number_value='weight', confidence='cast(weight as double) / weight_total') }}
from shares
where preference = 1 and evidence_total >= 3
