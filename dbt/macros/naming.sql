{# One name everywhere: models/<layer>/<layer>_<table>.sql builds <layer>.<table>. #}

{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ return(custom_schema_name or (node.fqn[1] if node.resource_type == 'model' else target.schema)) }}
{%- endmacro %}

{% macro generate_alias_name(custom_alias_name=none, node=none) -%}
    {%- if custom_alias_name or node.resource_type != 'model' -%}{{ return(custom_alias_name or node.name) }}{%- endif -%}
    {%- set prefix = node.fqn[1] ~ '_' -%}
    {%- if not node.name.startswith(prefix) -%}
        {{ exceptions.raise_compiler_error(node.name ~ ' must start with ' ~ prefix) }}
    {%- endif -%}
    {{ return(node.name[prefix | length:]) }}
{%- endmacro %}
