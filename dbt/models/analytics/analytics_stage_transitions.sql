-- Grain: one month (UTC) and step of customers from one lifecycle stage to the next; (start): customers who were first seen,
-- or first bought. Built whole, once a day: an aggregate. Fed by analytics.customer_stages; read by BI.
{{ config(materialized='table') }}

with steps as (
    select left_at as moved_at, stage as from_stage, next_stage as to_stage, days,
        cast(floor(cast({{ epoch_micros('left_at') }} - {{ epoch_micros('entered_at') }} as double) / 1000000) as bigint) as seconds
    from {{ ref('analytics_customer_stages') }}
    where left_at is not null
    union all
    select entered_at, '(start)', stage, null, null
    from {{ ref('analytics_customer_stages') }}
    where stage_number = 1 and entered_at is not null
),

counted as (
    select
        cast(date_trunc('month', moved_at) as date) as month,
        from_stage,
        to_stage,
        count(*) as customer_count,
        -- Of whole seconds, as a sum of doubles depends on the order of rows.
        cast(sum(seconds) as double) / count(*) / 86400 as mean_days,
        {{ median_of('days') }} as median_days
    from steps
    group by cast(date_trunc('month', moved_at) as date), from_stage, to_stage
)

select
    md5(concat_ws('|', month, from_stage, to_stage)) as transition_id,
    month,
    from_stage,
    to_stage,
    cast(customer_count as bigint) as customer_count,
    cast(customer_count as double) / cast(sum(customer_count) over (partition by month, from_stage) as double) as share,
    cast(mean_days as double) as mean_days,
    cast(median_days as double) as median_days
from counted
