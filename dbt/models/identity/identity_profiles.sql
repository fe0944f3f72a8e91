-- Grain: one record that describes a person by a name, with the most trusted usable identifier on it. Fed by every cleaned model
-- whose contract names a first, last or full name among its attributes; read by the matching.
{{ config(unique_key='profile_id') }}

{%- set attributes = ['first_name', 'last_name', 'full_name', 'gender', 'birth_date', 'address', 'postal_code', 'city', 'region',
    'country', 'document'] %}
{%- set described = [] %}
{%- for table, entity in var('entities', {}).items() %}
{%- if entity.identifiers and (entity.attributes.get('full_name') or entity.attributes.get('first_name') or entity.attributes.get('last_name')) %}
{%- do described.append(table) %}
{%- endif %}
{%- endfor %}
{%- for table in described %}
{%- set entity = var('entities')[table] %}
{%- set columns = entity.identifiers.items() | list %}
{#- The column of each kind of identifier that counts, the most trusted first. #}
{%- set ranked = [] %}
{%- for column, type in columns if identifier_type(type).alone %}{% do ranked.append([identifier_priority(type), column, type]) %}{% endfor %}
select
    concat_ws(':', '{{ table }}', record_id) as profile_id,
    {%- for attribute in attributes %}
    cast({{ entity.attributes.get(attribute) or 'null' }} as {{ 'date' if attribute == 'birth_date' else 'string' }}) as {{ attribute }},
    {%- endfor %}
    {%- for kind in ('email', 'phone') %}
    coalesce(
        {%- for column, type in columns if type == kind %}
        case when coalesce(is_{{ column }}_valid, false) and not {{ is_blocked(column, type) }} then {{ column }} end,
        {%- endfor %}
        cast(null as string)) as {{ kind }},
    {%- endfor %}
    case
        {%- for _, column, type in ranked | sort %}
        when {{ usable_identifier(entity, column, type) }} then '{{ type }}'
        {%- endfor %}
        else cast(null as string)
    end as identifier_type,
    case
        {%- for _, column, type in ranked | sort %}
        when {{ usable_identifier(entity, column, type) }} then {{ column }}
        {%- endfor %}
        else cast(null as string)
    end as identifier_value,
    {{ 'not coalesce(is_deleted, false)' if 'is_deleted' in entity.columns else 'true' }} as is_current,
    _is_revision,
    {{ seq() }}
from {{ ref('cleaned_' ~ table) }}
where {{ is_new() }}
{{ 'union all' if not loop.last }}
{%- else %}
select
    cast(null as string) as profile_id,
    {%- for attribute in attributes %}
    cast(null as {{ 'date' if attribute == 'birth_date' else 'string' }}) as {{ attribute }},
    {%- endfor %}
    cast(null as string) as email, cast(null as string) as phone,
    cast(null as string) as identifier_type, cast(null as string) as identifier_value,
    false as is_current, false as _is_revision, {{ seq() }}
where 1 = 0
{%- endfor %}
