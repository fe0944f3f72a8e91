-- Grain: one pair of identifiers that records link, whatever their number; is_active says whether any still does. Fed by
-- evidence; read by the solver. What new records link is added to what was known; a pair on a record that changed is counted
-- anew from all its evidence.
{{ config(unique_key='edge_id') }}

with fresh as (
    select
        evidence.*,
        md5(concat_ws('|', left_type, left_value, right_type, right_value)) as edge_id
    from {{ ref('identity_evidence') }} as evidence
    where {{ is_new() }}
),

{% if is_incremental() -%}
changed as (
    select distinct edge_id, left_type, left_value, right_type, right_value from fresh where _is_revision
),

counted as (
    select evidence.*, changed.edge_id, false as is_addition
    from {{ ref('identity_evidence') }} as evidence
    inner join changed
        on changed.left_type = evidence.left_type and changed.left_value = evidence.left_value
        and changed.right_type = evidence.right_type and changed.right_value = evidence.right_value
    union all
    select fresh.*, true as is_addition
    from fresh
    left join changed on changed.edge_id = fresh.edge_id
    where changed.edge_id is null
),
{%- else -%}
counted as (select *, false as is_addition from fresh),
{%- endif %}

said as (
    select
        edge_id,
        left_type,
        left_value,
        right_type,
        right_value,
        is_addition,
        max(rule) as rule,  -- seen_together goes before alike
        max(case when is_current then confidence end) as confidence,
        min(case when is_current then seen_at end) as first_seen_at,
        max(case when is_current then seen_at end) as last_seen_at,
        count(case when is_current then 1 end) as record_count,
        {{ distinct_text('case when is_current then channel end') }} as sources,
        bool_or(is_current) as is_active
    from counted
    group by edge_id, left_type, left_value, right_type, right_value, is_addition
)
{%- if is_incremental() %},

known as (select * from {{ this }} where edge_id in (select edge_id from said where is_addition))
{%- endif %}

select
    said.edge_id,
    said.left_type,
    said.left_value,
    said.right_type,
    said.right_value,
    {% if is_incremental() -%}
    greatest(said.rule, known.rule) as rule,
    greatest(said.confidence, known.confidence) as confidence,
    least(said.first_seen_at, known.first_seen_at) as first_seen_at,
    greatest(said.last_seen_at, known.last_seen_at) as last_seen_at,
    said.record_count + coalesce(known.record_count, 0) as record_count,
    {{ merged_text('said.sources', 'known.sources') }} as sources,
    said.is_active or coalesce(known.is_active, false) as is_active,
    known.edge_id is not null or not said.is_addition as _is_revision,
    {%- else -%}
    said.rule,
    said.confidence,
    said.first_seen_at,
    said.last_seen_at,
    said.record_count,
    said.sources,
    said.is_active,
    true as _is_revision,
    {%- endif %}
    {{ seq() }}
from said
{%- if is_incremental() %}
left join known on known.edge_id = said.edge_id
{%- endif %}
