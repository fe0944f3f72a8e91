-- Grain: one conversion, attribution model and touchpoint that the model credits; without a touchpoint in the lookback window
-- one row a model, of the channel group Unattributed. Conversions and revenue add up to the whole in each model.
-- Fed by analytics.conversions and analytics.touchpoints; read by analytics.channels and BI.
-- The strategy asks who changed: depends_on: {{ ref('analytics_touched_customers') }}, {{ ref('unified_customer_events') }}, {{ ref('unified_purchases') }}
{{ config(incremental_strategy='conversions') }}

{%- set lookback = var('attribution_lookback_days', 90) %}
{%- set in_order = 'order by touched_at, touchpoint_id' %}

with conversions as (
    select * from {{ ref('analytics_conversions') }} {% if is_incremental() %}where {{ is_conversion_due('conversion_id') }}{% endif %}
),

touchpoints as (
    select * from {{ ref('analytics_touchpoints') }} where customer_id in (select customer_id from conversions)
),

paths as (
    select
        conversions.conversion_id,
        conversions.customer_id,
        conversions.converted_at,
        conversions.revenue_base,
        conversions.margin_base,
        touchpoints.touchpoint_id,
        touchpoints.occurred_at as touched_at,
        coalesce(touchpoints.channel_group, 'Unattributed') as channel_group,
        coalesce(touchpoints.source, '(not set)') as source,
        coalesce(touchpoints.medium, '(not set)') as medium,
        coalesce(touchpoints.campaign, '(not set)') as campaign
    from conversions
    left join touchpoints
        on touchpoints.customer_id = conversions.customer_id
        and touchpoints.occurred_at <= conversions.converted_at
        and touchpoints.occurred_at >= {{ dbt.dateadd('day', -lookback, 'conversions.converted_at') }}
),

placed as (
    select
        paths.*,
        row_number() over (partition by conversion_id {{ in_order }}) as place,
        count(*) over (partition by conversion_id) as places,
        row_number() over (partition by conversion_id, channel_group {{ in_order }}) as place_in_group,
        count(*) over (partition by conversion_id, channel_group) as places_in_group,
        max(touched_at) over (partition by conversion_id) as last_touched_at
    from paths
),

counted as (
    select
        placed.*,
        sum(case when place_in_group = 1 then 1 else 0 end) over (partition by conversion_id) as group_count,
        coalesce(
            max(case when channel_group <> 'Direct' then place end) over (partition by conversion_id), places
        ) as last_non_direct_place
    from placed
),

weights as (
    select
        counted.*,
        model,
        case
            when model = 'first' then case when place = 1 then 1 else 0 end
            when model = 'last' then case when place = places then 1 else 0 end
            when model = 'last_non_direct' then case when place = last_non_direct_place then 1 else 0 end
            when model = 'linear' or touchpoint_id is null then 1
            -- 40% for the first and the last, 20% among those between; of two touchpoints both are ends.
            when model = 'position' then case when places <= 2 then 1 when place in (1, places) then 0.4 else cast(0.2 as double) / (places - 2) end
            -- Half as much for each 7 days before; as the last has 1, none so far back that it comes to nothing is alone.
            when model = 'time_decay' then pow(cast(0.5 as double), cast(
                {{ epoch_micros('last_touched_at') }} - {{ epoch_micros('touched_at') }} as double) / {{ 7 * 24 * 3600 * 1000000 }})
            -- The Shapley value of a game in which a set of channel groups is worth the conversions that needed no other: each
            -- conversion goes in equal parts to the groups on its path (docs/analysis.md), in a group to its touchpoints.
            when model = 'shapley' then cast(1 as double) / (group_count * places_in_group)
        end as exact_weight
    from counted
    cross join (
        {%- for model in attribution_models() %}
        select '{{ model }}' as model {{ 'union all' if not loop.last }}
        {%- endfor %}
    ) as models
),

weighed as (select weights.*, {{ decimal_of('exact_weight', 12) }} as weight from weights),

shared as (
    select
        weighed.*,
        {{ share_of('1', 'weight', 'sum(weight) over (partition by conversion_id, model)', 8) }} as conversion_share,
        {{ share_of('revenue_base', 'weight', 'sum(weight) over (partition by conversion_id, model)', 4) }} as revenue_share,
        {{ share_of('margin_base', 'weight', 'sum(weight) over (partition by conversion_id, model)', 4) }} as margin_share,
        -- What rounding leaves goes to the latest that is credited.
        place = max(place) over (partition by conversion_id, model) as is_latest
    from weighed
    where weight > 0
)

select
    md5(concat_ws('|', model, conversion_id, touchpoint_id)) as attribution_id,
    conversion_id,
    customer_id,
    model,
    touchpoint_id,
    converted_at,
    touched_at,
    channel_group,
    source,
    medium,
    campaign,
    {{ with_rest('conversion_share', '1', 'is_latest', 'conversion_id, model', 8) }} as conversions,
    {{ with_rest('revenue_share', 'revenue_base', 'is_latest', 'conversion_id, model', 4) }} as revenue_base,
    {{ with_rest('margin_share', 'margin_base', 'is_latest', 'conversion_id, model', 4) }} as margin_base,
    {{ seq() }}
from shared
