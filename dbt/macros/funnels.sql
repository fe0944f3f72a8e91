{# The steps of all funnels, one row for each event that may be one: funnel, step, event_name, and what the funnel asks.
   `first_step` is the first step of the funnel that the event may be. #}
{% macro funnel_steps() -%}
    {%- set rows = [] -%}
    {%- for name, funnel in var('funnels', {}).items() -%}
        {%- for step in funnel.steps -%}
            {%- set number = loop.index -%}
            {%- for event in step.events -%}
                {%- set firsts = [] -%}
                {%- for other in funnel.steps -%}
                    {%- if event in other.events -%}{%- do firsts.append(loop.index) -%}{%- endif -%}
                {%- endfor -%}
                {%- do rows.append(
                    "select '" ~ name ~ "' as funnel, " ~ number ~ " as step, '" ~ step.name ~ "' as step_name, '" ~ event
                    ~ "' as event_name, " ~ firsts[0] ~ " as first_step, " ~ (funnel.steps | length) ~ " as step_count, "
                    ~ funnel.window_days ~ " as window_days, " ~ ('true' if funnel.order == 'strict' else 'false') ~ " as is_strict, "
                    ~ ("'" ~ funnel.segment ~ "'" if funnel.segment else 'cast(null as string)') ~ " as segment") -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ rows | join('\n    union all\n    ') if rows else
        "select '' as funnel, 1 as step, '' as step_name, '' as event_name, 1 as first_step, 1 as step_count, 1 as window_days, "
        ~ "false as is_strict, cast(null as string) as segment where 1 = 0" }}
{%- endmacro %}

{# Whether an event of `events` has the values that its step asks for. #}
{% macro fits_step() -%}
    {%- set asked = [] -%}
    {%- for name, funnel in var('funnels', {}).items() -%}
        {%- for step in funnel.steps -%}
            {%- set number = loop.index -%}
            {%- for column, values in step.get('where', {}).items() -%}
                {%- do asked.append("(steps.funnel <> '" ~ name ~ "' or steps.step <> " ~ number ~ " or events." ~ column
                    ~ " in ('" ~ values | join("', '") ~ "'))") -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ asked | join('\n        and ') if asked else '1 = 1' }}
{%- endmacro %}

{# How many steps the longest funnel has. #}
{% macro most_funnel_steps() -%}
    {%- set counts = [2] -%}
    {%- for funnel in var('funnels', {}).values() -%}{%- do counts.append(funnel.steps | length) -%}{%- endfor -%}
    {{ return(counts | max) }}
{%- endmacro %}
