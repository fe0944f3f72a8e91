-- Grain: one hour of the last year, as the company's clocks show it, and topic that had posts, beside what is usual at that hour
-- of that weekday. Built whole: an aggregate of few rows, and a late post moves the weeks after it. Fed by
-- analytics.mention_hours; read by BI and alerts.
{{ config(materialized='table') }}

with hours as (
    select * from {{ ref('analytics_mention_hours') }}
    where hour_at >= {{ dbt.dateadd('day', -(365 + 7 * 8), as_of()) }}
),

judged as (
    select * from hours where hour_at >= {{ dbt.dateadd('day', -365, as_of()) }}
),

-- Weeks before anybody was listened to say nothing; an hour without posts is 0.
weeks as (
    select
        judged.hour_at,
        judged.topic,
        coalesce(before.mention_count, 0) as mention_count,
        coalesce(before.negative_count, 0) as negative_count
    from (
        select judged.hour_at, judged.topic, {{ dbt.dateadd('day', '-7 * back', 'judged.hour_at') }} as before_at
        from judged
        cross join ({% for back in range(1, 9) %}select {{ back }} as back{{ ' union all ' if not loop.last }}{% endfor %}) as backs
    ) as judged
    cross join (select min(hour_at) as first_at from {{ ref('analytics_mention_hours') }}) as history
    left join hours as before on before.hour_at = judged.before_at and before.topic = judged.topic
    where judged.before_at >= history.first_at
),

medians as (
    select
        hour_at,
        topic,
        count(*) as week_count,
        {{ median_of('mention_count') }} as mentions,
        {{ median_of('negative_count') }} as negatives
    from weeks
    group by hour_at, topic
),

usual as (
    select
        medians.hour_at,
        medians.topic,
        max(medians.week_count) as week_count,
        max(medians.mentions) as mentions,
        max(medians.negatives) as negatives,
        {{ median_of('abs(weeks.mention_count - medians.mentions)') }} as mention_deviation,
        {{ median_of('abs(weeks.negative_count - medians.negatives)') }} as negative_deviation
    from medians
    inner join weeks on weeks.hour_at = medians.hour_at and weeks.topic = medians.topic
    where medians.week_count >= {{ var('spike_least_weeks') }}
    group by medians.hour_at, medians.topic
),

bounded as (
    select
        judged.*,
        usual.week_count,
        cast(usual.mentions as double) as usual_mentions,
        cast({{ upper_bound('usual.mentions', 'usual.mention_deviation') }} as double) as upper_mentions,
        cast(usual.negatives as double) as usual_negatives,
        cast({{ upper_bound('usual.negatives', 'usual.negative_deviation') }} as double) as upper_negatives
    from judged
    left join usual on usual.hour_at = judged.hour_at and usual.topic = judged.topic
),

flagged as (
    select
        bounded.*,
        mention_count >= {{ var('spike_least_count') }} and mention_count > upper_mentions as is_spike,
        negative_count >= {{ var('spike_least_count') }} and negative_count > upper_negatives as is_negative_spike
    from bounded
),

-- Hours in a row have the same distance from their place in the row.
runs as (
    select
        flagged.*,
        {{ dbt.dateadd('hour', '-row_number() over (partition by topic, is_spike order by hour_at)', 'hour_at') }} as spike_run,
        {{ dbt.dateadd('hour', '-row_number() over (partition by topic, is_negative_spike order by hour_at)', 'hour_at') }} as negative_run
    from flagged
)

select
    md5(concat_ws('|', cast(hour_at as string), topic)) as listening_hour_id,
    hour_at,
    topic,
    mention_count,
    usual_mentions,
    upper_mentions,
    is_spike,
    case when is_spike then min(hour_at) over (partition by topic, is_spike, spike_run) end as spike_since,
    negative_count,
    usual_negatives,
    upper_negatives,
    is_negative_spike,
    case when is_negative_spike then min(hour_at) over (partition by topic, is_negative_spike, negative_run) end as negative_spike_since,
    cast(coalesce(week_count, 0) as bigint) as week_count
from runs
