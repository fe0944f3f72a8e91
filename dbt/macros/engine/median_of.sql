{# Aggregate: the median of numbers as a double; between two values it is half their sum. #}
{% macro median_of(value) -%}{{ return(adapter.dispatch('median_of')(value)) }}{%- endmacro %}

{% macro duckdb__median_of(value) -%}median(cast({{ value }} as double)){%- endmacro %}

{# Spark's own goes from the one towards the other, which differs in the last digit. #}
{% macro spark__median_of(value) -%}
    (percentile_disc(0.5) within group (order by cast({{ value }} as double))
        + percentile_disc(0.5) within group (order by cast({{ value }} as double) desc)) * cast(0.5 as double)
{%- endmacro %}
