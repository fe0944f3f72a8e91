-- Grain: one record that carries identifiers, with the one it is attributed by (its most trusted usable one) and the
-- customer that one belonged to at that time; where none is usable, the customer is null, and where none is left, the identifier too.
-- Fed by sightings and assignments; read by unified and quality.
-- depends_on: {{ ref('identity_changes') }}, {{ ref('identity_nodes') }}
{{ config(unique_key='record_key') }}

with fresh as (
    select * from {{ ref('identity_sightings') }} where {{ is_new() }}
),

changed as (
    select channel, source_table, record_id, {{ revision('bool_or(_is_revision)') }}
    from fresh
    group by channel, source_table, record_id
),

ranked as (
    select
        fresh.*,
        -- As a column: a condition beside the equalities would make the engine compare every pair.
        case when is_usable then identifier_value end as usable_value,
        row_number() over (
            partition by source_table, record_id order by is_usable desc, priority, identifier_type, identifier_value
        ) as trust_rank
    from fresh
    where is_current
),

attributed as (
    select
        concat_ws(':', changed.source_table, changed.record_id) as record_key,
        changed.channel,
        changed.source_table,
        changed.record_id,
        ranked.identifier_type,
        ranked.identifier_value,
        coalesce(ranked.is_usable, false) as is_usable,
        assignments.customer_id,
        ranked.seen_at,
        changed._is_revision
    from changed
    left join ranked
        on ranked.source_table = changed.source_table and ranked.record_id = changed.record_id and ranked.trust_rank = 1
    left join {{ ref('identity_assignments') }} as assignments
        on assignments.identifier_type = ranked.identifier_type
        and assignments.identifier_value = ranked.usable_value
        and {{ in_span('assignments', 'ranked.seen_at') }}
),

{% if is_incremental() -%}
revised as (
    select kept.record_key, kept.customer_id
    from {{ this }} as kept
    where kept.record_key in (select record_key from attributed where _is_revision)
),

-- Identifiers that older records may name: all that moved but those that were seen for the first time.
moved as (
    select moves.identifier_type, moves.identifier_value
    from (select * from {{ ref('identity_changes') }} where {{ is_new() }}) as moves
    left join {{ ref('identity_nodes') }} as nodes
        on nodes.identifier_type = moves.identifier_type and nodes.identifier_value = moves.identifier_value
    where moves.kind <> 'created' or nodes._is_revision
),

final as (
    select
        attributed.record_key, attributed.channel, attributed.source_table, attributed.record_id,
        attributed.identifier_type, attributed.identifier_value, attributed.is_usable, attributed.customer_id,
        revised.customer_id as previous_customer_id, attributed.seen_at, attributed._is_revision
    from attributed
    left join revised on revised.record_key = attributed.record_key
    union all
    select
        kept.record_key, kept.channel, kept.source_table, kept.record_id,
        kept.identifier_type, kept.identifier_value, kept.is_usable, assignments.customer_id,
        kept.customer_id as previous_customer_id, kept.seen_at, true as _is_revision
    from {{ this }} as kept
    inner join (select distinct identifier_type, identifier_value from moved) as moved
        on moved.identifier_type = kept.identifier_type and moved.identifier_value = kept.identifier_value
    left join attributed on attributed.record_key = kept.record_key
    left join {{ ref('identity_assignments') }} as assignments
        on assignments.identifier_type = kept.identifier_type and assignments.identifier_value = kept.identifier_value
        and {{ in_span('assignments', 'kept.seen_at') }}
    where kept.is_usable and attributed.record_key is null
)
{%- else -%}
final as (
    select
        record_key, channel, source_table, record_id, identifier_type, identifier_value, is_usable, customer_id,
        cast(null as string) as previous_customer_id, seen_at, _is_revision
    from attributed
)
{%- endif %}

select *, {{ seq() }} from final
