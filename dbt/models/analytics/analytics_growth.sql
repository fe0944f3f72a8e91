-- Grain: one month and population: everybody, known customers, or buyers; those of a month are new, retained or reactivated,
-- and of those of the month before some are lost. Built whole, once a day: one pass over narrow columns of
-- analytics.customer_months, which knows the months before and after. Read by BI.
{{ config(materialized='table') }}

with flagged as (
    select
        month,
        is_known,
        order_count,
        revenue_base,
        margin_base,
        order_count > 0 as is_buyer,
        {{ came_as('previous_month') }} as came_as,
        {{ came_as('previous_order_month') }} as bought_as,
        not coalesce({{ is_right_before('month', 'next_month') }}, false) as is_leaving,
        not coalesce({{ is_right_before('month', 'next_order_month') }}, false) as is_last_purchase
    from {{ ref('analytics_customer_months') }}
    where month <= {{ present_month() }}
),

moves as {{ materialized() }} (
    select
        month,
        is_known,
        is_buyer,
        came_as,
        bought_as,
        is_leaving,
        is_last_purchase,
        count(*) as customers,
        sum(order_count) as orders,
        sum(revenue_base) as revenue,
        sum(margin_base) as margin,
        count(*) - count(margin_base) as unknown_margins
    from flagged
    group by month, is_known, is_buyer, came_as, bought_as, is_leaving, is_last_purchase
),

populations as (
    select 'everybody' as population, came_as as kind, is_leaving as is_lost, moves.* from moves
    union all
    select 'known', came_as, is_leaving, moves.* from moves where is_known
    union all
    select 'buyers', bought_as, is_last_purchase, moves.* from moves where is_buyer
),

calendar as ({{ months_until_now() }}),

counted as (
    select
        names.population,
        calendar.month,
        coalesce(sum(customers), 0) as customer_count,
        coalesce(sum(case when kind = 'new' then customers end), 0) as new_count,
        coalesce(sum(case when kind = 'retained' then customers end), 0) as retained_count,
        coalesce(sum(case when kind = 'reactivated' then customers end), 0) as reactivated_count,
        coalesce(sum(case when is_lost then customers end), 0) as lost_after_count,
        coalesce(sum(orders), 0) as order_count,
        coalesce(sum(revenue), 0) as revenue_base,
        case when coalesce(sum(unknown_margins), 0) = 0 then coalesce(sum(margin), 0) end as margin_base
    from calendar
    cross join (select 'everybody' as population union all select 'known' union all select 'buyers') as names
    left join populations on populations.month = calendar.month and populations.population = names.population
    group by names.population, calendar.month
),

compared as (
    select
        counted.*,
        month = {{ present_month() }} as is_partial,
        coalesce(lag(customer_count) over (partition by population order by month), 0) as customers_before,
        -- Who has not come yet in a month that is not over is not lost.
        case
            when month < {{ present_month() }}
                then coalesce(lag(lost_after_count) over (partition by population order by month), 0)
        end as lost_count
    from counted
)

select
    md5(concat_ws('|', population, month)) as growth_id,
    population,
    month,
    is_partial,
    cast(customer_count as bigint) as customer_count,
    cast(new_count as bigint) as new_count,
    cast(retained_count as bigint) as retained_count,
    cast(reactivated_count as bigint) as reactivated_count,
    cast(lost_count as bigint) as lost_count,
    case when not is_partial then {{ ratio('retained_count', 'customers_before') }} end as retention_rate,
    {{ ratio('lost_count', 'customers_before') }} as churn_rate,
    case when not is_partial then {{ ratio('customer_count - customers_before', 'customers_before') }} end as growth_rate,
    {{ ratio('new_count + reactivated_count', 'lost_count') }} as quick_ratio,
    cast(order_count as bigint) as order_count,
    cast(revenue_base as decimal(18, 4)) as revenue_base,
    cast(margin_base as decimal(18, 4)) as margin_base
from compared
