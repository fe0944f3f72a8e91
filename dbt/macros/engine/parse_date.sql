{# A date in one of the forms that people write; day before month where both are digits and dots separate them. #}
{% macro parse_date(value) -%}{{ return(adapter.dispatch('parse_date')(value)) }}{%- endmacro %}

{% macro duckdb__parse_date(value) -%}
    cast(try_strptime({{ value }}, ['%Y-%m-%d', '%Y/%m/%d', '%Y%m%d', '%d.%m.%Y', '%Y.%m.%d', '%Y年%m月%d日',
        '%Y-%m-%d %H:%M:%S', '%Y-%m-%dT%H:%M:%S', '%Y-%m-%dT%H:%M:%SZ']) as date)
{%- endmacro %}

{# By its own patterns, as Spark's take two or four digits for a year, and no one digit after two without a sign between. #}
{% macro spark__parse_date(value) -%}
    {%- set day, year, time = '([0-9]{1,2})', '([0-9]{1,4})', '([01]?[0-9]|2[0-3]):[0-5]?[0-9]:[0-5]?[0-9]' -%}
    {%- set blank = '[ \\x09-\\x0d]' -%}
    {%- set forms = [
        (year ~ '-' ~ day ~ '-' ~ day ~ '(' ~ blank ~ '+' ~ time ~ '|T' ~ time ~ 'Z?)?', 1, 2, 3),
        (year ~ '/' ~ day ~ '/' ~ day, 1, 2, 3),
        ('([0-9]{4})([0-9]{2})([0-9]{1,2})', 1, 2, 3),
        (day ~ '[.]' ~ day ~ '[.]' ~ year, 3, 2, 1),
        (year ~ '[.]' ~ day ~ '[.]' ~ day, 1, 2, 3),
        (year ~ '年' ~ day ~ '月' ~ day ~ '日', 1, 2, 3),
    ] -%}
    coalesce(
        {%- for form, year_at, month_at, day_at in forms %}
        {%- set form = pattern('^' ~ blank ~ '*' ~ form ~ blank ~ '*$') %}
        make_date(
            {%- for place in (year_at, month_at, day_at) -%}
            cast(nullif(regexp_extract({{ value }}, {{ form }}, {{ place }}), '') as int){{ ', ' if not loop.last }}
            {%- endfor -%}
        ){{ ',' if not loop.last }}
        {%- endfor %}
    )
{%- endmacro %}
