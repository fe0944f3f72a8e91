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
    {%- set offset = 'upper(trim(' ~ utc_offset ~ '))' -%}
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
            then lower(concat_ws('|', coalesce(utm_source, ''), coalesce(utm_medium, ''), coalesce(utm_campaign, '')))
    end
{%- endmacro %}

{# Visitors with a changed event, also one that was another visitor's before, and those whose customer changed: which
   session an order is credited to depends on all that the customer did. #}
{% macro touched_visitors() -%}
    select visitor_id from {{ ref('unified_session_events') }} where {{ is_new() }}
    union
    select previous_visitor_id from {{ ref('unified_session_events') }}
    where {{ is_new() }} and previous_visitor_id is not null
    union
    select visitor_id from {{ ref('unified_customer_events') }}
    where visitor_id is not null and customer_id in ({{ touched_customers() }})
{%- endmacro %}

{# Incremental strategy `visitors`: everything of a touched visitor is replaced, also by nothing. #}
{% macro get_incremental_visitors_sql(arguments) %}
    {%- set target = arguments['target_relation'] -%}
    {%- set columns = get_quoted_csv(arguments['dest_columns'] | map(attribute='name')) -%}
    delete from {{ target }} where visitor_id in ({{ touched_visitors() }});
    insert into {{ target }} ({{ columns }}) select {{ columns }} from {{ arguments['temp_relation'] }}
{%- endmacro %}
