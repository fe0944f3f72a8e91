{# Customers whose records, identity or attributes changed since this model was last built. #}
{% macro touched_customers() -%}
    select customer_id from {{ ref('unified_touched_customers') }} where {{ is_new() }}
{%- endmacro %}

{# Incremental strategy `touched`: everything of a touched customer is replaced, also by nothing. #}
{% macro get_incremental_touched_sql(arguments) -%}
    {%- set target = arguments['target_relation'] -%}
    {%- set columns = get_quoted_csv(arguments['dest_columns'] | map(attribute='name')) -%}
    delete from {{ target }} where customer_id in ({{ touched_customers() }});
    insert into {{ target }} ({{ columns }}) select {{ columns }} from {{ arguments['temp_relation'] }}
{%- endmacro %}
