-- Grain: one customer active in at least eight hours of at least four days within 180 days. The hour of the day, on their
-- own clock, around which they are active most: it and its neighbours hold most of those hours, however much was done in
-- each. The number is the hour, 0 to 23; confidence is the share of the three, which is 0.125 for who has no habit. Fed by
-- unified.customer_events.

with acts as ({{ acts_on_own_clock() }}),

active_hours as (
    select distinct
        customer_id, cast(acted_at as date) as acted_on, cast(extract(hour from acted_at) as bigint) as hour_of_day
    from acts
),

totals as (
    select customer_id, count(*) as hour_count, count(distinct acted_on) as day_count
    from active_hours
    group by customer_id
),

-- Midnight's neighbours are 23 and 1. Only hours with activity of their own can be the best.
around as (
    select
        customer_id,
        (hour_of_day + shift + 24) % 24 as hour_of_day,
        count(*) as around_count,
        count(case when shift = 0 then 1 end) as own_count
    from active_hours
    cross join (select -1 as shift union all select 0 union all select 1) as shifts
    group by customer_id, (hour_of_day + shift + 24) % 24
),

ranked as (
    select
        around.*,
        totals.hour_count,
        row_number() over (
            partition by around.customer_id order by around.around_count desc, around.own_count desc, around.hour_of_day
        ) as preference
    from around
    inner join totals on totals.customer_id = around.customer_id
    where around.own_count > 0 and totals.hour_count >= 8 and totals.day_count >= 4
)

select
    {{ tag('best_hour', value="concat_ws('', lpad(cast(hour_of_day as string), 2, '0'), ':00')", number_value='hour_of_day',
        confidence='cast(around_count as double) / hour_count') }}
from ranked
where preference = 1
