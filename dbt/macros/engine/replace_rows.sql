{# SQL that puts the rows of a query in place of those of a condition.

   Args:
     columns: names, as the table has them.
     doomed: condition on rows of the table, as `known`; none of them goes where it is none.
     fresh: query of the new rows, each with the table's columns.
     unless_kept: a column; a fresh row whose value is still in the table then is left out. #}
{% macro replace_rows(target, columns, doomed, fresh, unless_kept=none) -%}
    {{ return(adapter.dispatch('replace_rows')(target, columns, doomed, fresh, unless_kept)) }}
{%- endmacro %}

{% macro duckdb__replace_rows(target, columns, doomed, fresh, unless_kept) -%}
    {%- set listed = columns | join(', ') -%}
    {%- if doomed -%}
    delete from {{ target }} as known where {{ doomed }};
    {% endif -%}
    insert into {{ target }} ({{ listed }})
    select {{ listed }} from ({{ fresh }}) as fresh
    {%- if unless_kept %} where {{ unless_kept }} not in (select {{ unless_kept }} from {{ target }}){% endif %}
{%- endmacro %}

{# Parquet tables only: partitions that hold doomed rows are written anew, without them; the table is open meanwhile. #}
{% macro spark__replace_rows(target, columns, doomed, fresh, unless_kept) -%}
    {%- set listed, parts = columns | join(', '), parts_with(target, doomed) if doomed else [] -%}
    insert overwrite table {{ target }} partition (_seq)
    {%- if parts %}
    select {{ listed }} from {{ target }} as known
    where _seq in ({{ parts | join(', ') }}) and not coalesce({{ doomed }}, false)
    union all
    {%- endif %}
    select {{ listed }} from ({{ fresh }}) as fresh
    {%- if unless_kept and doomed %}
    where {{ unless_kept }} not in (select {{ unless_kept }} from {{ target }} as known where not coalesce({{ doomed }}, false))
    {%- elif unless_kept %}
    where {{ unless_kept }} not in (select {{ unless_kept }} from {{ target }})
    {%- endif %}
{%- endmacro %}
