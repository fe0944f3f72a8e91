{# Whether a regular expression (RE2 and Java's common part) is found in a text. #}
{% macro matches(value, pattern) -%}{{ return(adapter.dispatch('matches')(value, pattern)) }}{%- endmacro %}

{% macro duckdb__matches(value, pattern) -%}regexp_matches({{ value }}, '{{ pattern }}'){%- endmacro %}

{% macro spark__matches(value, pattern) -%}{{ value }} rlike r'{{ pattern }}'{%- endmacro %}
