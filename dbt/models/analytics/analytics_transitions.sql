-- Grain: one customer and step from one channel group to the next, with how often it was taken: on the path to each conversion,
-- and on the paths that led to none. Fed by analytics.attribution and analytics.touchpoints; read by analytics.removal_effects.

with credited as (
    select conversion_id, customer_id, touchpoint_id, touched_at, channel_group
    from {{ of_touched('analytics_attribution') }} as attribution
    where model = 'linear' and touchpoint_id is not null
),

-- Touchpoints that led to no conversion in the lookback window, each stretch between two conversions as a path of its own.
others as (
    select
        customer_id,
        touchpoint_id,
        occurred_at,
        channel_group,
        sum(is_conversion) over (
            partition by customer_id order by occurred_at, is_conversion, touchpoint_id rows unbounded preceding
        ) as stretch
    from (
        select customer_id, touchpoint_id, occurred_at, channel_group, 0 as is_conversion
        from {{ of_touched('analytics_touchpoints') }} as touchpoints
        union all
        select customer_id, conversion_id, converted_at, cast(null as string), 1
        from {{ of_touched('analytics_conversions') }} as conversions
        where customer_id is not null
    ) as happened
),

paths as (
    select conversion_id as path, customer_id, touchpoint_id, touched_at, channel_group, '(conversion)' as ending from credited
    union all
    select cast(others.stretch as string), others.customer_id, others.touchpoint_id, others.occurred_at, others.channel_group, '(none)'
    from others
    left join (select distinct touchpoint_id from credited) as credited on credited.touchpoint_id = others.touchpoint_id
    where others.channel_group is not null and credited.touchpoint_id is null
),

steps as (
    select
        customer_id,
        channel_group as from_group,
        coalesce(lead(channel_group) over (partition by customer_id, path order by touched_at, touchpoint_id), ending) as to_group,
        row_number() over (partition by customer_id, path order by touched_at, touchpoint_id) as place
    from paths
),

final as (
    select customer_id, from_group, to_group from steps
    union all
    select customer_id, '(start)', from_group from steps where place = 1
)

select customer_id, from_group, to_group, count(*) as transition_count, {{ seq() }}
from final
group by customer_id, from_group, to_group
