{# The columns of every tag model: one row a customer who has the tag; who has too little evidence has none. #}
{% macro tag(name, value, number_value='null', confidence='null') -%}
    customer_id,
    '{{ name }}' as tag,
    cast({{ value }} as string) as value,
    cast({{ number_value }} as double) as number_value,
    cast({{ confidence }} as double) as confidence,
    {{ as_of() }} as computed_at
{%- endmacro %}

{# One of five groups by percent rank; equal values share a group. 5 is the greatest. #}
{% macro quintile(expression) -%}
    cast(least(floor(percent_rank() over (order by {{ expression }}) * 5) + 1, 5) as bigint)
{%- endmacro %}

{# What a customer does, as against what is done to them. #}
{% macro is_own_act(event_name) -%}
    {{ event_name }} not in (
        'email_sent', 'email_delivered', 'email_bounced', 'sms_sent', 'sms_delivered', 'sms_bounced',
        'message_sent', 'call_made', 'order_cancelled', 'order_refunded')
{%- endmacro %}

{% macro is_purchase(event_name) -%}
    {{ event_name }} in ('order_placed', 'store_purchase')
{%- endmacro %}

{# Whether a time lies in the last days before as_of. #}
{% macro within_days(column, days) -%}
    {{ column }} > {{ dbt.dateadd('day', -days, as_of()) }} and {{ column }} <= {{ as_of() }}
{%- endmacro %}

{# What a tag's YAML says of it; every tag has owner, kind and both display names. #}
{% macro tag_meta(model) -%}
    {%- if not execute -%}{{ return({}) }}{%- endif -%}
    {%- set node = graph.nodes['model.onefold.' ~ model] -%}
    {%- for key in ['owner', 'kind', 'display_name_en', 'display_name_zh'] if key not in node.config.meta -%}
        {{ exceptions.raise_compiler_error(model ~ ": its YAML needs config.meta." ~ key) }}
    {%- endfor -%}
    {{ return(dict(node.config.meta, description=node.description)) }}
{%- endmacro %}
