{# What reports of all kinds work out. #}

{# A ratio of two numbers as a double; null where there is nothing to divide by. #}
{% macro ratio(part, whole) -%}
    cast({{ part }} as double) / cast(nullif({{ whole }}, 0) as double)
{%- endmacro %}

{# Aggregate of an amount that is null where one of its parts is not known. #}
{% macro known_sum(amount) -%}
    case when count(*) = count({{ amount }}) then sum({{ amount }}) end
{%- endmacro %}
