{# Who a visit belongs to: the browser, device or installation, else the person; what stands for nobody is passed over.
   An event that names nothing is held together by the tracker's own session, else it is a visit by itself. #}
{% macro visitor_id(channel) -%}
    {%- set candidates = ['anonymous_id', 'device_id', 'user_id', 'email', 'phone', 'session_id'] -%}
    md5(concat_ws('|', '{{ channel }}', coalesce(
        {%- for column in candidates %}
        case when not {{ is_blocked('trim(staged.' ~ column ~ ')') }} then concat_ws('|', '{{ column }}', trim(staged.{{ column }})) end,
        {%- endfor %}
        concat_ws('|', 'event', staged.record_id))))
{%- endmacro %}

{# A UTC time as the visitor's clock showed it: by the offset that came with it (+08:00, -0330, 8, UTC+8, Z), else in the
   default time zone. #}
{% macro at_visitors_clock(time, utc_offset) -%}
    {%- set offset = upper_case('trim(' ~ utc_offset ~ ')') -%}
    {%- set digits = replace_all(offset, '[^0-9]', '') -%}
    case
        when {{ offset }} = 'Z' then {{ time }}
        when {{ matches(offset, '^(UTC|GMT)?[+-]?[0-9]{1,2}(:?[0-9]{2})?$') }} then
            {{ dbt.dateadd('minute', "(case when " ~ offset ~ " like '%-%' then -1 else 1 end) * cast(case when length("
                ~ digits ~ ") <= 2 then cast(" ~ digits ~ " as int) * 60 else cast(left(" ~ digits ~ ", length(" ~ digits
                ~ ") - 2) as int) * 60 + cast(right(" ~ digits ~ ", 2) as int) end as int)", time) }}
        else {{ in_time_zone(time, var('default_time_zone', 'UTC')) }}
    end
{%- endmacro %}

{# The campaign that a link names, as one text; null where it names none. #}
{% macro campaign() -%}
    case
        when coalesce(nullif(utm_source, ''), nullif(utm_medium, ''), nullif(utm_campaign, '')) is not null
            then {{ lower_case("concat_ws('|', coalesce(utm_source, ''), coalesce(utm_medium, ''), coalesce(utm_campaign, ''))") }}
    end
{%- endmacro %}

{# Events of trackers that changed, and what stands in unified.session_events of those that were there before: visitor and time.

   Args: since: a moment that none of them is before; none where it is not known yet. #}
{% macro placed_anew(since=none) -%}
    {%- set events = ref('unified_customer_events') -%}
    select visitor_id, occurred_at from {{ events }} where {{ is_new() }} and visitor_id is not null
    {%- if is_incremental() %}
    union all
    select visitor_id, occurred_at from {{ this }}
    where event_id in (select event_id from {{ events }} where {{ is_new() }} and _is_revision)
        {{- ' and occurred_at >= ' ~ since if since }}
    {%- endif %}
{%- endmacro %}

{# The earliest session that may have to be cut again begins then, or later. #}
{% macro recut_since() -%}
    {%- do return(earliest(
        'with bounds as (select ' ~ dbt.dateadd('minute', -var('session_idle_minutes', 30), 'min(occurred_at)') ~ ' as since from ('
        ~ placed_anew() ~ ') as changes) select least((select since from bounds), (select min(session_started_at) from ' ~ this
        ~ ' where occurred_at >= (select since from bounds)))')) -%}
{%- endmacro %}

{# Incremental strategy `recut`: an event replaces its row, which is looked for from the moment on. #}
{% macro get_incremental_recut_sql(arguments) %}
    {{ with_fresh_rows(
        arguments, 'occurred_at >= ' ~ recut_since() ~ ' and event_id in (select event_id from ' ~ arguments['temp_relation'] ~ ')') }}
{%- endmacro %}

{# Visitors whose sessions have to be worked out anew, and from when on: where they were cut again; of one who lost an event,
   all; and where a customer's acts or orders changed, all sessions that may be credited with an order near them.

   Args: since: a moment that none of them is before, see touched_since(). #}
{% macro touched_visitors(since) -%}
    {%- set idle, ever = var('session_idle_minutes', 30), "cast('1900-01-01' as timestamp)" -%}
    select visitor_id, min(cut_from) as cut_from
    from (
        select visitor_id, cut_from from {{ ref('unified_session_events') }} where {{ is_new() }}
        union all
        select previous_visitor_id, {{ ever }} from {{ ref('unified_session_events') }}
        where {{ is_new() }} and previous_visitor_id is not null
        union all
        -- By visitor, and first worked out to the end: joined by event, the engine would meet all events with all places.
        select places.visitor_id, places.session_started_at
        from (
            select acts.visitor_id, min(acts.occurred_at) as acted_at
            from ({{ changed_customers() }}) as changed
            inner join {{ ref('unified_customer_events') }} as acts on acts.customer_id = changed.customer_id
            where acts.visitor_id is not null and acts.occurred_at >= {{ since }}
                and acts.occurred_at >= {{ dbt.dateadd('minute', -idle, 'changed.changed_at') }}
            group by acts.visitor_id
        ) as acted
        inner join {{ ref('unified_session_events') }} as places
            on places.visitor_id = acted.visitor_id and places.occurred_at >= acted.acted_at
        where places.occurred_at >= {{ since }}
    ) as windows
    group by visitor_id
{%- endmacro %}

{# Customers whose acts or orders changed, and from when on. #}
{% macro changed_customers() -%}
    select customer_id, min(changed_at) as changed_at
    from (
        select customer_id, least(occurred_at, coalesce(previous_occurred_at, occurred_at)) as changed_at
        from {{ ref('unified_customer_events') }} where {{ is_new() }}
        union all
        select previous_customer_id, previous_occurred_at from {{ ref('unified_customer_events') }} where {{ is_new() }}
    ) as moments
    where customer_id is not null
    group by customer_id
{%- endmacro %}

{# The earliest session that may have to be worked out anew begins then, or later. #}
{% macro touched_since() -%}
    {%- set idle, places = var('session_idle_minutes', 30), ref('unified_session_events') -%}
    {%- do return(earliest(
        'with bounds as (select least('
        ~ '(select min(case when previous_visitor_id is null then cut_from else ' ~ "cast('1900-01-01' as timestamp)" ~ ' end) from ' ~ places
        ~ ' where ' ~ is_new() ~ '), '
        ~ '(select ' ~ dbt.dateadd('minute', -idle, 'min(changed_at)') ~ ' from (' ~ changed_customers() ~ ') as changed)) as since) '
        ~ 'select least((select since from bounds), (select min(session_started_at) from ' ~ places
        ~ ' where occurred_at >= (select since from bounds)))')) -%}
{%- endmacro %}

{# Incremental strategy `visitors`: the sessions of a touched visitor are replaced from the moment on, also by nothing. #}
{% macro get_incremental_visitors_sql(arguments) %}
    {%- set target, since = arguments['target_relation'], touched_since() -%}
    {%- set touched -%}
        select kept.session_id from {{ target }} as kept
        inner join ({{ touched_visitors(since) }}) as touched on touched.visitor_id = kept.visitor_id
        where kept.started_at >= touched.cut_from and kept.started_at >= {{ since }}
    {%- endset -%}
    {{ with_fresh_rows(arguments, 'started_at >= ' ~ since ~ ' and session_id in (' ~ touched ~ ')') }}
{%- endmacro %}
