-- Grain: one link between two identifiers that one record makes, each of its identifiers to its most trusted one, or that a match
-- of two records makes (rule alike, source_table identity_matches). A link that an earlier version made stays with
-- is_current = false. Fed by sightings and matches; read by edges and explain.
{{ config(unique_key='evidence_id') }}

with fresh as (
    select * from {{ ref('identity_sightings') }} where {{ is_new() }}
),

matches as (
    select * from {{ ref('identity_matches') }} where {{ is_new() }}
),

usable as (
    select
        fresh.*,
        row_number() over (
            partition by source_table, record_id order by priority, identifier_type, identifier_value
        ) as trust_rank
    from fresh
    where is_usable and is_current
),

links as (
    select
        md5(concat_ws('|', other.source_table, other.record_id,
            anchor.identifier_type, anchor.identifier_value, other.identifier_type, other.identifier_value)) as evidence_id,
        other.channel,
        other.source_table,
        other.record_id,
        anchor.identifier_type as left_type,
        anchor.identifier_value as left_value,
        other.identifier_type as right_type,
        other.identifier_value as right_value,
        'seen_together' as rule,
        cast(1.0 as double) as confidence,
        coalesce(other.seen_at, anchor.seen_at) as seen_at,
        true as is_current,
        {{ revision('other._is_revision') }}
    from usable as other
    inner join usable as anchor
        on anchor.source_table = other.source_table and anchor.record_id = other.record_id and anchor.trust_rank = 1
    where other.trust_rank > 1
    union all
    select
        md5(concat_ws('|', 'identity_matches', match_id, left_type, left_value, right_type, right_value)),
        'matching', 'identity_matches', match_id, left_type, left_value, right_type, right_value,
        'alike', match_probability, cast(null as timestamp), true, {{ revision('_is_revision') }}
    from matches
    where is_current and grade = 'transactional' and left_type is not null and right_type is not null
        and (left_type <> right_type or left_value <> right_value)
),

{% if is_incremental() -%}
taken_back as (
    select
        kept.evidence_id, kept.channel, kept.source_table, kept.record_id, kept.left_type, kept.left_value,
        kept.right_type, kept.right_value, kept.rule, kept.confidence, kept.seen_at, false as is_current, true as _is_revision
    from {{ this }} as kept
    inner join (
        select source_table, record_id from fresh where _is_revision
        union
        select 'identity_matches', match_id from matches where _is_revision
    ) as records
        on records.source_table = kept.source_table and records.record_id = kept.record_id
    left join links on links.evidence_id = kept.evidence_id
    where kept.is_current and links.evidence_id is null
),
{%- endif %}

final as (
    select * from links
    {% if is_incremental() -%}
    union all
    select * from taken_back
    {%- endif %}
)

select *, {{ seq() }} from final
