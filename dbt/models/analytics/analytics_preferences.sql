-- Grain: one month and category, brand or search term: how many customers looked at it, searched for it and bought it. Built
-- whole, once a day: passes over analytics.customer_interests, in which a customer has one row of each. Fed by these and the
-- catalogue; read by BI.
{{ config(materialized='table') }}

with interests as (
    select * from {{ ref('analytics_customer_interests') }} where month <= {{ present_month() }}
),

counted as (
    select
        month,
        kind,
        value,
        count(case when view_count > 0 then 1 end) as viewers,
        count(case when search_count > 0 then 1 end) as searchers,
        count(case when order_count > 0 then 1 end) as buyers,
        count(case when order_count > 0 and view_count > 0 then 1 end) as buying_viewers,
        count(case when order_count > 0 and search_count > 0 then 1 end) as buying_searchers,
        sum(view_count) as views,
        sum(search_count) as searches,
        sum(units) as units,
        sum(revenue_base) as revenue
    from interests
    group by month, kind, value
),

-- Who searched for a category or brand by its name, as the catalogue has it now.
names as (
    {% for kind in ['category', 'brand'] -%}
    select distinct '{{ kind }}' as kind, {{ kind }} as value, {{ lower_case(kind) }} as term
    from {{ ref('cleaned_catalog_products') }}
    where {{ kind }} <> ''
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

searched as (
    select searches.customer_id, searches.month, names.kind, names.value, searches.search_count
    from interests as searches
    inner join names on names.term = searches.value
    where searches.kind = 'search_term'
),

named as (
    select
        searched.month,
        searched.kind,
        searched.value,
        count(*) as searchers,
        count(bought.customer_id) as buying_searchers,
        sum(searched.search_count) as searches
    from searched
    left join (select customer_id, month, kind, value from interests where order_count > 0 and kind <> 'search_term') as bought
        on bought.customer_id = searched.customer_id and bought.month = searched.month
        and bought.kind = searched.kind and bought.value = searched.value
    group by searched.month, searched.kind, searched.value
),

final as (
    select
        month,
        kind,
        value,
        sum(viewers) as viewers,
        sum(searchers) as searchers,
        sum(buyers) as buyers,
        sum(buying_viewers) as buying_viewers,
        sum(buying_searchers) as buying_searchers,
        sum(views) as views,
        sum(searches) as searches,
        case when kind <> 'search_term' then coalesce(sum(units), 0) end as units,
        case when kind <> 'search_term' then coalesce(sum(revenue), 0) end as revenue
    from (
        select * from counted
        union all
        select month, kind, value, 0, searchers, 0, 0, buying_searchers, 0, searches, 0, 0 from named
    ) as both_ways
    group by month, kind, value
)

select
    md5(concat_ws('|', month, kind, value)) as preference_id,
    month,
    month = {{ present_month() }} as is_partial,
    kind,
    value,
    cast(viewers as bigint) as viewer_count,
    cast(searchers as bigint) as searcher_count,
    cast(buyers as bigint) as buyer_count,
    cast(views as bigint) as view_count,
    cast(searches as bigint) as search_count,
    cast(units as decimal(18, 4)) as units,
    cast(revenue as decimal(18, 4)) as revenue_base,
    {{ ratio('buying_viewers', 'viewers') }} as viewer_conversion_rate,
    {{ ratio('buying_searchers', 'searchers') }} as searcher_conversion_rate
from final
-- What hardly anybody searched for may be anything that was pasted into the field.
where kind <> 'search_term' or searchers >= {{ var('search_term_least_count') }}
