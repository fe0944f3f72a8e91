{# The month of a time or date, as its first day. #}
{% macro month_of(moment) -%}
    cast(date_trunc('month', {{ moment }}) as date)
{%- endmacro %}

{# The date some months later. #}
{% macro months_later(month, months) -%}
    cast({{ dbt.dateadd('month', months, month) }} as date)
{%- endmacro %}

{# The month that is not over yet. #}
{% macro present_month() -%}
    {{ month_of(as_of()) }}
{%- endmacro %}

{# One row for each month from the first with an active customer to the present one, those in which nothing happened as well. #}
{% macro months_until_now() -%}
    select month
    from (
        select {{ months_later('first_month', 'cast(numbers.generated_number - 1 as int)') }} as month
        from ({{ dbt.generate_series(1200) }}) as numbers
        cross join (select min(month) as first_month from {{ ref('analytics_customer_months') }}) as bounds
    ) as months
    where month <= {{ present_month() }}
{%- endmacro %}

{# Whether one month is the one before another; days are quicker to count than months. #}
{% macro is_right_before(month, later_month) -%}
    {{ dbt.datediff(month, later_month, 'day') }} <= 31
{%- endmacro %}

{# How somebody came in a month, by the last one before it in which they did: new, retained or reactivated. #}
{% macro came_as(month_before) -%}
    case
        when {{ month_before }} is null then 'new'
        when {{ is_right_before(month_before, 'month') }} then 'retained'
        else 'reactivated'
    end
{%- endmacro %}

{# What somebody does who looks for something to buy. #}
{% macro is_interest(event_name) -%}
    {{ event_name }} in (
        'searched', 'product_viewed', 'product_liked', 'product_shared', 'product_added', 'cart_viewed', 'checkout_started')
{%- endmacro %}

{# What the catalogue says of it shows an interest in its category and brand. #}
{% macro is_look(event_name) -%}
    {{ event_name }} in ('product_viewed', 'product_added', 'product_liked', 'product_shared')
{%- endmacro %}

{# Age in full years today, in the bands of Google Analytics; a birth date to come, or of more than 120 years ago, is none. #}
{% macro age_band(birth_date) -%}
    {%- set digits = "cast(replace(cast(cast(%s as date) as string), '-', '') as int)" -%}
    {%- set age = "floor(cast(" ~ digits | format(as_of()) ~ " - " ~ digits | format(birth_date) ~ " as double) / 10000)" -%}
    case
        when {{ age }} < 0 or {{ age }} > 120 then null
        when {{ age }} < 18 then 'under 18'
        {%- for least, most in [(18, 24), (25, 34), (35, 44), (45, 54), (55, 64)] %}
        when {{ age }} <= {{ most }} then '{{ least }}-{{ most }}'
        {%- endfor %}
        when {{ age }} >= 65 then '65+'
    end
{%- endmacro %}

{# What was measured today is measured again after a full refresh, a change of the project or withdrawn rows. #}
{% macro profile_anew(day) -%}
    {%- if is_incremental() and (flags.FULL_REFRESH or var('project_changed', false) or var('withdrawn', false)) -%}
    {{ delete_rows(day ~ ' = cast(' ~ as_of() ~ ' as date)') }}
    {%- endif -%}
{%- endmacro %}
