{# What the models of audiences that are made from YAML call; see dagster_project/lib/audiences/sql.py. #}

{# Who allows a purpose: on some channel or, if one is given, on that one. A channel's own grant counts unless a later statement
   for all channels takes it back; a grant for all channels counts for one unless a later statement for that one does. #}
{% macro consenting(purpose, channel=none) -%}
    select distinct own.customer_id
    from {{ ref('unified_consents') }} as own
    left join {{ ref('unified_consents') }} as later
        on later.customer_id = own.customer_id and later.purpose = own.purpose
        and later.channel in ('any'{{ ", '" ~ channel ~ "'" if channel }})
        and later.status <> 'granted' and later.as_of >= own.as_of
    where own.purpose = '{{ purpose }}' and own.status = 'granted' and later.customer_id is null
        {{- " and own.channel in ('any', '" ~ channel ~ "')" if channel }}
{%- endmacro %}

{# The number of a funnel's step by its name or number, in the funnels of this home. #}
{% macro funnel_step(funnel, named) -%}
    {%- set names = var('funnels', {}).get(funnel, {}).get('steps', []) | map(attribute='name') | list -%}
    {{ names.index(named) + 1 if named in names else named }}
{%- endmacro %}

{% macro days_ago(days) -%}
    {{ dbt.dateadd('day', -days, as_of()) }}
{%- endmacro %}

{# The date of so many years before today. #}
{% macro years_ago(years) -%}
    cast({{ dbt.dateadd('year', -years, as_of()) }} as date)
{%- endmacro %}

{% macro long_ago() -%}
    cast('1900-01-01 00:00:00' as timestamp)
{%- endmacro %}
