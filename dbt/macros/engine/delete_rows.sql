{# SQL that takes the rows of a condition out of this model's table; for hooks. #}
{% macro delete_rows(doomed) -%}{{ return(adapter.dispatch('delete_rows')(doomed)) }}{%- endmacro %}

{% macro duckdb__delete_rows(doomed) -%}delete from {{ this }} as known where {{ doomed }}{%- endmacro %}

{# A hook is one statement: the parts that hold such rows are written anew, to be noted with what its model does. Nothing where
   there are none. #}
{% macro spark__delete_rows(doomed) -%}
    {%- if execute -%}
    {%- set parts = parts_with(this, doomed) -%}
    {%- if parts -%}
    {%- set draft, listed = adapter.draft(this, parts), adapter.get_columns_in_relation(this) | map(attribute='name') | join(', ') -%}
    {%- do run_query('create table ' ~ draft.name ~ ' using parquet partitioned by (_seq) location \'' ~ draft.location ~ '\' as select '
        ~ listed ~ ' from ' ~ this ~ ' as known where _seq in (' ~ parts | join(', ') ~ ') and not coalesce(' ~ doomed ~ ', false)') -%}
    {%- do adapter.take_draft(this) -%}
    {%- endif -%}
    {%- endif -%}
{%- endmacro %}
