-- Grain: one metric of one refresh about what was loaded, by channel. Rates are of the batches that no finished refresh has
-- taken in. Checked before anything unified is built. Definitions: docs/quality.md.
{{ config(unique_key='metric_key', incremental_strategy='delete+insert', full_refresh=false, post_hook='{{ thin_out() }}') }}

{%- set watched = {} -%}
{%- for table, entity in var('entities', {}).items() -%}
    {%- set columns = [] -%}
    {%- for column in [entity.event_time, entity.updated_at] + entity.identifiers | list + entity.attributes.values() | list
        if column in entity.columns and column not in entity.required and column not in columns -%}
        {%- do columns.append(column) -%}
    {%- endfor -%}
    {%- do watched.update({table: columns}) -%}
{%- endfor %}

with {% for table, entity in var('entities', {}).items() -%}
new_{{ table }} as (
    select
        {% for column in watched[table] %}count({{ column }}) as {{ column }}_filled, {% endfor -%}
        {% if entity.kind == 'event' and entity.event_time -%}
        count(case when _loaded_at > {{ entity.event_time }} + interval {{ var('late_after_hours') }} hours then 1 end) as late,
        {% endif -%}
        count(*) as rows_read
    from {{ source('staging', table) }}
    where _seq > {{ var('judged_from', 0) }}
),

{% endfor -%}
filled as (
    {% for table, columns in watched.items() -%}
    {% for column in columns -%}
    select '{{ table }}.{{ column }}' as field, '{{ var('entities')[table].channel }}' as channel,
        {{ column }}_filled as filled, rows_read
    from new_{{ table }}
    union all
    {% endfor -%}
    {% endfor -%}
    select '' as field, '' as channel, 0 as filled, 0 as rows_read where 1 = 0
),

late as (
    {% for table, entity in var('entities', {}).items() if entity.kind == 'event' and entity.event_time -%}
    select '{{ entity.channel }}' as channel, late, rows_read from new_{{ table }}
    union all
    {% endfor -%}
    select '' as channel, 0 as late, 0 as rows_read where 1 = 0
),

new_loads as (
    select batch_id, seq, channel, rows_read, rows_duplicate
    from {{ source('staging', '_loads') }}
    where seq > {{ var('judged_from', 0) }} and status = 'loaded'
),

-- What was replayed since is no longer rejected.
waiting as (
    select rejected.batch_id, count(*) as rejected
    from {{ source('staging', '_rejected') }} as rejected
    inner join new_loads on new_loads.batch_id = rejected.batch_id
    where rejected.replayed_in is null
    group by rejected.batch_id
),

loads as (
    select
        coalesce(new_loads.channel, '*') as channel,
        sum(new_loads.rows_read) as rows_read,
        coalesce(sum(waiting.rejected), 0) as rejected,
        sum(new_loads.rows_duplicate) as duplicate,
        max_by(new_loads.batch_id, new_loads.seq) as batch_id
    from new_loads
    left join waiting on waiting.batch_id = new_loads.batch_id
    group by grouping sets ((new_loads.channel), ())
    having count(*) > 0
),

shares as (
    select 'reject_rate' as metric, channel, '*' as identifier_type, rejected as numerator, rows_read as denominator,
        'higher' as worse
    from loads
    union all
    select 'duplicate_rate', channel, '*', duplicate, rows_read, 'higher' from loads
    union all
    select concat_ws(':', 'completeness', field), channel, '*', filled, rows_read, 'lower' from filled where rows_read > 0
    union all
    select 'lateness', channel, '*', sum(late), sum(rows_read), 'higher'
    from late
    group by channel
    having sum(rows_read) > 0
),

{{ freshness_and_volume() }},

{{ banded('shares', 'own_bands', 'loads') }}
