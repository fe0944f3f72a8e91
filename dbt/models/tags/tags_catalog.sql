-- Grain: one tag. What it means, who owns it, and the share of known customers that has it. Fed by the tag models' YAML and
-- tags.customer_tags; read by BI and the console.
{{ config(materialized='table') }}

with described as (
    {% for model in var('tag_models', []) %}
    {%- set meta = tag_meta(model) %}
    select
        '{{ model.removeprefix('tags_') }}' as tag,
        '{{ meta.display_name_en | replace("'", "''") }}' as display_name_en,
        '{{ meta.display_name_zh }}' as display_name_zh,
        '{{ meta.kind }}' as kind,
        '{{ meta.owner }}' as owner,
        '{{ meta.description | replace("'", "''") }}' as description
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

counted as (
    select tags.tag, count(*) as customer_count, count(distinct tags.value) as value_count
    from {{ ref('tags_customer_tags') }} as tags
    inner join {{ ref('unified_customers') }} as customers on customers.customer_id = tags.customer_id
    where customers.is_known
    group by tags.tag
),

known as (select count(*) as customer_count from {{ ref('unified_customers') }} where is_known)

select
    described.*,
    coalesce(counted.customer_count, 0) as customer_count,
    coalesce(counted.value_count, 0) as value_count,
    known.customer_count as known_customer_count,
    cast(coalesce(counted.customer_count, 0) as double) / nullif(known.customer_count, 0) as coverage
from described
cross join known
left join counted on counted.tag = described.tag
