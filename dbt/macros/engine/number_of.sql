{# A number that somebody wrote, as a double; null where a text is none. #}
{% macro number_of(value) -%}{{ return(adapter.dispatch('number_of')(value)) }}{%- endmacro %}

{% macro duckdb__number_of(value) -%}try_cast({{ value }} as double){%- endmacro %}

{# Spark alone would take 5d and 5f, and not 1_000. #}
{% macro spark__number_of(value) -%}
    case
        when not {{ matches(value, '[0-9.][dDfF][ \\x09-\\x0d]*$') }}
            then try_cast(regexp_replace({{ value }}, '(?<=[0-9])_(?=[0-9])', '') as double)
    end
{%- endmacro %}
