-- Grain: one sequence of up to five steps that paths begin with, with how many end there; rare ones are left out. Built
-- whole, once a day: an aggregate. Fed by analytics.customer_steps; read by BI.
{{ config(materialized='table') }}

with counted as (
    select
        scope,
        sequence,
        step_number,
        count(*) as path_count,
        count(distinct customer_id) as customer_count,
        count(case when next_step = '(end)' then 1 end) as ended_count
    from {{ ref('analytics_customer_steps') }}
    where step_number <= 5
    group by scope, sequence, step_number
),

totals as (
    select scope, sum(path_count) as total_count from counted where step_number = 1 group by scope
)

select
    md5(concat_ws('|', counted.scope, counted.sequence)) as sequence_id,
    counted.scope,
    counted.sequence,
    counted.step_number as step_count,
    cast(counted.path_count as bigint) as path_count,
    cast(counted.customer_count as bigint) as customer_count,
    cast(counted.path_count as double) / cast(totals.total_count as double) as share,
    cast(counted.ended_count as bigint) as ended_count,
    cast(counted.ended_count as double) / cast(counted.path_count as double) as drop_off
from counted
inner join totals on totals.scope = counted.scope
where counted.path_count >= {{ var('path_least_count') }}
