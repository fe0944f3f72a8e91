-- Grain: one identifier. Fed by sightings; read by the solver and unified.
{{ config(unique_key='node_id') }}

with touched as (
    select distinct identifier_type, identifier_value
    from {{ ref('identity_sightings') }}
    where {{ is_new() }}
)

select
    {{ node_id('sightings.identifier_type', 'sightings.identifier_value') }} as node_id,
    sightings.identifier_type,
    sightings.identifier_value,
    min(sightings.priority) as priority,
    min(sightings.priority) < 100 as is_person,
    coalesce(bool_or(sightings.is_usable and sightings.is_current), false) as is_usable,
    min(case when sightings.is_current then sightings.seen_at end) as first_seen_at,
    max(case when sightings.is_current then sightings.seen_at end) as last_seen_at,
    count(case when sightings.is_current then 1 end) as record_count,
    {{ distinct_text('case when sightings.is_current then sightings.channel end') }} as sources,
    {{ seq() }}
from {{ ref('identity_sightings') }} as sightings
inner join touched
    on touched.identifier_type = sightings.identifier_type and touched.identifier_value = sightings.identifier_value
group by sightings.identifier_type, sightings.identifier_value
