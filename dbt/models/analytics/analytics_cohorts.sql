-- Grain: one cohort, customers who began in the same month, and one of the months since, up to the present one. They began
-- with their first act (acquired; acquired_known: those who are known today) or their first purchase (purchased). Built
-- whole, once a day: one pass over narrow columns of analytics.customer_months. Read by BI.
{{ config(materialized='table') }}

with months as {{ materialized() }} (
    select
        first_month,
        first_order_month,
        month,
        is_known,
        count(*) as customer_count,
        count(case when order_count > 0 then 1 end) as buyer_count,
        sum(order_count) as order_count,
        sum(revenue_base) as revenue_base,
        sum(margin_base) as margin_base,
        count(*) - count(margin_base) as unknown_margin_count
    from {{ ref('analytics_customer_months') }}
    where month <= {{ present_month() }}
    group by first_month, first_order_month, month, is_known
),

cohorts as (
    select 'acquired' as cohort_kind, first_month as cohort_month, customer_count as active_count, months.* from months
    union all
    select 'acquired_known', first_month, customer_count, months.* from months where is_known
    union all
    select 'purchased', first_order_month, buyer_count, months.* from months where first_order_month <= month and buyer_count > 0
),

active as (
    select
        cohort_kind,
        cohort_month,
        month,
        sum(active_count) as active_count,
        sum(order_count) as order_count,
        sum(revenue_base) as revenue_base,
        case when sum(unknown_margin_count) = 0 then sum(margin_base) end as margin_base
    from cohorts
    group by cohort_kind, cohort_month, month
),

calendar as ({{ months_until_now() }}),

-- Every month that a cohort has reached, also one in which nobody came; none that is still to come.
reached as (
    select
        sizes.cohort_kind,
        sizes.cohort_month,
        sizes.active_count as cohort_size,
        calendar.month,
        {{ dbt.datediff('sizes.cohort_month', 'calendar.month', 'month') }} as months_since,
        calendar.month = {{ present_month() }} as is_partial,
        coalesce(active.active_count, 0) as active_count,
        coalesce(active.order_count, 0) as order_count,
        coalesce(active.revenue_base, 0) as revenue_base,
        case when active.cohort_kind is null then 0 else active.margin_base end as margin_base
    from active as sizes
    cross join calendar
    left join active
        on active.cohort_kind = sizes.cohort_kind and active.cohort_month = sizes.cohort_month and active.month = calendar.month
    where sizes.month = sizes.cohort_month and calendar.month >= sizes.cohort_month
),

summed as (
    select
        reached.*,
        sum(revenue_base) over so_far as cumulative_revenue_base,
        case when count(margin_base) over so_far = count(*) over so_far then sum(margin_base) over so_far end
            as cumulative_margin_base
    from reached
    window so_far as (partition by cohort_kind, cohort_month order by month rows unbounded preceding)
)

select
    md5(concat_ws('|', cohort_kind, cohort_month, month)) as cohort_id,
    cohort_kind,
    cohort_month,
    cast(months_since as bigint) as months_since,
    month,
    is_partial,
    cast(cohort_size as bigint) as cohort_size,
    cast(active_count as bigint) as active_count,
    case when not is_partial then {{ ratio('active_count', 'cohort_size') }} end as retention_rate,
    cast(order_count as bigint) as order_count,
    cast(revenue_base as decimal(18, 4)) as revenue_base,
    cast(cumulative_revenue_base as decimal(18, 4)) as cumulative_revenue_base,
    case when not is_partial then {{ ratio('cumulative_revenue_base', 'cohort_size') }} end as cumulative_revenue_per_customer,
    case when not is_partial then {{ ratio('cumulative_margin_base', 'cohort_size') }} end as cumulative_margin_per_customer
from summed
