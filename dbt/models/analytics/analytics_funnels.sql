-- Grain: one step of a funnel, for the channel group and the segment in which its entries began; (all) stands for all of
-- them. Built whole, once a day: an aggregate, and segments and open windows move by themselves. Fed by
-- analytics.funnel_entries and tags.customer_tags; read by BI.
{{ config(materialized='table') }}

{%- for name, funnel in var('funnels', {}).items() if funnel.segment and tag_meta('tags_' ~ funnel.segment).get('sensitivity') == 'restricted' %}
    {{- exceptions.raise_compiler_error('funnels.yaml: ' ~ name ~ '.segment: ' ~ funnel.segment ~ ' is a restricted tag; take another') }}
{%- endfor %}

with steps as (
    select distinct funnel, step, step_name, step_count, segment
    from (
        {{ funnel_steps() }}
    ) as declared
),

entries as (
    select
        entries.*,
        case when funnels.segment is not null then coalesce(tags.value, '(none)') end as segment_value
    from {{ ref('analytics_funnel_entries') }} as entries
    inner join (select distinct funnel, segment from steps) as funnels on funnels.funnel = entries.funnel
    left join {{ ref('tags_customer_tags') }} as tags
        on tags.customer_id = entries.customer_id and tags.tag = funnels.segment
),

-- Every entry counts in its own group and segment and in those of all.
views as (
    select entries.*, channel_group as of_group, coalesce(segment_value, '(all)') as of_segment from entries
    union all
    select entries.*, '(all)', coalesce(segment_value, '(all)') from entries
    union all
    select entries.*, channel_group, '(all)' from entries where segment_value is not null
    union all
    select entries.*, '(all)', '(all)' from entries where segment_value is not null
),

reached as (
    select
        views.funnel,
        views.of_group,
        views.of_segment,
        views.customer_id,
        views.furthest_step,
        views.window_ends_at,
        steps.step,
        steps.step_name,
        steps.step_count,
        case {%- for step in range(1, 9) %} when steps.step = {{ step }} then views.step_{{ step }}_at {%- endfor %} end as reached_at,
        case {%- for step in range(2, 9) %} when steps.step = {{ step }} then views.step_{{ step - 1 }}_at {%- endfor %} end as before_at
    from views
    inner join steps on steps.funnel = views.funnel
),

timed as (
    select
        reached.*,
        case
            when reached_at is not null
                then ({{ epoch_micros('reached_at') }} - {{ epoch_micros('before_at') }}) / cast(1000000 as double)
        end as seconds
    from reached
),

counted as (
    select
        funnel,
        of_group,
        of_segment,
        step,
        step_name,
        count(*) as entry_count,
        count(reached_at) as reached_count,
        count(distinct case when reached_at is not null then customer_id end) as customer_count,
        count(case when step = 1 then reached_at else before_at end) as before_count,
        count(case when furthest_step = step and step < step_count then 1 end) as stopped_count,
        count(case when furthest_step = step and step < step_count and window_ends_at >= {{ as_of() }} then 1 end) as open_count,
        {{ median_of('seconds') }} as median_seconds
    from timed
    group by funnel, of_group, of_segment, step, step_name
)

select
    md5(concat_ws('|', funnel, of_group, of_segment, step)) as funnel_step_id,
    funnel,
    of_group as channel_group,
    of_segment as segment_value,
    cast(step as bigint) as step,
    step_name,
    cast(entry_count as bigint) as entry_count,
    cast(reached_count as bigint) as reached_count,
    cast(customer_count as bigint) as customer_count,
    {{ ratio('reached_count', 'before_count') }} as conversion_rate,
    cast(reached_count as double) / cast(entry_count as double) as share,
    cast(stopped_count - open_count as bigint) as abandoned_count,
    cast(open_count as bigint) as open_count,
    cast(median_seconds as double) as median_seconds
from counted
