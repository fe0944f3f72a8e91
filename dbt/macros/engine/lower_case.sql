{# A text in small letters, each by itself: İ is i, and a sigma at the end of a word is one like any other. #}
{% macro lower_case(value) -%}{{ return(adapter.dispatch('lower_case')(value)) }}{%- endmacro %}

{% macro duckdb__lower_case(value) -%}lower({{ value }}){%- endmacro %}

{% macro spark__lower_case(value) -%}lower(translate({{ value }}, 'İΣ', 'iσ')){%- endmacro %}
