-- Grain: one customer who bought at least five priced products within 365 days. By list price against the median of all
-- products of the category in the same currency: high where two thirds or more of the lines cost less, low where two thirds
-- or more cost more, else medium. The number is the average price, the median being 1; confidence is the share of the lines
-- that say so. Of fewer than five lines chance alone puts too many on one side. The medians come from the catalogue and not
-- from sales, so that nobody's tag moves by what others buy. Fed by unified.purchases and the catalogue.

with products as (
    select product_id, category, coalesce(currency, '') as currency, cast(price as double) as price
    from {{ ref('cleaned_catalog_products') }}
    where price > 0 and category is not null
),

-- Two products have no middle to speak of.
usual as (
    select category, currency, {{ median_of('price') }} as price
    from products
    group by category, currency
    having count(*) >= 3
),

priced as (
    select products.product_id, {{ decimal_of('cast(products.price as double) / usual.price', 6) }} as price_index
    from products
    inner join usual on usual.category = products.category and usual.currency = products.currency
),

bought as (
    select
        purchases.customer_id,
        count(*) as line_count,
        count(case when priced.price_index < 1 then 1 end) as cheaper,
        count(case when priced.price_index > 1 then 1 end) as dearer,
        sum(priced.price_index) as price_index_total
    from {{ of_touched('unified_purchases') }} as purchases
    inner join priced on priced.product_id = purchases.product_id
    where purchases.customer_id is not null and {{ is_purchase('purchases.event_name') }}
        and {{ within_days('purchases.occurred_at', 365) }}
    group by purchases.customer_id
),

judged as (
    select
        *,
        case when cheaper * 3 >= line_count * 2 then 'high' when dearer * 3 >= line_count * 2 then 'low' else 'medium' end
            as sensitivity
    from bought
    where line_count >= 5
)

select
    {{ tag('price_sensitivity', value='sensitivity',
        number_value='cast(price_index_total as double) / line_count',
        confidence="case sensitivity
            when 'high' then cast(cheaper as double) / line_count
            when 'low' then cast(dearer as double) / line_count
            else 1 - abs(cast(cheaper - dearer as double)) / line_count end") }}
from judged
