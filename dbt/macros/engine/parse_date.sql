{# A date in one of the forms that people write; day before month where both are digits and dots separate them. #}
{% macro parse_date(value) -%}{{ return(adapter.dispatch('parse_date')(value)) }}{%- endmacro %}

{% macro duckdb__parse_date(value) -%}
    cast(try_strptime({{ value }}, ['%Y-%m-%d', '%Y/%m/%d', '%Y%m%d', '%d.%m.%Y', '%Y.%m.%d', '%Y年%m月%d日',
        '%Y-%m-%d %H:%M:%S', '%Y-%m-%dT%H:%M:%S', '%Y-%m-%dT%H:%M:%SZ']) as date)
{%- endmacro %}

{% macro spark__parse_date(value) -%}
    cast(coalesce(
        try_to_timestamp({{ value }}, 'yyyy-M-d'), try_to_timestamp({{ value }}, 'yyyy/M/d'),
        try_to_timestamp({{ value }}, 'yyyyMMdd'), try_to_timestamp({{ value }}, 'd.M.yyyy'),
        try_to_timestamp({{ value }}, 'yyyy.M.d'), try_to_timestamp({{ value }}, 'yyyy年M月d日'),
        try_to_timestamp({{ value }}, 'yyyy-M-d H:m:s'), try_to_timestamp({{ value }}, 'yyyy-M-d''T''H:m:s'),
        try_to_timestamp({{ value }}, 'yyyy-M-d''T''H:m:s''Z''')) as date)
{%- endmacro %}
