-- Grain: one customer active on at least eight days of at least three weeks within 180 days. The day of the week, on their
-- own clock, that most of those days are, however much was done on each; of equals the one they were active on last. The
-- number is the day, 1 (Monday) to 7; confidence is its share, which is 0.14 for who has no habit. Fed by
-- unified.customer_events.

with acts as ({{ acts_on_own_clock() }}),

active_days as (select distinct customer_id, cast(acted_at as date) as acted_on from acts),

dated as (
    select
        customer_id,
        acted_on,
        cast(date_trunc('week', acted_on) as date) as week_started_on,
        {{ dbt.datediff("date_trunc('week', acted_on)", 'acted_on', 'day') }} + 1 as weekday
    from active_days
),

totals as (
    select customer_id, count(*) as day_count, count(distinct week_started_on) as week_count
    from dated
    group by customer_id
),

ranked as (
    select
        dated.customer_id,
        dated.weekday,
        count(*) as days,
        max(totals.day_count) as day_count,
        row_number() over (partition by dated.customer_id order by count(*) desc, max(dated.acted_on) desc) as preference
    from dated
    inner join totals on totals.customer_id = dated.customer_id
    where totals.day_count >= 8 and totals.week_count >= 3
    group by dated.customer_id, dated.weekday
)

select
    {{ tag('best_weekday',
        value="case weekday when 1 then 'Monday' when 2 then 'Tuesday' when 3 then 'Wednesday' when 4 then 'Thursday'
            when 5 then 'Friday' when 6 then 'Saturday' else 'Sunday' end",
        number_value='weekday', confidence='cast(days as double) / day_count') }}
from ranked
where preference = 1
