{# Every match of a regular expression replaced. #}
{% macro replace_all(value, pattern, by) -%}{{ return(adapter.dispatch('replace_all')(value, pattern, by)) }}{%- endmacro %}

{% macro duckdb__replace_all(value, pattern, by) -%}regexp_replace({{ value }}, '{{ pattern }}', '{{ by }}', 'g'){%- endmacro %}

{% macro spark__replace_all(value, pattern, by) -%}regexp_replace({{ value }}, r'{{ pattern }}', '{{ by }}'){%- endmacro %}
