-- The masked serving file shows event_id, which holds the business key of an event's record: no channel may declare a
-- contact value or another identifier as part of that key.
-- depends_on: {{ ref('unified_customer_events') }}

{% for table, entity in var('entities', {}).items() if entity.kind == 'event' -%}
{%- for column in entity.key
    if column in entity.identifiers or entity.columns[column] in ('email', 'phone', 'identifier', 'person_name', 'url', 'json') %}
select '{{ table }}' as source_table, '{{ column }}' as key_column
union all
{%- endfor %}
{%- endfor %}
select '' as source_table, '' as key_column where 1 = 0
