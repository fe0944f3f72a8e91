{# Microseconds since 1970 of a UTC timestamp. #}
{% macro epoch_micros(value) -%}{{ return(adapter.dispatch('epoch_micros')(value)) }}{%- endmacro %}

{% macro duckdb__epoch_micros(value) -%}epoch_us(cast({{ value }} as timestamp)){%- endmacro %}

{% macro spark__epoch_micros(value) -%}unix_micros(cast({{ value }} as timestamp)){%- endmacro %}
