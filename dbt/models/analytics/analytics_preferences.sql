-- Grain: one month and category, brand or search term: how many customers looked at it, searched for it and bought it. Built
-- whole: one pass over analytics.customer_interests, in which a customer has one row of each. Read by BI.
{{ config(materialized='table') }}

with counted as (
    select
        month,
        kind,
        value,
        count(*) as customer_count,
        count(case when view_count > 0 then 1 end) as viewer_count,
        count(case when search_count > 0 then 1 end) as searcher_count,
        count(case when order_count > 0 then 1 end) as buyer_count,
        count(case when order_count > 0 and view_count > 0 then 1 end) as buying_viewer_count,
        count(case when order_count > 0 and search_count > 0 then 1 end) as buying_searcher_count,
        sum(view_count) as view_count,
        sum(search_count) as search_count,
        sum(units) as units,
        sum(revenue_base) as revenue_base
    from {{ ref('analytics_customer_interests') }}
    where month <= {{ present_month() }}
    group by month, kind, value
)

select
    md5(concat_ws('|', month, kind, value)) as preference_id,
    month,
    month = {{ present_month() }} as is_partial,
    kind,
    value,
    cast(viewer_count as bigint) as viewer_count,
    cast(searcher_count as bigint) as searcher_count,
    cast(buyer_count as bigint) as buyer_count,
    cast(view_count as bigint) as view_count,
    cast(search_count as bigint) as search_count,
    cast(units as decimal(18, 4)) as units,
    cast(revenue_base as decimal(18, 4)) as revenue_base,
    {{ rate('buying_viewer_count', 'viewer_count') }} as viewer_conversion_rate,
    {{ rate('buying_searcher_count', 'searcher_count') }} as searcher_conversion_rate
from counted
-- What hardly anybody searched for may be anything that was pasted into the field.
where kind <> 'search_term' or customer_count >= {{ var('search_term_least_count') }}
