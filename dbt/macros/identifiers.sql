{# How far an identifier type is trusted: 1 is the most; persons before carriers. #}
{% macro identifier_priority(type) -%}
    {%- set persons, carriers = var('person_identifiers'), var('carrier_identifiers') -%}
    {%- if type in persons -%}{{ return(persons.index(type) + 1) }}
    {%- elif type in carriers -%}{{ return(carriers.index(type) + 101) }}
    {%- else -%}{{ return(99) }}{%- endif -%}
{%- endmacro %}


{# Values that stand for nobody, and values too long to be an identifier (1,024 characters, Segment's limit). #}
{% macro is_blocked(value) -%}
    ({{ matches('lower(' ~ value ~ ')', '^(' ~ var('blocked_identifier_values') | join('|') ~ ')$') }}
        or length({{ value }}) > 1024)
{%- endmacro %}

{% macro node_id(type, value) -%}
    concat_ws(':', {{ type }}, {{ value }})
{%- endmacro %}
