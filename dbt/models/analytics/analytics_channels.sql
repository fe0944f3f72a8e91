-- Grain: one day, channel group, source, campaign and attribution model: touchpoints of the day, conversions of the day as
-- the model credits them, and what the campaign cost that day. Touchpoints and cost are the same for every model: take one.
-- Built whole, once a day: an aggregate, and the Markov chain moves every day of it. Fed by this layer and cleaned.ads_spend;
-- read by BI.
{{ config(materialized='table') }}

{%- set keys = 'event_date, channel_group, source, campaign' %}

with touched as (
    select
        cast(occurred_at as date) as event_date,
        channel_group,
        source,
        campaign,
        count(*) as touchpoint_count,
        count(case when kind = 'session' then 1 end) as session_count
    from {{ ref('analytics_touchpoints') }}
    group by cast(occurred_at as date), channel_group, source, campaign
),

credited as (
    select
        cast(converted_at as date) as event_date,
        channel_group,
        source,
        campaign,
        model,
        sum(conversions) as conversions,
        sum(revenue_base) as revenue_base,
        sum(margin_base) as margin_base,
        count(case when margin_base is null then 1 end) as unknown_margin_count
    from {{ ref('analytics_attribution') }}
    group by cast(converted_at as date), channel_group, source, campaign, model
),

-- The chain credits channel groups; within one, days, sources and campaigns share as in the linear model.
linear as (
    select
        credited.*,
        {{ share_of('effects.conversions', 'credited.conversions',
            'nullif(sum(credited.conversions) over (partition by credited.channel_group), 0)', 8) }} as conversion_share,
        coalesce({{ share_of('effects.revenue_base', 'credited.revenue_base',
            'nullif(sum(credited.revenue_base) over (partition by credited.channel_group), 0)', 4) }}, 0) as revenue_share,
        effects.conversions as group_conversions,
        effects.revenue_base as group_revenue_base,
        row_number() over (
            partition by credited.channel_group order by credited.conversions desc, event_date, source, campaign) as size_rank
    from credited
    left join {{ ref('analytics_removal_effects') }} as effects on effects.channel_group = credited.channel_group
    where credited.model = 'linear'
),

markov as (
    select
        {{ keys }},
        case when channel_group = 'Unattributed' then conversions else
            {{ with_rest('conversion_share', 'group_conversions', 'size_rank = 1', 'channel_group', 8) }} end as conversions,
        case when channel_group = 'Unattributed' then revenue_base else
            {{ with_rest('revenue_share', 'group_revenue_base', 'size_rank = 1', 'channel_group', 4) }} end as revenue_base,
        revenue_base as linear_revenue_base,
        margin_base as linear_margin_base,
        unknown_margin_count
    from linear
),

-- The link says by what name and kind a campaign's visitors came; where none did, its spend is a click's that was paid for.
campaigns as (
    select source_name, campaign_name, channel_group, source, campaign
    from (
        select
            named.*,
            row_number() over (
                partition by source_name, campaign_name order by touchpoint_count desc, channel_group, source, campaign
            ) as size_rank
        from (
            select
                {{ source_name('source') }} as source_name,
                {{ lower_case('campaign') }} as campaign_name,
                channel_group,
                source,
                campaign,
                sum(touchpoint_count) as touchpoint_count
            from touched
            group by {{ source_name('source') }}, {{ lower_case('campaign') }}, channel_group, source, campaign
        ) as named
    ) as ranked
    where size_rank = 1
),

spend as (
    select
        spend.*,
        {{ channel_group('platform', 'medium', lower_case('campaign_id'), 'category') }} as paid_group
    from (
        select date, platform, campaign_id, cost_base, 'cpc' as medium, {{ source_category('costs.platform') }} as category
        from {{ ref('cleaned_ads_spend') }} as costs
    ) as spend
),

spent as (
    select
        spend.date as event_date,
        coalesce(campaigns.channel_group, spend.paid_group) as channel_group,
        coalesce(campaigns.source, spend.platform) as source,
        coalesce(campaigns.campaign, spend.campaign_id) as campaign,
        case when count(*) = count(spend.cost_base) then sum(spend.cost_base) end as cost_base
    from spend
    left join campaigns
        on campaigns.source_name = {{ source_name('spend.platform') }} and campaigns.campaign_name = {{ lower_case('spend.campaign_id') }}
    group by
        spend.date, coalesce(campaigns.channel_group, spend.paid_group), coalesce(campaigns.source, spend.platform),
        coalesce(campaigns.campaign, spend.campaign_id)
),

models as (
    {%- for model in attribution_models() + ['markov'] %}
    select '{{ model }}' as model {{ 'union all' if not loop.last }}
    {%- endfor %}
),

measured as (
    select {{ keys }}, model, touchpoint_count, session_count, 0 as conversions, 0 as revenue_base, 0 as margin_base,
        0 as unknown_margin_count, cast(null as decimal(18, 4)) as cost_base, 0 as unknown_cost_count
    from touched
    cross join models
    union all
    select {{ keys }}, model, 0, 0, 0, 0, 0, 0, cost_base, case when cost_base is null then 1 else 0 end
    from spent
    cross join models
    union all
    select {{ keys }}, model, 0, 0, conversions, revenue_base, margin_base, unknown_margin_count, null, 0
    from credited
    union all
    -- The margin is at the rate of what the linear model credits here.
    select {{ keys }}, 'markov', 0, 0, conversions, revenue_base,
        {{ share_of('linear_margin_base', 'revenue_base', 'nullif(linear_revenue_base, 0)', 4) }}, unknown_margin_count, null, 0
    from markov
),

final as (
    select
        {{ keys }},
        model,
        cast(sum(touchpoint_count) as bigint) as touchpoint_count,
        cast(sum(session_count) as bigint) as session_count,
        cast(sum(conversions) as decimal(18, 8)) as conversions,
        cast(sum(revenue_base) as decimal(18, 4)) as revenue_base,
        cast(case when sum(unknown_margin_count) = 0 then coalesce(sum(margin_base), 0) end as decimal(18, 4)) as margin_base,
        cast(case when sum(unknown_cost_count) = 0 then sum(cost_base) end as decimal(18, 4)) as cost_base
    from measured
    group by {{ keys }}, model
)

select
    md5(concat_ws('|', event_date, channel_group, source, campaign, model)) as channel_day_id,
    final.*,
    case when cost_base > 0 then cast(revenue_base as double) / cast(cost_base as double) end as roas,
    case when cost_base > 0 then cast(margin_base - cost_base as double) / cast(cost_base as double) end as roi,
    {{ seq() }}
from final
