-- Grain: one tag. What it means, who owns it, the share of known customers that has it, how that moved in a week, and whether
-- anybody uses it. Fed by the tag models' YAML and tags.customer_tags; read by BI and the console.
{{ config(materialized='table', pre_hook='{{ drop_retired_tags() }}') }}

with described as (
    {% for model in var('tag_models', []) %}
    {%- set meta = tag_meta(model) %}
    {%- set audiences = audiences_of(model) %}
    select
        '{{ model.removeprefix('tags_') }}' as tag,
        '{{ meta.display_name_en | replace("'", "''") }}' as display_name_en,
        '{{ meta.display_name_zh }}' as display_name_zh,
        '{{ meta.kind }}' as kind,
        '{{ meta.owner }}' as owner,
        '{{ meta.description | replace("'", "''") }}' as description,
        '{{ meta.description_zh | replace("'", "''") }}' as description_zh,
        {{ meta.version or 1 }} as version,
        '{{ meta.sensitivity }}' as sensitivity,
        '{{ meta.refresh }}' as cadence,
        {{ meta.retention_days or 0 }} as retention_days,
        {{ audiences | length }} as audience_count
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

known as (select count(*) as customer_count from {{ ref('unified_customers') }} where is_known),

had as (
    select tags.tag, tags.value, count(*) as customer_count, max(tags.computed_at) as computed_at
    from {{ ref('tags_customer_tags') }} as tags
    inner join {{ ref('unified_customers') }} as customers on customers.customer_id = tags.customer_id
    where customers.is_known
    group by tags.tag, tags.value
),

counted as (
    select
        tag,
        sum(customer_count) as customer_count,
        count(*) as value_count,
        max(case when place = 1 then value end) as commonest_value,
        max(customer_count) as commonest_count,
        max(computed_at) as computed_at
    from (select *, row_number() over (partition by tag order by customer_count desc, value) as place from had) as ranked
    group by tag
),

-- The distribution of at least a week before: the share of known customers with each value, and without the tag.
measured as (
    select tag, value, cast(customer_count as double) / known_customer_count as share
    from {{ ref('tags_distribution') }}
    where measured_on = (
        select max(measured_on) from {{ ref('tags_distribution') }}
        where measured_on <= cast({{ dbt.dateadd('day', -7, as_of()) }} as date)
    )
),

moved as (
    select
        coalesce(had.tag, measured.tag) as tag,
        {{ decimal_of('coalesce(cast(had.customer_count as double) / known.customer_count, 0) - coalesce(measured.share, 0)', 12) }}
            as difference
    from had
    full outer join measured on measured.tag = had.tag and measured.value = had.value
    cross join known
    where coalesce(had.tag, measured.tag) in (select tag from measured)
),

-- Of decimals, as a sum of doubles depends on the order of rows.
drifted as (
    select tag, cast(sum(abs(difference)) + abs(sum(difference)) as double) / 2 as drift from moved group by tag
)

select
    described.tag,
    described.display_name_en,
    described.display_name_zh,
    described.kind,
    described.owner,
    described.description,
    cast(coalesce(counted.customer_count, 0) as bigint) as customer_count,
    cast(coalesce(counted.value_count, 0) as bigint) as value_count,
    cast(known.customer_count as bigint) as known_customer_count,
    cast(coalesce(counted.customer_count, 0) as double) / nullif(known.customer_count, 0) as coverage,
    cast(described.version as bigint) as version,
    described.sensitivity,
    cast(described.retention_days as bigint) as retention_days,
    counted.commonest_value,
    cast(counted.commonest_count as double) / counted.customer_count as commonest_share,
    drifted.drift,
    counted.computed_at,
    cast(described.audience_count as bigint) as audience_count,
    described.audience_count = 0 as is_unused,
    described.cadence,
    described.description_zh
from described
cross join known
left join counted on counted.tag = described.tag
left join drifted on drifted.tag = described.tag
