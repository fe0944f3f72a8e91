{# First letter of each word upper, the rest lower; words are what is between blanks. #}
{% macro title_case(value) -%}{{ return(adapter.dispatch('title_case')(value)) }}{%- endmacro %}

{% macro duckdb__title_case(value) -%}
    array_to_string(list_transform(
        string_split(lower({{ value }}), ' '), lambda word: concat(upper(word[1]), word[2:])), ' ')
{%- endmacro %}

{% macro spark__title_case(value) -%}
    array_join(transform(
        split({{ lower_case(value) }}, ' '), word -> concat({{ upper_case('left(word, 1)') }}, substr(word, 2))), ' ')
{%- endmacro %}
