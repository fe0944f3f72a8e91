-- Grain: one event of any channel, in one vocabulary. Fed by every cleaned model of an entity whose contract says
-- `kind: event`; read by identity, unified and analysis.
{{ config(unique_key='event_id') }}

{% for table, entity in var('entities', {}).items() if entity.kind == 'event' %}
select
    concat_ws(':', '{{ table }}', record_id) as event_id,
    '{{ entity.channel }}' as channel,
    '{{ table }}' as source_table,
    record_id,
    {{ event_columns() | join(',\n    ') }},
    {{ revision('_is_revision') }},
    {{ seq() }}
from {{ ref('cleaned_' ~ table) }}
where {{ is_new() }}
{{ 'union all' if not loop.last }}
{% endfor %}
