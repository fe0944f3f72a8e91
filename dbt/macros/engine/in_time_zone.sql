{# A UTC timestamp as clocks of an IANA time zone show it. #}
{% macro in_time_zone(value, zone) -%}{{ return(adapter.dispatch('in_time_zone')(value, zone)) }}{%- endmacro %}

{% macro duckdb__in_time_zone(value, zone) -%}timezone('{{ zone }}', timezone('UTC', {{ value }})){%- endmacro %}

{% macro spark__in_time_zone(value, zone) -%}from_utc_timestamp({{ value }}, '{{ zone }}'){%- endmacro %}
