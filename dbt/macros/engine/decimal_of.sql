{# A double as a decimal(18, digits), rounded. Spark would round what it writes of the double, DuckDB rounds the double times a power of
   ten: 1.005 is 1.01 or 1.00. #}
{% macro decimal_of(value, digits) -%}{{ return(adapter.dispatch('decimal_of')(value, digits)) }}{%- endmacro %}

{% macro duckdb__decimal_of(value, digits) -%}cast({{ value }} as decimal(18, {{ digits }})){%- endmacro %}

{% macro spark__decimal_of(value, digits) -%}
    cast(cast(round(cast({{ value }} as double) * 1e{{ digits }}) as bigint) * 0.{{ '0' * (digits - 1) }}1 as decimal(18, {{ digits }}))
{%- endmacro %}
