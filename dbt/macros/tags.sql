{# The columns of every tag model: one row a customer who has the tag; who has too little evidence has none. #}
{% macro tag(name, value, number_value='null', confidence='null') -%}
    {%- if not execute -%}{% do ref('unified_touched_customers') %}{% do ref('unified_customers') %}{%- endif -%}
    customer_id,
    '{{ name }}' as tag,
    cast({{ value }} as string) as value,
    cast({{ number_value }} as double) as number_value,
    cast({{ confidence }} as double) as confidence,
    {{ as_of() }} as computed_at,
    {{ seq() }}
{%- endmacro %}

{# One of five groups by percent rank; equal values share a group. 5 is the greatest. #}
{% macro quintile(expression) -%}
    cast(least(floor(percent_rank() over (order by {{ expression }}) * 5) + 1, 5) as bigint)
{%- endmacro %}

{# One row: the least value of each band of some measures, as cut on the day, in columns <measure>_<band>. #}
{% macro cut_points(measures, bands) -%}
    select
        {%- for measure in measures %}{% for band in bands %}
        max(case when measure = '{{ measure }}' and band = {{ band }} then least_value end) as {{ measure }}_{{ band }}
        {{- ',' if not loop.last }}{% endfor %}{{ ',' if not loop.last }}{% endfor %}
    from {{ ref('tags_cut_points') }}
    where computed_on = cast({{ as_of() }} as date)
{%- endmacro %}

{# The greatest band whose least value is reached, else 1. Needs the row of `cut_points` as `cuts`. #}
{% macro band_of(value, measure, bands) -%}
    case {% for band in bands | reverse %}when {{ value }} >= cuts.{{ measure }}_{{ band }} then {{ band }} {% endfor %}else 1 end
{%- endmacro %}

{# What a customer does, as against what is done to them and what bots, staff and tests do; of unified.customer_events. #}
{% macro is_own_act(event_name) -%}
    ({{ event_name }} not in ('{{ var('done_to_customers') | join("', '") }}') and {{ is_customer_traffic() }})
{%- endmacro %}

{% macro is_purchase(event_name) -%}
    {{ event_name }} in ('order_placed', 'store_purchase')
{%- endmacro %}

{# Purchases of each customer in the last year: the latest, how many, and for how much. #}
{% macro bought_in_a_year(events) -%}
    select
        customer_id,
        max(occurred_at) as last_order_at,
        count(*) as orders,
        cast(coalesce(sum(amount_base), 0) as decimal(18, 4)) as spend
    from {{ events }}
    where customer_id is not null and {{ is_purchase('event_name') }} and {{ within_days('occurred_at', 365) }}
    group by customer_id
{%- endmacro %}

{% macro days_since_1970(value) -%}
    {{ dbt.datediff("cast('1970-01-01' as date)", value, 'day') }}
{%- endmacro %}

{# Whether a time lies in the last days before as_of. #}
{% macro within_days(column, days) -%}
    {{ column }} > {{ dbt.dateadd('day', -days, as_of()) }} and {{ column }} <= {{ as_of() }}
{%- endmacro %}

{# What a tag's YAML says of it, with what is so where it says nothing; every tag has owner, kind and both display names. #}
{% macro tag_meta(model) -%}
    {%- if not execute -%}{{ return({}) }}{%- endif -%}
    {%- set node = graph.nodes['model.onefold.' ~ model] -%}
    {%- set meta = node.config.meta -%}
    {%- for key in ['owner', 'kind', 'display_name_en', 'display_name_zh'] if key not in meta -%}
        {{ exceptions.raise_compiler_error(model ~ ": its YAML needs config.meta." ~ key) }}
    {%- endfor -%}
    {%- for key, values in {'sensitivity': ['normal', 'restricted'], 'refresh': ['continuous', 'daily']}.items()
        if meta.get(key, values[0]) not in values -%}
        {{ exceptions.raise_compiler_error(model ~ ": config.meta." ~ key ~ " is " ~ values | join(" or ") ~ ", not " ~ meta[key]) }}
    {%- endfor -%}
    {%- set usual = {'description_zh': '', 'version': 1, 'sensitivity': 'normal', 'refresh': 'continuous', 'retention_days': 730} -%}
    {{ return(dict(usual, **dict(meta, description=node.description))) }}
{%- endmacro %}

{# The audiences that are made from a tag: by its own model, or by its name among all tags. #}
{% macro audiences_of(model) -%}
    {%- if not execute -%}{{ return([]) }}{%- endif -%}
    {%- set found = [] -%}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.fqn[1] == 'audiences' -%}
        {%- set parents = node.depends_on.nodes -%}
        {%- if 'model.onefold.' ~ model in parents or
            ("'" ~ model.removeprefix('tags_') ~ "'" in node.raw_code
                and ('model.onefold.tags_customer_tags' in parents or 'model.onefold.tags_history' in parents)) -%}
            {%- do found.append(node.name) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{# What was worked out today is worked out again after rows were withdrawn: it was made from what never was. #}
{% macro forget_the_day(day) -%}
    {%- if var('withdrawn', false) and is_incremental() -%}
    {{ delete_rows(day ~ ' = cast(' ~ as_of() ~ ' as date)') }}
    {%- endif -%}
{%- endmacro %}

{# Values that ended longer ago than their tag keeps them, and those that ended the moment they began: they never were. #}
{% macro forget_old_values() -%}
    {%- if is_incremental() -%}
    {%- set is_old -%}
    valid_to <= valid_from or valid_to < case tag
        {%- for model in var('tag_models', []) %}
        when '{{ model.removeprefix('tags_') }}' then {{ dbt.dateadd('day', -tag_meta(model).get('retention_days', 0), as_of()) }}
        {%- endfor %}
        else {{ dbt.dateadd('day', -730, as_of()) }} end
    {%- endset -%}
    {{ delete_rows(is_old) }}
    {%- endif -%}
{%- endmacro %}

{# Tables of tags that were in the catalogue and that the project no longer has. #}
{% macro drop_retired_tags() -%}
    {%- if execute and load_relation(this) -%}
    {%- for tag in run_query('select tag from ' ~ this).columns[0].values() if 'model.onefold.tags_' ~ tag not in graph.nodes -%}
        {%- do adapter.drop_relation(this.incorporate(path={'identifier': tag}, type='table')) -%}
    {%- endfor -%}
    {%- endif -%}
{%- endmacro %}
