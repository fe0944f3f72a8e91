{# Whether a regular expression (see `pattern`) is found in a text. #}
{% macro matches(value, expression) -%}{{ return(adapter.dispatch('matches')(value, expression)) }}{%- endmacro %}

{% macro duckdb__matches(value, expression) -%}regexp_matches({{ value }}, {{ pattern(expression) }}){%- endmacro %}

{% macro spark__matches(value, expression) -%}regexp_like({{ value }}, {{ pattern(expression) }}){%- endmacro %}
