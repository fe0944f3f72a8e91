{# Every match of a regular expression (see `pattern`) replaced by a text, which is taken as it is. #}
{% macro replace_all(value, expression, by) -%}{{ return(adapter.dispatch('replace_all')(value, expression, by)) }}{%- endmacro %}

{% macro duckdb__replace_all(value, expression, by) -%}
    regexp_replace({{ value }}, {{ pattern(expression) }}, '{{ by | replace('\\', '\\\\') | replace("'", "''") }}', 'g')
{%- endmacro %}

{# Java's replacement has $1 for a group; once more escaped as a literal. #}
{% macro spark__replace_all(value, expression, by) -%}
    regexp_replace({{ value }}, {{ pattern(expression) }},
        '{{ by | replace('\\', '\\\\\\\\') | replace('$', '\\\\$') | replace("'", "''") }}')
{%- endmacro %}
