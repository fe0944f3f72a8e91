-- Grain: one identifier. Fed by sightings; read by the solver and unified. What new records say is added to what was known;
-- an identifier on a record that changed is counted anew from all its sightings.
{{ config(unique_key='node_id') }}

with fresh as (
    select * from {{ ref('identity_sightings') }} where {{ is_new() }}
),

{% if is_incremental() -%}
changed as (
    select distinct identifier_type, identifier_value from fresh where _is_revision
),

counted as (
    select sightings.*, false as is_addition
    from {{ ref('identity_sightings') }} as sightings
    inner join changed
        on changed.identifier_type = sightings.identifier_type and changed.identifier_value = sightings.identifier_value
    union all
    select fresh.*, true as is_addition
    from fresh
    left join changed
        on changed.identifier_type = fresh.identifier_type and changed.identifier_value = fresh.identifier_value
    where changed.identifier_type is null
),
{%- else -%}
counted as (select *, false as is_addition from fresh),
{%- endif %}

said as (
    select
        {{ node_id('identifier_type', 'identifier_value') }} as node_id,
        identifier_type,
        identifier_value,
        is_addition,
        min(priority) as priority,
        coalesce(bool_or(is_valid and is_current), false) as is_valid,
        coalesce(bool_or(is_usable and is_current), false) as is_usable,
        min(case when is_current then seen_at end) as first_seen_at,
        max(case when is_current then seen_at end) as last_seen_at,
        count(case when is_current then 1 end) as record_count,
        {{ distinct_text('case when is_current then channel end') }} as sources
    from counted
    group by identifier_type, identifier_value, is_addition
)
{%- if is_incremental() %},

known as (select * from {{ this }} where node_id in (select node_id from said where is_addition))
{%- endif %}

select
    said.node_id,
    said.identifier_type,
    said.identifier_value,
    {% if is_incremental() -%}
    least(said.priority, known.priority) as priority,
    least(said.priority, known.priority) < 100 as is_person,
    said.is_valid or coalesce(known.is_valid, false) as is_valid,
    said.is_usable or coalesce(known.is_usable, false) as is_usable,
    least(said.first_seen_at, known.first_seen_at) as first_seen_at,
    greatest(said.last_seen_at, known.last_seen_at) as last_seen_at,
    said.record_count + coalesce(known.record_count, 0) as record_count,
    {{ merged_text('said.sources', 'known.sources') }} as sources,
    known.node_id is not null or not said.is_addition as _is_revision,
    cast(case
        when said.first_seen_at is null or known.first_seen_at <= said.first_seen_at then coalesce(known._first_seq, {{ var('seq', 0) }})
        else {{ var('seq', 0) }}
    end as bigint) as _first_seq,
    {%- else -%}
    said.priority,
    said.priority < 100 as is_person,
    said.is_valid,
    said.is_usable,
    said.first_seen_at,
    said.last_seen_at,
    said.record_count,
    said.sources,
    true as _is_revision,
    cast({{ var('seq', 0) }} as bigint) as _first_seq,
    {%- endif %}
    {{ seq() }}
from said
{%- if is_incremental() %}
left join known on known.node_id = said.node_id
{%- endif %}
