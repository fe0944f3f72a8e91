{# How tables are built on Spark. Every build writes into a folder of its own and is noted when it is done, with its hooks;
   tables that grow are partitioned by the number of the write, and of these only parts are written. #}

{% materialization table, adapter='spark', supported_languages=['sql'] %}
    {{ run_hooks(pre_hooks) }}
    {% do build_in_full(this, compiled_code) %}
    {{ run_hooks(post_hooks) }}
    {% do adapter.commit_note(this) %}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}

{% materialization view, adapter='spark', supported_languages=['sql'] %}
    {{ run_hooks(pre_hooks) }}
    {% call statement('main') %}create or replace view {{ this }} as {{ compiled_code }}{% endcall %}
    {{ run_hooks(post_hooks) }}
    {% do adapter.commit_view(this, compiled_code) %}
    {{ return({'relations': [this.incorporate(type='view')]}) }}
{% endmaterialization %}

{% materialization seed, adapter='spark' %}
    {%- set rows, given = load_agate_table(), model['config'].get('column_types', {}) -%}
    {%- do store_result('agate_table', response='OK', agate_table=rows) -%}
    {%- set columns = [] -%}
    {%- for name in rows.column_names -%}
        {%- do columns.append('cast(' ~ name ~ ' as ' ~ (given.get(name) or adapter.convert_type(rows, loop.index0)) ~ ') as ' ~ name) -%}
    {%- endfor -%}
    {%- set values -%}
    select {{ columns | join(', ') }} from values
    {%- for row in rows.rows %}
    ({% for value in row %}{{ 'null' if value is none else "'" ~ (value | string | replace('\\', '\\\\') | replace("'", "''")) ~ "'" }}{{ ', ' if not loop.last }}{% endfor %}){{ ',' if not loop.last }}
    {%- endfor %} as given ({{ rows.column_names | join(', ') }})
    {%- endset -%}
    {{ run_hooks(pre_hooks) }}
    {% do build_in_full(this, values) %}
    {{ run_hooks(post_hooks) }}
    {% do adapter.commit_note(this) %}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}

{% materialization incremental, adapter='spark', supported_languages=['sql'] %}
    {%- set existing = load_relation(this) -%}
    {{ run_hooks(pre_hooks) }}
    {% if existing is none or should_full_refresh() %}
        {% do build_in_full(this, compiled_code, grows=true) %}
    {% else %}
        {%- set fresh = api.Relation.create(schema='scratch', identifier=this.schema ~ '__' ~ this.identifier, type='table') -%}
        {% do build_in_full(fresh, compiled_code) %}
        {%- set columns = process_schema_changes(config.get('on_schema_change', 'ignore'), fresh, existing)
            or adapter.get_columns_in_relation(this) -%}
        {%- set strategy = adapter.get_incremental_strategy_macro(context, config.get('incremental_strategy') or 'default') -%}
        {% call statement('main') %}
            {{ strategy({'target_relation': this, 'temp_relation': fresh, 'unique_key': config.get('unique_key'),
                'dest_columns': columns, 'incremental_predicates': none}) }}
        {% endcall %}
        {% do adapter.take_draft(this) %}
        {% do adapter.drop_scratch(fresh) %}
    {% endif %}
    {{ run_hooks(post_hooks) }}
    {% do adapter.commit_note(this) %}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}

{% macro build_in_full(relation, query, grows=false) %}
    {% call statement('drop') %}drop table if exists {{ relation }}{% endcall %}
    {% call statement('main') %}
        create table {{ relation }} using parquet {{ 'partitioned by (_seq)' if grows }} location '{{ adapter.location(relation) }}' as
        {{ query }}
    {% endcall %}
{% endmacro %}

{# The stamps of a table's parts that hold rows of a condition. #}
{% macro parts_with(relation, doomed) %}
    {{ return(run_query('select distinct _seq from ' ~ relation ~ ' as known where ' ~ doomed).columns[0].values() | list) }}
{% endmacro %}

{% macro spark__get_incremental_append_sql(arguments) %}
    {%- set columns = arguments['dest_columns'] | map(attribute='name') | list -%}
    {{ replace_rows(arguments['target_relation'], columns, none, 'select * from ' ~ arguments['temp_relation']) }}
{% endmacro %}

{% macro spark__get_incremental_delete_insert_sql(arguments) %}
    {%- set columns, key = arguments['dest_columns'] | map(attribute='name') | list, arguments['unique_key'] -%}
    {{ replace_rows(arguments['target_relation'], columns, key ~ ' in (select ' ~ key ~ ' from ' ~ arguments['temp_relation'] ~ ')',
        'select * from ' ~ arguments['temp_relation']) }}
{% endmacro %}
