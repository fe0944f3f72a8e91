{# Days by which lifecycle stages are told apart: a customer is new for so long after the first order, active and at risk for so
   long after the last. #}
{% macro stage_days(stage) -%}{{ return({'new': 30, 'active': 90, 'at_risk': 180}[stage]) }}{%- endmacro %}
