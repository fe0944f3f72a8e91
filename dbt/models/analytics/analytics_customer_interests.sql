-- Grain: one customer, month (UTC) and category, brand or search term that they looked at, searched for or bought. Of a touched
-- customer all is worked out. Fed by unified.customer_events, unified.purchases, analytics.conversions and the catalogue; read by
-- analytics.preferences.
{{ config(meta={'touched_by': ['unified_purchases'], 'touched_by_products': true}) }}

with acts as (
    select
        events.customer_id,
        events.event_name,
        {{ month_of('events.occurred_at') }} as month,
        events.product_id,
        {{ lower_case('trim(events.search_term)') }} as search_term
    from {{ of_touched('unified_customer_events') }} as events
    where events.customer_id is not null and {{ is_customer_traffic() }}
        and ({{ is_look('events.event_name') }} or events.event_name = 'searched')
),

bought as (
    select customer_id, {{ month_of('occurred_at') }} as month, event_id, category, brand, quantity, amount_base
    from {{ of_touched('unified_purchases') }} as purchases
    where customer_id is not null and {{ is_purchase('event_name') }}
),

interests as (
    {% for kind in ['category', 'brand'] -%}
    select acts.customer_id, acts.month, '{{ kind }}' as kind, products.{{ kind }} as value,
        1 as view_count, 0 as search_count, cast(null as string) as order_id, 0 as units, 0 as revenue_base
    from acts
    inner join {{ ref('cleaned_catalog_products') }} as products on products.product_id = acts.product_id
    where {{ is_look('acts.event_name') }} and products.{{ kind }} <> ''
    union all
    select customer_id, month, '{{ kind }}', {{ kind }}, 0, 0, event_id, quantity, amount_base
    from bought
    where {{ kind }} <> ''
    union all
    {% endfor -%}
    select customer_id, month, 'search_term', search_term, 0, 1, null, 0, 0
    from acts
    where event_name = 'searched' and search_term <> ''
),

buyers as (
    select customer_id, {{ month_of('converted_at') }} as month, count(*) as order_count
    from {{ of_touched('analytics_conversions') }} as conversions
    group by customer_id, {{ month_of('converted_at') }}
),

counted as (
    select
        customer_id,
        month,
        kind,
        value,
        sum(view_count) as view_count,
        sum(search_count) as search_count,
        count(distinct order_id) as order_count,
        sum(units) as units,
        sum(revenue_base) as revenue_base
    from interests
    group by customer_id, month, kind, value
)

select
    md5(concat_ws('|', counted.customer_id, counted.month, counted.kind, counted.value)) as interest_id,
    counted.customer_id,
    counted.month,
    counted.kind,
    counted.value,
    cast(counted.view_count as bigint) as view_count,
    cast(counted.search_count as bigint) as search_count,
    -- Of a search term nobody can say what it led to: it counts whether they bought anything that month.
    cast(case when counted.kind = 'search_term' then coalesce(buyers.order_count, 0) else counted.order_count end as bigint) as order_count,
    cast(case when counted.kind <> 'search_term' then coalesce(counted.units, 0) end as decimal(18, 4)) as units,
    cast(case when counted.kind <> 'search_term' then coalesce(counted.revenue_base, 0) end as decimal(18, 4)) as revenue_base,
    {{ seq() }}
from counted
left join buyers on buyers.customer_id = counted.customer_id and buyers.month = counted.month
