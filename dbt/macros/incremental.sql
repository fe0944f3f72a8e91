{# What is new: each row carries `_seq`, the number of the write that last changed it. A model has consumed every row
   whose number is not above the greatest of its own. #}

{% macro cursor() -%}
    (select coalesce(max(_seq), 0) from {{ this }})
{%- endmacro %}

{# Condition on rows that this model has not consumed; true for all of them on a full build. #}
{% macro is_new(alias=none) -%}
    {%- if is_incremental() -%}{{ alias ~ '.' if alias }}_seq > {{ cursor() }}{%- else -%}1 = 1{%- endif -%}
{%- endmacro %}

{% macro seq() -%}
    cast({{ var('seq', 0) }} as bigint) as _seq
{%- endmacro %}

{# The moment that stands for now, UTC. Models never read the clock. #}
{% macro as_of() -%}
    cast('{{ var("as_of", "1970-01-01 00:00:00") }}' as timestamp)
{%- endmacro %}
