{# A text in capitals, letter for letter: ß is ẞ, and what has no capital of one letter stays. #}
{% macro upper_case(value) -%}{{ return(adapter.dispatch('upper_case')(value)) }}{%- endmacro %}

{% macro duckdb__upper_case(value) -%}upper({{ value }}){%- endmacro %}

{# Only texts with letters whose capitals are several are taken apart. #}
{% macro spark__upper_case(value) -%}
    case
        when regexp_like({{ value }}, '[ŉǰΐΰևẖ-ẚὐ-ῼﬀ-ﬗ]') then array_join(transform(split(translate({{ value }}, 'ß', 'ẞ'), ''), letter ->
            case when length(upper(letter)) = 1 then upper(letter) when length(initcap(letter)) = 1 then initcap(letter) else letter end), '')
        else upper(translate({{ value }}, 'ß', 'ẞ'))
    end
{%- endmacro %}
