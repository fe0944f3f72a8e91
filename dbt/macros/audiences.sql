{# What the models of audiences that are made from YAML call; see dagster_project/lib/audiences/sql.py. #}

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
