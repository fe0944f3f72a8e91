-- Grain: one event of a tracker, in its session. A visitor's session ends with a pause of more than session_idle_minutes,
-- where another campaign begins, and at midnight if so set; the tracker's own session is not asked. Fed by
-- unified.customer_events; read by unified.sessions and BI.
{{ config(unique_key='event_id', incremental_strategy='recut') }}

{%- set idle = var('session_idle_minutes', 30) %}
{%- set in_order = 'order by occurred_at, event_id' %}
{%- set since = recut_since() if is_incremental() %}

with changed as (
    select visitor_id, min(occurred_at) as changed_at
    from ({{ placed_anew(since) }}) as changes
    group by visitor_id
),

-- A visitor is cut again from the first session on that a changed event may join or part: one that goes on until less than the
-- idle time before it. What is older stays as it is.
touched as (
    select visitor_id, min(moment) as cut_from
    from (
        select visitor_id, changed_at as moment from changed
        {%- if is_incremental() %}
        union all
        select kept.visitor_id, kept.session_started_at
        from {{ this }} as kept
        inner join changed on changed.visitor_id = kept.visitor_id
        where kept.occurred_at >= {{ dbt.dateadd('minute', -idle, 'changed.changed_at') }}
            and kept.occurred_at >= {{ since }}
        {%- endif %}
    ) as moments
    group by visitor_id
),

events as (
    select events.event_id, events.visitor_id, events.occurred_at, events.duration_seconds, {{ campaign() }} as campaign,
        {{ 'cast(events.occurred_at_local as date)' if var('session_cut_at_midnight', false) else 'cast(null as date)' }} as local_date,
        touched.cut_from
    from {{ ref('unified_customer_events') }} as events
    inner join touched on touched.visitor_id = events.visitor_id
    where events.occurred_at >= touched.cut_from
        {%- if is_incremental() %}
        and events.occurred_at >= {{ since }}
        {%- endif %}
),

paused as (
    select
        *,
        case
            when occurred_at <= {{ dbt.dateadd('minute', idle, 'lag(occurred_at) over (partition by visitor_id ' ~ in_order ~ ')') }}
                and coalesce(local_date = lag(local_date) over (partition by visitor_id {{ in_order }}), true) then 0
            else 1
        end as starts
    from events
),

stretches as (
    select *, sum(starts) over (partition by visitor_id {{ in_order }} rows unbounded preceding) as stretch from paused
),

-- Where a stretch had no campaign yet, one begins as well: the visitor came back by a link.
campaigns as (
    select
        *,
        case
            when starts = 1 then 1
            when campaign is null then 0
            when campaign = lag(campaign) over (partition by visitor_id, stretch, campaign is null {{ in_order }}) then 0
            else 1
        end as cuts
    from stretches
),

numbered as (
    select *, sum(cuts) over (partition by visitor_id {{ in_order }} rows unbounded preceding) as session_number from campaigns
),

final as (
    select
        event_id,
        visitor_id,
        -- Without the visitor in it, who may be a phone: nobody can test a guessed one against a masked session.
        md5(concat_ws('|', 'session', first_value(event_id) over (partition by visitor_id, session_number {{ in_order }}))) as session_id,
        cast(row_number() over (partition by visitor_id, session_number {{ in_order }}) as bigint) as event_number,
        occurred_at,
        first_value(occurred_at) over (partition by visitor_id, session_number {{ in_order }}) as session_started_at,
        coalesce(
            ({{ epoch_micros('lead(occurred_at) over (partition by visitor_id, session_number ' ~ in_order ~ ')') }}
                - {{ epoch_micros('occurred_at') }}) / cast(1000000 as double),
            case when duration_seconds >= 0 then least(duration_seconds, {{ idle * 60 }}) end
        ) as dwell_seconds,
        cut_from
    from numbered
)
{%- if is_incremental() %},

kept as (
    select event_id, visitor_id, previous_visitor_id
    from {{ this }}
    where visitor_id in (select visitor_id from touched) and occurred_at >= {{ since }}
)
{%- endif %}

select
    final.*,
    {% if is_incremental() -%}
    case when kept.visitor_id <> final.visitor_id then kept.visitor_id else kept.previous_visitor_id end as previous_visitor_id,
    {%- else -%}
    cast(null as string) as previous_visitor_id,
    {%- endif %}
    {{ seq() }}
from final
{%- if is_incremental() %}
left join kept on kept.event_id = final.event_id
{%- endif %}
{{ in_time_order('final.occurred_at', 'final.event_id') }}
