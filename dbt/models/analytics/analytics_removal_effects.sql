-- Grain: one channel group, with what share of the conversions would be lost without it in the Markov chain of all paths
-- (Anderl et al. 2016), and what it is credited for that. Built whole, once a day: its input is a small matrix. SQL suffices: a channel
-- group is taken out of the chain by p(i,j) + p(i,k) p(k,j) / (1 - p(k,k)), one after the other, until there is only the way from
-- the start to a conversion left. Fed by analytics.transitions and analytics.attribution; read by analytics.channels and BI.
{{ config(materialized='table') }}

with transitions as (
    select from_group, to_group, cast(sum(transition_count) as double) as transition_count
    from {{ ref('analytics_transitions') }}
    group by from_group, to_group
),

odds as (
    select from_group, to_group, cast(transition_count as double) / sum(transition_count) over (partition by from_group) as probability
    from transitions
),

channel_groups as (
    select from_group as channel_group from odds where from_group <> '(start)' group by from_group
),

-- Once with all of them, once without each: who would come to it is lost.
scenarios as (
    select '(none)' as removed
    union all
    select channel_group from channel_groups
),

eliminated_0 as (
    select
        scenarios.removed,
        origins.channel_group as from_group,
        targets.channel_group as to_group,
        coalesce(odds.probability, 0) as probability
    from scenarios
    cross join (select channel_group from channel_groups union all select '(start)') as origins
    cross join (select channel_group from channel_groups union all select '(conversion)') as targets
    left join odds on odds.from_group = origins.channel_group and odds.to_group = targets.channel_group
    where origins.channel_group <> scenarios.removed and targets.channel_group <> scenarios.removed
),

{% for channel_group in channel_groups() -%}
eliminated_{{ loop.index }} as {{ materialized() }} (
    select
        removed,
        from_group,
        to_group,
        probability + coalesce(cast(into_it as double) * out_of_it / nullif(1 - coalesce(back_to_it, 0), 0), 0) as probability
    from (
        select
            removed,
            from_group,
            to_group,
            probability,
            max(case when to_group = '{{ channel_group }}' then probability end) over (partition by removed, from_group) as into_it,
            max(case when from_group = '{{ channel_group }}' then probability end) over (partition by removed, to_group) as out_of_it,
            max(case when from_group = '{{ channel_group }}' and to_group = '{{ channel_group }}' then probability end)
                over (partition by removed) as back_to_it
        from eliminated_{{ loop.index0 }}
    ) as around
    where from_group <> '{{ channel_group }}' and to_group <> '{{ channel_group }}'
),

{% endfor -%}
effects as (
    select
        removed as channel_group,
        {{ decimal_of("1 - cast(probability as double) / nullif(max(case when removed = '(none)' then probability end) over (), 0)", 12) }}
            as removal_effect
    from eliminated_{{ channel_groups() | length }}
),

-- What no customer met on the way to a conversion may still lead others to where some convert: it has an effect, but no
-- conversion to be credited with.
credited as (
    select channel_group, sum(conversions) as conversions, sum(revenue_base) as revenue_base
    from {{ ref('analytics_attribution') }}
    where model = 'linear' and touchpoint_id is not null
    group by channel_group
),

weighed as (
    select
        effects.channel_group,
        effects.removal_effect,
        case when credited.channel_group is not null then effects.removal_effect else 0 end as weight,
        cast(sum(credited.conversions) over () as decimal(18, 8)) as all_conversions,
        cast(sum(credited.revenue_base) over () as decimal(18, 4)) as all_revenue_base
    from effects
    left join credited on credited.channel_group = effects.channel_group
    where effects.channel_group <> '(none)' and effects.removal_effect is not null
),

shared as (
    select
        weighed.*,
        sum(weight) over () as total,
        {{ share_of('all_conversions', 'weight', 'sum(weight) over ()', 8) }} as conversion_share,
        {{ share_of('all_revenue_base', 'weight', 'sum(weight) over ()', 4) }} as revenue_share,
        row_number() over (order by weight desc, channel_group) as size_rank
    from weighed
)

select
    channel_group,
    cast(removal_effect as double) as removal_effect,
    cast(weight as double) / cast(total as double) as share,
    {{ with_rest('conversion_share', 'all_conversions', 'size_rank = 1', '1', 8) }} as conversions,
    {{ with_rest('revenue_share', 'all_revenue_base', 'size_rank = 1', '1', 4) }} as revenue_base
from shared
