-- Grain: one day (UTC), from the first event of a customer to as_of. Read by figures to date, which have a value on days without
-- events too.
{{ config(materialized='view') }}

with digits as (
    {%- for digit in range(10) %}
    select {{ digit }} as digit {{ 'union all' if not loop.last }}
    {%- endfor %}
),

-- 27 years: what is said to be older has no time, but a wrong clock.
numbers as (
    select ones.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit as number
    from digits as ones
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands
),

days as (
    select cast({{ dbt.dateadd('day', '-number', 'cast(' ~ as_of() ~ ' as date)') }} as date) as date_day from numbers
)

select days.date_day
from days
cross join (select cast(min(first_seen_at) as date) as first_date from {{ ref('unified_customers') }}) as customers
where days.date_day >= customers.first_date
