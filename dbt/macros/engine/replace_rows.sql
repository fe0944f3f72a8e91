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

{# Parquet tables only: parts that hold doomed rows are written anew without them, beside the old ones, which count until the table
   is noted. A column of the table that the new rows no longer have is null in them, and values are of the table's types. #}
{% macro spark__replace_rows(target, columns, doomed, fresh, unless_kept) -%}
    {%- set parts, known, given = parts_with(target, doomed) if doomed else [], [], [] -%}
    {%- for column in adapter.get_columns_in_relation(target) -%}
        {%- do known.append(column.name) -%}
        {%- do given.append('cast(' ~ (column.name if column.name in columns else 'null') ~ ' as ' ~ column.dtype ~ ') as ' ~ column.name) -%}
    {%- endfor -%}
    {%- set draft = adapter.draft(target, parts) -%}
    create table {{ draft.name }} using parquet partitioned by (_seq) location '{{ draft.location }}' as
    {%- if parts %}
    select {{ known | join(', ') }} from {{ target }} as known
    where _seq in ({{ parts | join(', ') }}) and not coalesce({{ doomed }}, false)
    union all
    {%- endif %}
    select {{ given | join(', ') }} from ({{ fresh }}) as fresh
    {%- if unless_kept and doomed %}
    where {{ unless_kept }} not in (select {{ unless_kept }} from {{ target }} as known where not coalesce({{ doomed }}, false))
    {%- elif unless_kept %}
    where {{ unless_kept }} not in (select {{ unless_kept }} from {{ target }})
    {%- endif %}
{%- endmacro %}
