{# A top-level field of a JSON object as text; null where it is missing. #}
{% macro json_text(json, field) -%}{{ return(adapter.dispatch('json_text')(json, field)) }}{%- endmacro %}

{% macro duckdb__json_text(json, field) -%}json_extract_string({{ json }}, '$.{{ field }}'){%- endmacro %}

{% macro spark__json_text(json, field) -%}get_json_object({{ json }}, '$.{{ field }}'){%- endmacro %}
