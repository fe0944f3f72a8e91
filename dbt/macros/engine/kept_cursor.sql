{# SQL after replace_rows: a table in which nothing was written still moves its cursor on, by the stamp of one row. #}
{% macro kept_cursor(target, key) -%}{{ return(adapter.dispatch('kept_cursor')(target, key)) }}{%- endmacro %}

{% macro duckdb__kept_cursor(target, key) -%}
    ;
    update {{ target }} set _seq = {{ var('seq', 0) }}
    where {{ key }} = (select min({{ key }}) from {{ target }}) and {{ cursor() }} < {{ var('seq', 0) }}
{%- endmacro %}

{# The cursor is noted there. #}
{% macro spark__kept_cursor(target, key) -%}{%- endmacro %}
