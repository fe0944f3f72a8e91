{# Two texts of distinct_text as one: the distinct values of both, sorted, with commas between; null where there are none. #}
{% macro merged_text(one, other) -%}{{ return(adapter.dispatch('merged_text')(one, other)) }}{%- endmacro %}

{% macro duckdb__merged_text(one, other) -%}
    nullif(array_to_string(
        list_sort(list_distinct(string_split(concat_ws(',', nullif({{ one }}, ''), nullif({{ other }}, '')), ','))), ','), '')
{%- endmacro %}

{% macro spark__merged_text(one, other) -%}
    nullif(array_join(array_sort(array_distinct(
        split(concat_ws(',', nullif({{ one }}, ''), nullif({{ other }}, '')), ','))), ','), '')
{%- endmacro %}
