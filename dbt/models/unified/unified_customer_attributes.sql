-- Grain: one attribute that one record states of a customer; a value that the record no longer states is null. Fed by every
-- cleaned model whose contract names attributes; read by unified.customers, which lets one value of each survive.
{{ config(unique_key='attribute_key', incremental_strategy='delete+insert') }}

with touched as (
    select source_table, record_id, customer_id from {{ ref('identity_records') }} where {{ is_new() }}
),

stated as (
    {% set statements = [] -%}
    {%- for table, entity in var('entities', {}).items() if entity.attributes -%}
    {%- for attribute, column in entity.attributes.items() -%}
    {%- do statements.append([table, attribute, column, time_of(entity, latest=true)]) -%}
    {%- endfor -%}
    {%- endfor -%}
    {%- for table, attribute, column, observed_at in statements %}
    select
        '{{ table }}' as source_table,
        records.record_id,
        touched.customer_id,
        '{{ attribute }}' as attribute,
        cast(records.{{ column }} as string) as value,
        {{ observed_at }} as observed_at
    from {{ ref('cleaned_' ~ table) }} as records
    inner join touched on touched.source_table = '{{ table }}' and touched.record_id = records.record_id
    {{ 'union all' if not loop.last }}
    {%- endfor %}
)

select
    md5(concat_ws('|', source_table, record_id, attribute)) as attribute_key,
    customer_id,
    attribute,
    value,
    source_table,
    record_id,
    observed_at,
    {{ seq() }}
from stated
