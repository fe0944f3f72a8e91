-- Grain: one entry of a customer into a funnel. An entry ends with an event of the last step, or with a pause longer than the
-- funnel's window; of the first steps in it the one counts that led furthest, the earliest of equals. Fed by
-- unified.customer_events and the funnels' YAML; read by analytics.funnels and BI.

{%- set most = most_funnel_steps() %}
{%- set in_order = 'partition by funnel, customer_id order by occurred_at, first_step, event_id, step desc' %}

with steps as (
    {{ funnel_steps() }}
),

-- An event that fits several steps is a row for each. Of a moment, earlier steps come first; of an event the later, so that
-- it never follows itself.
acts as (
    select
        steps.*,
        events.customer_id,
        events.event_id,
        events.channel,
        events.occurred_at
    from {{ of_touched('unified_customer_events') }} as events
    inner join steps on steps.event_name = events.event_name
    where events.customer_id is not null and {{ is_customer_traffic() }}
        and {{ fits_step() }}
),

placed as (
    select
        acts.*,
        row_number() over ({{ in_order }}) as place,
        case
            when lag(step) over ({{ in_order }}) = step_count then 1
            when occurred_at > {{ dbt.dateadd('day', 'window_days', 'lag(occurred_at) over (' ~ in_order ~ ')') }} then 1
            else 0
        end as begins
    from acts
),

attempts as (
    select placed.*, sum(begins) over (partition by funnel, customer_id order by place rows unbounded preceding) as attempt
    from placed
),

nexts as (
    select
        attempts.*
        {%- for step in range(1, most + 1) %},
        min(case when step = {{ step }} then place end) over (
            partition by funnel, customer_id, attempt order by place rows between 1 following and unbounded following
        ) as next_{{ step }}
        {%- endfor %}
    from attempts
),

-- Where each act leads: to the first of the next step; in strict order only if no other step comes before it.
linked as {{ materialized() }} (
    select
        nexts.*,
        case
            {%- for step in range(1, most) %}
            when step = {{ step }}
                {%- for other in range(1, most + 1) if other not in (step, step + 1) %}
                {{ 'and (not is_strict or not (' if loop.first else 'or ' }}coalesce(next_{{ other }} < next_{{ step + 1 }}, false)
                {{- '))' if loop.last }}
                {%- endfor %}
                then next_{{ step + 1 }}
            {%- endfor %}
        end as next_place
    from nexts
),

-- Everything that a first step led to; what came after the window did not count.
chains as (
    select
        step_1.funnel,
        step_1.customer_id,
        step_1.attempt,
        step_1.place,
        step_1.event_id,
        step_1.channel,
        step_1.step_count,
        {{ dbt.dateadd('day', 'step_1.window_days', 'step_1.occurred_at') }} as window_ends_at,
        step_1.occurred_at as step_1_at
        {%- for step in range(2, most + 1) %},
        case
            when step_{{ step }}.occurred_at <= {{ dbt.dateadd('day', 'step_1.window_days', 'step_1.occurred_at') }}
                then step_{{ step }}.occurred_at
        end as step_{{ step }}_at
        {%- endfor %}
    from linked as step_1
    {%- for step in range(2, most + 1) %}
    left join linked as step_{{ step }}
        on step_{{ step }}.funnel = step_{{ step - 1 }}.funnel
        and step_{{ step }}.customer_id = step_{{ step - 1 }}.customer_id
        and step_{{ step }}.place = step_{{ step - 1 }}.next_place
    {%- endfor %}
    where step_1.step = 1
),

ranked as (
    select
        measured.*,
        row_number() over (partition by funnel, customer_id, attempt order by furthest_step desc, place) as choice
    from (
        select
            chains.*,
            1 {%- for step in range(2, most + 1) %} + case when step_{{ step }}_at is not null then 1 else 0 end {%- endfor %}
                as furthest_step,
            coalesce({% for step in range(most, 1, -1) %}step_{{ step }}_at, {% endfor %}step_1_at) as last_at
        from chains
    ) as measured
),

entries as (
    select * from ranked where choice = 1
),

visits as (
    select places.event_id, touchpoints.channel_group
    from {{ ref('unified_session_events') }} as places
    inner join {{ of_touched('analytics_touchpoints') }} as touchpoints on touchpoints.touchpoint_id = places.session_id
    where places.event_id in (select event_id from entries)
)

select
    md5(concat_ws('|', entries.funnel, entries.event_id)) as entry_id,
    entries.funnel,
    entries.customer_id,
    entries.channel,
    coalesce(visits.channel_group, '(no visit)') as channel_group,
    {% for step in range(1, 9) -%}
    {{ 'entries.step_' ~ step ~ '_at' if step <= most else 'cast(null as timestamp) as step_' ~ step ~ '_at' }},
    {% endfor -%}
    cast(entries.furthest_step as bigint) as furthest_step,
    entries.furthest_step = entries.step_count as is_completed,
    abandoned.step_name as abandoned_before,
    ({{ epoch_micros('entries.last_at') }} - {{ epoch_micros('entries.step_1_at') }}) / cast(1000000 as double) as duration_seconds,
    entries.window_ends_at,
    {{ seq() }}
from entries
left join visits on visits.event_id = entries.event_id
left join (select distinct funnel, step, step_name from steps) as abandoned
    on abandoned.funnel = entries.funnel and abandoned.step = entries.furthest_step + 1
