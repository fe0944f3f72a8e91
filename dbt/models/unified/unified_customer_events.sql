-- Grain: one event of any channel, on the timeline of its customer; customer_id is null where it names nobody.
-- Fed by cleaned.events and identity.records; read by tags, analytics, audiences and BI.
{{ config(unique_key='event_id') }}

{% set tables = [] -%}
{%- for table, entity in var('entities', {}).items() if entity.kind == 'event' %}{% do tables.append(table) %}{% endfor -%}
with attributed as (
    select record_key, customer_id, case when customer_id is not null then identifier_type end as identifier_type
    from {{ ref('identity_records') }}
    where {{ is_new() }} and source_table in ('{{ tables | join("', '") }}')
),

fresh as (
    select * from {{ ref('cleaned_events') }} where {{ is_new() }}
),

{% if is_incremental() -%}
-- Events that came before and whose customer is another now.
moved as (
    select * from {{ ref('cleaned_events') }}
    where event_id in (
        select attributed.record_key from attributed
        left join fresh on fresh.event_id = attributed.record_key
        where fresh.event_id is null)
),

-- Records are new when their event is; one that is not was built apart from it, and is looked up.
others as (
    select record_key, customer_id, case when customer_id is not null then identifier_type end as identifier_type
    from {{ ref('identity_records') }}
    where record_key in (
        select fresh.event_id from fresh
        left join attributed on attributed.record_key = fresh.event_id
        where attributed.record_key is null)
),

changed as (
    select fresh.*, fresh._is_revision as is_changed from fresh
    union all
    select moved.*, true as is_changed from moved
),

records as (
    select * from attributed
    union all
    select * from others
),

-- Whose the event was before, and when: a customer who lost one has to be worked out anew.
kept as (
    select event_id, customer_id, least(occurred_at, coalesce(previous_occurred_at, occurred_at)) as occurred_at
    from {{ this }} where event_id in (select event_id from changed where is_changed)
)
{%- else -%}
changed as (select fresh.*, true as is_changed from fresh),

records as (select * from attributed)
{%- endif %}

select
    changed.event_id,
    records.customer_id,
    {{ 'kept.customer_id' if is_incremental() else 'cast(null as string)' }} as previous_customer_id,
    {{ 'kept.occurred_at' if is_incremental() else 'cast(null as timestamp)' }} as previous_occurred_at,
    changed.channel,
    changed.source_table,
    changed.record_id,
    records.identifier_type,
    {% for column in event_columns() if column not in ('user_id', 'email', 'phone', 'anonymous_id', 'device_id') -%}
    changed.{{ column }},
    {% endfor -%}
    changed.is_changed as _is_revision,
    {{ seq() }}
from changed
left join records on records.record_key = changed.event_id
{%- if is_incremental() %}
left join kept on kept.event_id = changed.event_id
{%- endif %}
{{ in_time_order('changed.occurred_at', 'changed.event_id') }}
