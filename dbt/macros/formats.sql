{# One form for each kind of value. Each returns null for what cannot be normalised; the model keeps it as it came beside. #}

{# Lower case, trimmed, of a form that mail servers accept (RFC 5322's unquoted form, with a top-level domain). #}
{% macro email(value) -%}
    case when {{ matches(lower_case('trim(' ~ value ~ ')'), "^[a-z0-9.!#$%&*+/=?^_`{|}~-]+@([a-z0-9-]+[.])+[a-z]{2,}$") }}
        then {{ lower_case('trim(' ~ value ~ ')') }} end
{%- endmacro %}

{# E.164. Chinese mobiles are certain by their form; other spellings were parsed by libphonenumber when they were ingested,
   and `staged` carries the result beside the column. #}
{% macro phone(column) -%}
    {%- set country = '([+]86|86)?' if var('default_region', 'CN') == 'CN' else '[+]86' -%}
    case when {{ matches(column, '^' ~ country ~ chinese_mobile() ~ '$') }} then concat_ws('', '+86', right({{ column }}, 11))
        else {{ column }}_e164 end
{%- endmacro %}

{# Number ranges that libphonenumber calls valid throughout; a range missing here only takes the slower way. #}
{% macro chinese_mobile() -%}
    {{ return('(13[0-9]|15[0-35-9]|18[0-9]|19[0-35-9])[0-9]{8}') }}
{%- endmacro %}

{# Three columns of a value: its one form (null: unusable), as it came, and whether it was valid (null: nothing given). #}
{% macro normal(column, form) -%}
    {{ form }} as {{ column }},
    {{ column }} as {{ column }}_given,
    case when {{ column }} is not null then ({{ form }}) is not null end as is_{{ column }}_valid
{%- endmacro %}

{% macro contact(column, kind) -%}
    {{ normal(column, email(column) if kind == 'email' else phone(column)) }}
{%- endmacro %}

{# Three columns of a value whose row says what it is: its type, its one form (null: unusable), and as it came. #}
{% macro named_identifier(type, value) -%}
    {{ lower_case('trim(' ~ type ~ ')') }} as {{ type }},
    case {{ lower_case('trim(' ~ type ~ ')') }}
        when 'email' then {{ email(value) }}
        when 'phone' then {{ phone(value) }}
        else trim({{ value }})
    end as {{ value }},
    {{ value }} as {{ value }}_given
{%- endmacro %}

{# An account on a network: platform:handle, without the @ and without regard to case. #}
{% macro social_handle(platform, handle) -%}
    {%- set name = replace_all(lower_case('trim(' ~ handle ~ ')'), '^[@＠]+', '') -%}
    case when {{ name }} <> '' then concat_ws(':', {{ lower_case('trim(' ~ platform ~ ')') }}, {{ name }}) end
{%- endmacro %}

{# White space folded; names in Latin letters get capitals where they came all in one case. Chinese names lose inner spaces. #}
{% macro person_name(value) -%}
    case
        when {{ matches(value, '[一-鿿]') }} then {{ replace_all(value, '[ 　·]+', '') }}
        when {{ value }} = {{ upper_case(value) }} or {{ value }} = {{ lower_case(value) }}
            then {{ title_case(replace_all('trim(' ~ value ~ ')', ' +', ' ')) }}
        else {{ replace_all('trim(' ~ value ~ ')', ' +', ' ') }}
    end
{%- endmacro %}

{# 1 and 2 are the codes of ISO/IEC 5218, which GB/T 2261.1 and WeChat share. #}
{% macro gender(value) -%}
    case
        when {{ lower_case('trim(' ~ value ~ ')') }} in ('f', 'female', 'w', 'woman', '2', '女', '女性', '女士', 'mrs', 'ms') then 'female'
        when {{ lower_case('trim(' ~ value ~ ')') }} in ('m', 'male', 'man', '1', '男', '男性', '先生', 'mr') then 'male'
        when {{ lower_case('trim(' ~ value ~ ')') }} in ('other', 'x', 'diverse', 'nonbinary', 'non-binary', '其他') then 'other'
    end
{%- endmacro %}

{# A date of birth that a living person can have at `as_of`: not in the future, at most 120 years back. #}
{% macro birth_date(value) -%}
    case
        when {{ parse_date(value) }} between {{ dbt.dateadd('year', -120, as_of()) }} and {{ as_of() }}
            then {{ parse_date(value) }}
    end
{%- endmacro %}

{# ISO 3166-1 alpha-2, by code or by name in English or Chinese. #}
{% macro country(value) -%}
    (select max(countries.country_code) from {{ ref('countries') }} as countries
     where countries.name = {{ lower_case('trim(' ~ value ~ ')') }})
{%- endmacro %}

{% macro currency(value) -%}
    {{ upper_case('trim(' ~ value ~ ')') }}
{%- endmacro %}

{# An amount at the rate of its day; null where the day has none. Needs the join of `rates`. #}
{% macro in_base_currency(amount, currency) -%}
    cast(case
        when {{ currency }} = '{{ var("base_currency", "CNY") }}' then {{ amount }}
        else {{ amount }} * rates.rate_to_base
    end as decimal(18, 4))
{%- endmacro %}

{% macro join_rates(relation, currency, at) -%}
    left join {{ ref('cleaned_external_fx_rates') }} as rates
        on rates.currency = {{ upper_case('trim(' ~ relation ~ '.' ~ currency ~ ')') }}
        and cast({{ relation }}.{{ at }} as date) >= rates.valid_from
        and cast({{ relation }}.{{ at }} as date) < rates.valid_to
{%- endmacro %}
