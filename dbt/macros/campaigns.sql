{# Condition on events of e-mail and text messages: that one of these happened, such as 'sent'. #}
{% macro is_message() -%}
    event_name in ({% for name in varargs %}'email_{{ name }}', 'sms_{{ name }}'{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}

{# When that first happened. #}
{% macro first_time() -%}
    min(case when {{ is_message(*varargs) }} then occurred_at end)
{%- endmacro %}

{# Quantile of the normal distribution that leaves 2.5% above it. #}
{% macro normal_quantile() -%}cast(1.959963984540054 as double){%- endmacro %}

{# A limit of Wilson's score interval for `count` of `total` (doubles), 95%; `sign` is - for the lower one and + for the upper. #}
{% macro wilson_limit(count, total, sign) -%}
    {%- set z = normal_quantile() -%}
    ((2 * {{ count }} + {{ z }} * {{ z }} {{ sign }} {{ z }} * sqrt({{ z }} * {{ z }} + 4 * {{ count }} * (1 - {{ count }} / {{ total }})))
        / (2 * ({{ total }} + {{ z }} * {{ z }})))
{%- endmacro %}

{# A limit of the interval for the difference of two independent rates, first less second, from the Wilson limits of both:
   method 10 of Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17, 1998.
   Lower: d - sqrt((p1 - l1)² + (u2 - p2)²); upper: d + sqrt((u1 - p1)² + (p2 - l2)²). #}
{% macro newcombe_limit(first, second, sign) -%}
    {%- set near, far = ('lower', 'upper') if sign == '-' else ('upper', 'lower') -%}
    {{ first }} - {{ second }} {{ sign }} sqrt(
        ({{ first }} - {{ first }}_{{ near }}) * ({{ first }} - {{ first }}_{{ near }})
        + ({{ second }}_{{ far }} - {{ second }}) * ({{ second }}_{{ far }} - {{ second }}))
{%- endmacro %}
