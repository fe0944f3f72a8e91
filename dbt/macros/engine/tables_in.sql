{# Names of the tables, not views, in the schema of a relation. #}
{% macro tables_in(relation) -%}{{ return(adapter.dispatch('tables_in')(relation)) }}{%- endmacro %}

{% macro duckdb__tables_in(relation) -%}
    {{ return(run_query("select table_name from information_schema.tables where table_type = 'BASE TABLE' and table_catalog = '"
        ~ relation.database ~ "' and table_schema = '" ~ relation.schema ~ "'").columns[0].values()) }}
{%- endmacro %}

{% macro spark__tables_in(relation) -%}
    {%- set tables, views = run_query('show tables in ' ~ relation.schema), run_query('show views in ' ~ relation.schema) -%}
    {{ return(tables.columns[1].values() | reject('in', views.columns[1].values()) | list) }}
{%- endmacro %}
