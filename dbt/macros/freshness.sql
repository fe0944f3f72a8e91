{# The CTE `own_bands`: freshness and volume, whose usual comes from a channel's own days and loads and not from refreshes,
   since an age that is measured more often does not become more usual. #}
{% macro freshness_and_volume() -%}
{{ recent_days() }},

active_hours as (
    select channel, date_trunc('hour', loaded_at) as moment, max(loaded_at) as newest_at
    from {{ source('staging', '_loads') }}
    where status = 'loaded' and loaded_at <= {{ as_of() }} and loaded_at >= {{ dbt.dateadd('day', -63, as_of()) }}
    group by channel, date_trunc('hour', loaded_at)
),

arrivals as (
    select 'freshness:loads' as metric, channel, moment, newest_at from active_hours
    where moment >= {{ approved_at('freshness') }}
    union all
    select 'freshness:events', channel, cast(event_date as timestamp), newest_at from recent_days
    where event_date >= cast({{ approved_at('freshness') }} as date)
),

ages as (
    select metric, channel, greatest({{ hours_between('max(newest_at)', as_of()) }}, 0) as hours from arrivals group by metric, channel
),

gaps as (
    select metric, channel, {{ hours_between('before', 'moment') }} as hours
    from (
        select metric, channel, moment, lag(moment) over (partition by metric, channel order by moment) as before
        from arrivals
    ) as followed
    where before is not null
),

usual_gaps as (select metric, channel, {{ median_of('hours') }} as hours, count(*) as samples from gaps group by metric, channel),

gap_bands as (
    select
        gaps.metric, gaps.channel, max(usual.hours) as usual, max(usual.samples) as samples,
        case when max(usual.samples) >= 5 then
            greatest(
                3.5 * 1.4826 * {{ median_of('abs(gaps.hours - usual.hours)') }},
                percentile_cont(0.95) within group (order by gaps.hours) - max(usual.hours)
            )
            + case when gaps.metric = 'freshness:events' then 24 else greatest(2, 0.25 * max(usual.hours)) end
        end as half_width
    from gaps
    inner join usual_gaps as usual on usual.metric = gaps.metric and usual.channel = gaps.channel
    group by gaps.metric, gaps.channel
),

-- The last whole day of a channel: the one before its newest event's.
whole_days as (
    select channel, cast(max(event_date) - interval 1 day as date) as event_date, min(event_date) as first_date
    from recent_days
    group by channel
    having min(event_date) < max(event_date)
),

-- That day and the same weekday of the eight weeks before, as far as the channel reaches back; a day without events has none.
same_weekdays as (
    select whole_days.channel, weeks.back, coalesce(days.events, 0) as events
    from whole_days
    cross join ({% for back in range(9) %}select {{ back }} as back{{ ' union all ' if not loop.last }}{% endfor %}) as weeks
    left join recent_days as days
        on days.channel = whole_days.channel and days.event_date = whole_days.event_date - 7 * weeks.back
    where weeks.back = 0 or (
        whole_days.event_date - 7 * weeks.back >= whole_days.first_date
        and whole_days.event_date - 7 * weeks.back >= cast({{ approved_at('volume') }} as date)
    )
),

usual_days as (
    select channel, {{ median_of('events') }} as events, count(*) as samples from same_weekdays where back > 0 group by channel
),

-- A channel that sends in bursts, such as campaigns, is no more than usual on any day that it has reached before.
greatest_days as (
    select days.channel, max(days.events) as events
    from {{ ref('quality_event_days') }} as days
    inner join whole_days on whole_days.channel = days.channel and days.event_date < whole_days.event_date
    group by days.channel
),

day_bands as (
    select
        days.channel, max(usual.events) as usual, max(usual.samples) as samples,
        -- The noise of counts (Poisson) whose events come in bunches of four, as in a visit or a conversation.
        case when max(usual.samples) >= 4 then greatest(
            3.5 * 1.4826 * {{ median_of('abs(days.events - usual.events)') }},
            3.5 * sqrt(4 * (max(usual.events) + 1)),
            0.25 * max(usual.events)
        ) end as half_width
    from same_weekdays as days
    inner join usual_days as usual on usual.channel = days.channel
    where days.back > 0
    group by days.channel
),

own_bands as (
    select
        ages.metric, ages.channel, '*' as identifier_type, ages.hours as value, cast(null as bigint) as numerator,
        gap_bands.usual, gap_bands.half_width, gap_bands.half_width as upper_half_width, gap_bands.samples,
        'higher' as worse
    from ages
    left join gap_bands on gap_bands.metric = ages.metric and gap_bands.channel = ages.channel
    union all
    select
        'volume', days.channel, '*', days.events, days.events,
        day_bands.usual, day_bands.half_width,
        greatest(day_bands.half_width, greatest_days.events - day_bands.usual), day_bands.samples, 'either'
    from same_weekdays as days
    left join day_bands on day_bands.channel = days.channel
    left join greatest_days on greatest_days.channel = days.channel
    where days.back = 0
)
{%- endmacro %}

{# The CTE `recent_days`: the days with events of the last nine weeks. #}
{% macro recent_days() -%}
recent_days as (
    select * from {{ ref('quality_event_days') }}
    where events > 0 and event_date <= cast({{ as_of() }} as date) and event_date >= {{ dbt.dateadd('day', -63, as_of()) }}
)
{%- endmacro %}

{% macro hours_between(earlier, later) -%}
    ({{ epoch_micros(later) }} - {{ epoch_micros(earlier) }}) / cast(3600000000 as double)
{%- endmacro %}
