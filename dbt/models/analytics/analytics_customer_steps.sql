-- Grain: one step of a customer's path: what they did on a channel, several times in a row as one. A path ends with a pause; a
-- short one in the scope `visit`, one of days in `episode`. Of episodes the first five steps are kept. Fed by
-- unified.customer_events; read by analytics.path_steps, analytics.paths and analytics.associations.

{%- set along = 'partition by scope, customer_id, path order by occurred_at, event_id' %}

with acts as (
    select
        own.*,
        lag(occurred_at) over (partition by customer_id order by occurred_at, event_id) as before_at,
        lag(step) over (partition by customer_id order by occurred_at, event_id) as before_step
    from (
        select customer_id, event_id, event_name, concat_ws(' ', channel, event_name) as step, occurred_at
        from {{ of_touched('unified_customer_events') }} as events
        -- What trackers say of identity is nothing that a customer does.
        where customer_id is not null and {{ is_own_act('event_name') }} and event_name not in ('alias', 'group')
    ) as own
),

scoped as (
    {%- for scope, minutes in {'visit': var('session_idle_minutes', 30), 'episode': var('episode_pause_days') * 1440}.items() %}
    select
        acts.*,
        '{{ scope }}' as scope,
        case when occurred_at <= {{ dbt.dateadd('minute', minutes, 'before_at') }} then 0 else 1 end as begins
    from acts
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

numbered as (
    select scoped.*, sum(begins) over (partition by scope, customer_id order by occurred_at, event_id rows unbounded preceding) as path
    from scoped
    where begins = 1 or step <> before_step
),

placed as (
    select
        numbered.*,
        row_number() over ({{ along }}) as step_number,
        lead(step) over ({{ along }}) as next_step,
        first_value(event_id) over ({{ along }}) as first_event_id,
        concat_ws(' > ', {% for back in range(4, 0, -1) %}lag(step, {{ back }}) over ({{ along }}), {% endfor %}step) as sequence
    from numbered
)

select
    md5(concat_ws('|', scope, event_id)) as step_id,
    md5(concat_ws('|', scope, first_event_id)) as path_id,
    scope,
    customer_id,
    cast(step_number as bigint) as step_number,
    event_name,
    step,
    coalesce(next_step, '(end)') as next_step,
    case when step_number <= 5 then sequence end as sequence,
    {{ seq() }}
from placed
where step_number <= 5 or scope = 'visit'
