{# Customers whose records, identity or attributes changed since this model was last built; for analytics also those whose
   sessions others changed. A tag is worked out for everybody in the first build of a day, as some age by themselves, and after
   a change of the project. #}
{% macro touched_customers() -%}
    {%- set layer = 'analytics' if model.fqn[1] == 'analytics' else 'unified' -%}
    select customer_id from {{ ref(layer ~ '_touched_customers') }} where {{ is_new() }}
    {%- if is_incremental() %}{{ touched_besides() }}{% endif %}
    {%- if is_incremental() and model.fqn[1] == 'tags' %}
    union
    select customer_id from {{ ref('unified_customers') }}
    {%- if not var('project_changed', false) %}
    where not exists (select 1 from {{ this }} where cast(computed_at as date) = cast({{ as_of() }} as date))
    {%- endif %}
    {%- endif %}
{%- endmacro %}

{# Whom else a model of analytics has to work out, by its `meta`: `touched_by` are tables whose changed rows touch their customers,
   `touched_by_products` says that the catalogue's changed products touch whoever looked at or bought them, and `due_at` is a column
   of its own with the moment at which a customer has to be worked out by time alone. #}
{% macro touched_besides() -%}
    {%- set meta = model.config.meta if execute else {} -%}
    {%- for table in meta.get('touched_by', []) %}
    union
    select customer_id from {{ ref(table) }} where {{ is_new() }} and customer_id is not null
    {%- endfor %}
    {%- if meta.get('touched_by_products') %}
    union
    select customer_id from {{ ref('unified_customer_events') }}
    where product_id in (select product_id from {{ ref('cleaned_catalog_products') }} where {{ is_new() }}) and customer_id is not null
    {%- endif %}
    {%- if meta.get('due_at') %}
    union
    select customer_id from {{ this }} where {{ meta.due_at }} <= {{ as_of() }}
    {%- endif %}
{%- endmacro %}

{# The rows of a model whose customers have to be worked out: of those touched since the last build, of all in a full one.

   Usage: from {{ of_touched('unified_customers') }} as customers #}
{% macro of_touched(name) -%}
    {%- if not execute -%}
        {%- do ref('analytics_touched_customers' if model.fqn[1] == 'analytics' else 'unified_touched_customers') -%}
        {%- if model.fqn[1] == 'tags' -%}{%- do ref('unified_customers') -%}{%- endif -%}
    {%- endif -%}
    {%- set relation = ref(name) -%}
    {%- if is_incremental() -%}(select * from {{ relation }} where customer_id in ({{ touched_customers() }}))
    {%- else -%}{{ relation }}
    {%- endif -%}
{%- endmacro %}

{# Incremental strategy `touched`: everything of a touched customer is replaced, also by nothing. Rows of others, which a tag gives
   that does not restrict itself by `of_touched`, are left as they are. #}
{% macro get_incremental_touched_sql(arguments) -%}
    {%- set is_touched = 'customer_id in (' ~ touched_customers() ~ ')' -%}
    {%- if model.fqn[1] == 'analytics' -%}{{ replace_changed(arguments, is_touched) }}
    {%- else -%}{{ with_fresh_rows(arguments, is_touched, unless_kept='customer_id') }}
    {%- endif -%}
{%- endmacro %}

{# Incremental strategy `changed`: as `touched`, but rows that say the same as before keep their stamp. #}
{% macro get_incremental_changed_sql(arguments) -%}
    {{ replace_changed(arguments, 'customer_id in (' ~ touched_customers() ~ ')') }}
{%- endmacro %}

{# Put the new rows in place of those of a condition. Rows that say the same as before keep their stamp: what is stamped is served
   and read anew. One row, that of the least key (the first column), gets the stamp in any case, so that the cursor moves on. #}
{% macro replace_changed(arguments, condition) -%}
    {%- set target = arguments['target_relation'] -%}
    {%- set names = arguments['dest_columns'] | map(attribute='name') | list -%}
    {%- set same -%}
        {%- for name in names if name != '_seq' %}fresh.{{ name }} is not distinct from known.{{ name }}{{ ' and ' if not loop.last }}{% endfor -%}
    {%- endset -%}
    {%- set changed = 'not exists (select 1 from ' ~ arguments['temp_relation'] ~ ' as fresh where ' ~ same ~ ')' -%}
    {%- set new = 'select * from ' ~ arguments['temp_relation'] ~ ' as fresh where not exists (select 1 from ' ~ target ~ ' as known where ' ~ same ~ ')' -%}
    {{ replace_rows(target, names, condition ~ ' and ' ~ changed, new) }}{{ kept_cursor(target, names[0]) }}
{%- endmacro %}
