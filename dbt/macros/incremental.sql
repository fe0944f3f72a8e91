{# What is new: each row carries `_seq`, the number of the write that last changed it. A model has consumed every row
   whose number is not above the greatest of its own. #}

{# Condition on rows that this model has not consumed; true for all of them on a full build. #}
{% macro is_new(alias=none) -%}
    {%- if is_incremental() -%}{{ alias ~ '.' if alias }}_seq > {{ cursor() }}{%- else -%}1 = 1{%- endif -%}
{%- endmacro %}

{% macro seq() -%}
    cast({{ var('seq', 0) }} as bigint) as _seq
{%- endmacro %}

{# Column `_is_revision`: whether models downstream may know an earlier row of the same key. Most rows are new, and what is
   new needs no search through history; so every model asks history only about revisions. A full build cannot tell. #}
{% macro revision(condition) -%}
    {{ condition if is_incremental() else 'true' }} as _is_revision
{%- endmacro %}

{# Incremental strategy `revised`: new rows are appended, revisions replace the row of their key. #}
{% macro get_incremental_revised_sql(arguments) -%}
    {%- set key, fresh = arguments['unique_key'], arguments['temp_relation'] -%}
    {{ with_fresh_rows(arguments, key ~ ' in (select ' ~ key ~ ' from ' ~ fresh ~ ' where _is_revision)') }}
{%- endmacro %}

{# SQL of an incremental strategy: all rows that were worked out, in place of those of a condition. #}
{% macro with_fresh_rows(arguments, doomed, unless_kept=none) -%}
    {%- set columns = arguments['dest_columns'] | map(attribute='name') | list -%}
    {{ replace_rows(arguments['target_relation'], columns, doomed, 'select * from ' ~ arguments['temp_relation'], unless_kept) }}
{%- endmacro %}

{# The earliest moment that a query gives, as a literal: the engine passes over all parts of a table that are older, and joins
   what is left in the right order, which a subquery in this place would hide from it. Long ago where nothing can be asked:
   when models are only compiled, and in unit tests. #}
{% macro earliest(query) -%}
    {%- set moment = '1900-01-01 00:00:00' -%}
    {%- if execute and flags.INTROSPECT and model.resource_type != 'unit_test' -%}
        {%- set found = run_query(query).columns[0].values()[0] -%}
        {%- set moment = '9999-12-31 00:00:00' if found is none else found -%}
    {%- endif -%}
    cast('{{ moment }}' as timestamp)
{%- endmacro %}

{# Rows of a full build in the order of time, as later ones come by themselves: the engine passes over what is older than it needs. #}
{% macro in_time_order(time, key) -%}
    {%- if not is_incremental() -%}order by {{ time }} nulls first, {{ key }}{%- endif -%}
{%- endmacro %}

{# The moment that stands for now, UTC. Models never read the clock. #}
{% macro as_of() -%}
    cast('{{ var("as_of", "1970-01-01 00:00:00") }}' as timestamp)
{%- endmacro %}

{# Data tests judge the rows that were written since `tested_from`; 0, the default, is all of them. Overrides dbt's own. #}
{% macro get_where_subquery(relation) -%}
    {%- set node = graph.nodes.get(model.attached_node) if execute -%}
    {%- if node and var('tested_from', 0) and node.config.materialized == 'incremental'
        and not config.get('where') -%}
        {{ return('(select * from ' ~ relation ~ ' where ' ~ is_untested() ~ ') as untested') }}
    {%- endif -%}
    {{ return(adapter.dispatch('get_where_subquery', 'dbt')(relation)) }}
{%- endmacro %}

{% macro is_untested(alias=none) -%}
    {{ alias ~ '.' if alias }}_seq > {{ var('tested_from', 0) }}
{%- endmacro %}
