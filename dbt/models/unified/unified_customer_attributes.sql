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
),

keyed as (
    select md5(concat_ws('|', source_table, record_id, attribute)) as attribute_key, stated.* from stated
)

select
    keyed.attribute_key,
    keyed.customer_id,
    {{ 'kept.customer_id' if is_incremental() else 'cast(null as string)' }} as previous_customer_id,
    keyed.attribute,
    keyed.value,
    keyed.source_table,
    keyed.record_id,
    keyed.observed_at,
    {{ seq() }}
from keyed
{%- if is_incremental() %}
left join {{ this }} as kept on kept.attribute_key = keyed.attribute_key
{%- endif %}
