{# What the rules of identity say of a type (dagster_project/lib/identity/rules.yaml and the home's identity.yaml). #}
{% macro identifier_type(name) -%}
    {%- set types = var('identifier_types', none) -%}
    {%- if types is none -%}
        {{ exceptions.raise_compiler_error("The rules of identity are missing: run dbt as `onefold dbt …`") }}
    {%- endif -%}
    {{ return(types.get(name, types[''])) }}
{%- endmacro %}

{# How far an identifier type is trusted: 1 is the most; persons before carriers. #}
{% macro identifier_priority(type) -%}{{ return(identifier_type(type).rank) }}{%- endmacro %}

{# The types of things that people hold. #}
{% macro carrier_types() -%}
    {%- set found = [] -%}
    {%- for name, type in var('identifier_types').items() if not type.is_person -%}{%- do found.append(name) -%}{%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{# The types of entities whose values name nobody by themselves. #}
{% macro weak_types() -%}
    {%- set found = [] -%}
    {%- for entity in var('entities', {}).values() -%}
    {%- for type in entity.identifiers.values() if not identifier_type(type).alone and type not in found -%}
    {%- do found.append(type) -%}
    {%- endfor -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{# The types a+b whose parts name somebody only together. #}
{% macro types_together() -%}
    {%- set found = [] -%}
    {%- for name in var('identifier_types', {}) if '+' in name -%}{%- do found.append(name) -%}{%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{# Values that stand for nobody, in general or as values of a type, and values too long to be an identifier. #}
{% macro is_blocked(value, type=none) -%}
    {%- set patterns = var('blocked_identifier_values') + (identifier_type(type).blocked if type else []) -%}
    ({{ matches(lower_case(value), '^(' ~ patterns | join('|') ~ ')$') }}
        or length({{ value }}) > {{ var('longest_identifier') }})
{%- endmacro %}

{# Whether a column of a cleaned model holds a value that may name somebody. #}
{% macro usable_identifier(entity, column, type) -%}
    {{ column }} is not null and not {{ is_blocked(column, type) }}
    {{- ' and coalesce(is_' ~ column ~ '_valid, false)' if entity.columns.get(column) in ('email', 'phone') }}
{%- endmacro %}

{% macro node_id(type, value) -%}
    concat_ws(':', {{ type }}, {{ value }})
{%- endmacro %}

{# Whether a moment is within a span of an assignment; a record without a time belongs to the first. As comparisons of one side
   with the other, so that the engine can still join by the identifier. #}
{% macro in_span(assignments, moment) -%}
    {%- set ever, never = "cast('0001-01-01' as timestamp)", "cast('9999-12-31' as timestamp)" -%}
    coalesce({{ assignments }}.valid_from, {{ ever }}) <= coalesce({{ moment }}, {{ ever }})
    and coalesce({{ assignments }}.valid_to, {{ never }}) > coalesce({{ moment }}, {{ ever }})
{%- endmacro %}
