-- Grain: one event of any channel, on the timeline of its customer; customer_id is null where it names nobody.
-- Fed by cleaned.events and identity.records; read by tags, analytics, audiences and BI.
{{ config(unique_key='event_id', incremental_strategy='delete+insert') }}

with touched as (
    select event_id from {{ ref('cleaned_events') }} where {{ is_new() }}
    union
    select record_key from {{ ref('identity_records') }} where {{ is_new() }}
)

select
    events.event_id,
    records.customer_id,
    events.channel,
    events.source_table,
    events.record_id,
    case when records.customer_id is not null then records.identifier_type end as identifier_type,
    {% for column in event_columns() if column not in ('user_id', 'email', 'phone', 'anonymous_id', 'device_id') -%}
    events.{{ column }},
    {% endfor -%}
    {{ seq() }}
from {{ ref('cleaned_events') }} as events
inner join touched on touched.event_id = events.event_id
left join {{ ref('identity_records') }} as records on records.record_key = events.event_id
