{# Aggregate: the distinct values of a column as one text, sorted, with commas between; null where there are none. #}
{% macro distinct_text(column) -%}{{ return(adapter.dispatch('distinct_text')(column)) }}{%- endmacro %}

{% macro duckdb__distinct_text(column) -%}array_to_string(list_sort(list(distinct {{ column }})), ','){%- endmacro %}

{% macro spark__distinct_text(column) -%}
    case when count({{ column }}) > 0 then array_join(array_sort(collect_set({{ column }})), ',') end
{%- endmacro %}
