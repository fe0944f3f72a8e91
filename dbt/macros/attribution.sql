{# The models of analytics.attribution, which share out each conversion by itself. #}
{% macro attribution_models() -%}
    {{ return(['first', 'last', 'last_non_direct', 'linear', 'position', 'time_decay', 'shapley']) }}
{%- endmacro %}

{# Conversions that have to be worked out anew although their customer may be none or untouched: the event changed, or a line
   of it (another product or cost). #}
{% macro changed_conversions() -%}
    select event_id from {{ ref('unified_customer_events') }} where {{ is_new() }}
    union
    select event_id from {{ ref('unified_purchases') }} where {{ is_new() }}
{%- endmacro %}

{# Whether a conversion has to be worked out: its customer was touched, or it changed. #}
{% macro is_conversion_due(key) -%}
    (customer_id in ({{ touched_customers() }}) or {{ key }} in ({{ changed_conversions() }}))
{%- endmacro %}

{# Incremental strategy `conversions`: everything of a touched customer and of a changed conversion is replaced, also by nothing. #}
{% macro get_incremental_conversions_sql(arguments) -%}
    {{ replace_changed(arguments, is_conversion_due('conversion_id')) }}
{%- endmacro %}

{# A share of a whole, rounded. The division is of doubles, as engines give decimals different scales. #}
{% macro share_of(whole, weight, total, digits) -%}
    {{ decimal_of('cast(' ~ whole ~ ' as double) * cast(' ~ weight ~ ' as double) / cast(' ~ total ~ ' as double)', digits) }}
{%- endmacro %}

{# A rounded share; the row that takes the rest gets what the others leave, so that nothing of the whole is lost. #}
{% macro with_rest(share, whole, takes_rest, partition, digits) -%}
    cast(case
        when {{ takes_rest }} then {{ whole }} - sum({{ share }}) over (partition by {{ partition }}) + {{ share }}
        else {{ share }}
    end as decimal(18, {{ digits }}))
{%- endmacro %}
