-- Grain: one conversion of a customer, with the touchpoints before it within attribution_lookback_days. Fed by
-- analytics.conversions and analytics.attribution; read by BI.

{%- set in_order = 'partition by conversion_id order by touched_at, touchpoint_id' %}
{%- set shown = 10 %}

with purchases as (
    select
        conversions.*,
        row_number() over (partition by customer_id order by converted_at, conversion_id) as purchase_number,
        lag(converted_at) over (partition by customer_id order by converted_at, conversion_id) as previous_at
    from {{ of_touched('analytics_conversions') }} as conversions
    where customer_id is not null
),

-- Every model of attribution has the same path.
touchpoints as (
    select
        attribution.conversion_id,
        attribution.touchpoint_id,
        attribution.touched_at,
        attribution.channel_group,
        lag(attribution.channel_group) over ({{ in_order }}) as group_before
    from {{ of_touched('analytics_attribution') }} as attribution
    where model = 'linear' and touchpoint_id is not null
),

counted as (
    select conversion_id, count(*) as touchpoint_count, count(distinct channel_group) as group_count, min(touched_at) as first_touch_at
    from touchpoints
    group by conversion_id
),

-- Several times in a row is one.
turns as (
    select
        touchpoints.*,
        row_number() over ({{ in_order }}) as turn,
        lead(touchpoint_id) over ({{ in_order }}) is null as is_last,
        first_value(channel_group) over ({{ in_order }}) as first_group,
        concat_ws(' > ', {% for back in range(shown - 1, 0, -1) %}lag(channel_group, {{ back }}) over ({{ in_order }}), {% endfor %}channel_group)
            as latest_groups
    from touchpoints
    where group_before is null or channel_group <> group_before
)

select
    purchases.conversion_id,
    purchases.customer_id,
    purchases.channel,
    purchases.converted_at,
    purchases.purchase_number,
    case when purchases.purchase_number = 1 then 'first' else 'repeat' end as purchase_kind,
    ({{ epoch_micros('purchases.converted_at') }} - {{ epoch_micros('purchases.previous_at') }}) / cast(86400000000 as double)
        as days_since_previous,
    coalesce(counted.touchpoint_count, 0) as touchpoint_count,
    coalesce(counted.group_count, 0) as channel_group_count,
    turns.first_group,
    turns.channel_group as last_group,
    case when turns.turn > {{ shown }} then concat_ws(' > ', '…', turns.latest_groups) else turns.latest_groups end as channel_groups,
    counted.first_touch_at,
    ({{ epoch_micros('purchases.converted_at') }} - {{ epoch_micros('counted.first_touch_at') }}) / cast(86400000000 as double)
        as days_from_first_touch,
    purchases.revenue_base,
    {{ seq() }}
from purchases
left join counted on counted.conversion_id = purchases.conversion_id
left join turns on turns.conversion_id = purchases.conversion_id and turns.is_last
