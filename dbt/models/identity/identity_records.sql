-- Grain: one record that carries identifiers, with the one it is attributed by (its most trusted usable one) and the
-- customer that one belongs to; where none is usable, the customer is null, and where none is left, the identifier too.
-- Fed by sightings and assignments; read by unified and quality.
-- depends_on: {{ ref('identity_changes') }}
{{ config(unique_key='record_key') }}

with touched as (
    select distinct channel, source_table, record_id from {{ ref('identity_sightings') }} where {{ is_new() }}
    {% if is_incremental() -%}
    union
    select kept.channel, kept.source_table, kept.record_id
    from {{ this }} as kept
    inner join (
        select identifier_type, identifier_value from {{ ref('identity_changes') }} where {{ is_new() }}
    ) as moved
        on moved.identifier_type = kept.identifier_type and moved.identifier_value = kept.identifier_value
    {%- endif %}
),

ranked as (
    select
        sightings.*,
        -- As a column: a condition beside the equalities would make the engine compare every pair.
        case when sightings.is_usable then sightings.identifier_value end as usable_value,
        row_number() over (
            partition by sightings.source_table, sightings.record_id
            order by sightings.is_usable desc, sightings.priority, sightings.identifier_type, sightings.identifier_value
        ) as trust_rank
    from {{ ref('identity_sightings') }} as sightings
    inner join touched
        on touched.source_table = sightings.source_table and touched.record_id = sightings.record_id
    where sightings.is_current
),

final as (
    select
        concat(touched.source_table, ':', touched.record_id) as record_key,
        touched.channel,
        touched.source_table,
        touched.record_id,
        ranked.identifier_type,
        ranked.identifier_value,
        coalesce(ranked.is_usable, false) as is_usable,
        assignments.customer_id,
        {{ 'kept.customer_id' if is_incremental() else 'cast(null as string)' }} as previous_customer_id,
        ranked.seen_at
    from touched
    left join ranked
        on ranked.source_table = touched.source_table and ranked.record_id = touched.record_id and ranked.trust_rank = 1
    left join {{ ref('identity_assignments') }} as assignments
        on assignments.identifier_type = ranked.identifier_type
        and assignments.identifier_value = ranked.usable_value
    {% if is_incremental() -%}
    left join {{ this }} as kept
        on kept.source_table = touched.source_table and kept.record_id = touched.record_id
    {%- endif %}
)

select *, {{ seq() }} from final
