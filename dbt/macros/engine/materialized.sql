{# Written before a CTE's parenthesis: it is planned and worked out by itself. DuckDB otherwise takes a long chain of CTEs that
   are each read once as one query, and its planner's time doubles with each window. #}
{% macro materialized() -%}{{ return(adapter.dispatch('materialized')()) }}{%- endmacro %}

{% macro duckdb__materialized() -%}materialized{%- endmacro %}

{% macro spark__materialized() -%}{%- endmacro %}
