{# The greatest number of a write that this model has consumed. #}
{% macro cursor() -%}{{ return(adapter.dispatch('cursor')()) }}{%- endmacro %}

{% macro duckdb__cursor() -%}(select coalesce(max(_seq), 0) from {{ this }}){%- endmacro %}

{# Noted with the table, so that the engine reads only newer partitions of what the model reads. #}
{% macro spark__cursor() -%}{{ adapter.taken_in(this) if execute else 0 }}{%- endmacro %}
