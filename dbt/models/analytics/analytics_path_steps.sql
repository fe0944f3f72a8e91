-- Grain: one edge of the flow of all paths: what came after a step at its place, or that nothing did. Built whole, once a
-- day: an aggregate. Fed by analytics.customer_steps; read by BI.
{{ config(materialized='table') }}

with counted as (
    select
        scope,
        step_number,
        step as from_step,
        next_step as to_step,
        count(*) as path_count,
        count(distinct customer_id) as customer_count
    from {{ ref('analytics_customer_steps') }}
    where step_number <= 5
    group by scope, step_number, step, next_step
)

select
    md5(concat_ws('|', scope, step_number, from_step, to_step)) as path_step_id,
    scope,
    step_number,
    from_step,
    to_step,
    cast(path_count as bigint) as path_count,
    cast(customer_count as bigint) as customer_count,
    cast(path_count as double) / cast(sum(path_count) over (partition by scope, step_number, from_step) as double) as share
from counted
