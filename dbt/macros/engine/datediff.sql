{# dbt.datediff: how many borders of the unit lie between two moments. dbt's own form for Spark rounds seconds up to minutes and hours,
   where DuckDB counts the borders. #}
{% macro spark__datediff(first_date, second_date, datepart) -%}
    {%- if datepart == 'week' -%}
        {{ exceptions.raise_compiler_error("dbt.datediff: engines begin weeks on different days; count days from date_trunc('week', …)") }}
    {%- endif -%}
    timestampdiff({{ datepart }}, date_trunc('{{ datepart }}', {{ first_date }}), date_trunc('{{ datepart }}', {{ second_date }}))
{%- endmacro %}
