-- Grain: one pair of identifiers that records link, whatever their number; is_active says whether any still does.
-- Fed by evidence; read by the solver.
{{ config(unique_key='edge_id') }}

with touched as (
    select distinct left_type, left_value, right_type, right_value
    from {{ ref('identity_evidence') }}
    where {{ is_new() }}
)

select
    md5(concat_ws('|', evidence.left_type, evidence.left_value, evidence.right_type, evidence.right_value)) as edge_id,
    evidence.left_type,
    evidence.left_value,
    evidence.right_type,
    evidence.right_value,
    min(evidence.rule) as rule,
    cast(1.0 as double) as confidence,
    min(case when evidence.is_current then evidence.seen_at end) as first_seen_at,
    max(case when evidence.is_current then evidence.seen_at end) as last_seen_at,
    count(case when evidence.is_current then 1 end) as record_count,
    {{ distinct_text('case when evidence.is_current then evidence.channel end') }} as sources,
    bool_or(evidence.is_current) as is_active,
    {{ seq() }}
from {{ ref('identity_evidence') }} as evidence
inner join touched
    on touched.left_type = evidence.left_type and touched.left_value = evidence.left_value
    and touched.right_type = evidence.right_type and touched.right_value = evidence.right_value
group by evidence.left_type, evidence.left_value, evidence.right_type, evidence.right_value
