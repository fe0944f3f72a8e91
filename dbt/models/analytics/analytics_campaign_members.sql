-- Grain: one customer whom a campaign wrote to on a channel (treated), or held out of it (control), with what became of the
-- message and what they bought within the window after it. Fed by unified.customer_events and analytics.conversions; read by
-- analytics.campaigns and BI. A conversion can change by itself: its margin, as a product's cost does.
{{ config(meta={'touched_by': ['analytics_conversions']}) }}

{%- set window = var('campaign_window_days', 7) %}

with messages as (
    select
        trim(campaign_id) as campaign_id,
        channel,
        customer_id,
        {{ first_time('held_out') }} as held_out_at,
        -- Where a sender does not report that it sent, the first that it reports shows it.
        coalesce({{ first_time('sent') }}, min(case when not {{ is_message('held_out') }} then occurred_at end)) as sent_at,
        {{ first_time('delivered') }} as delivered_at,
        {{ first_time('bounced') }} as bounced_at,
        {{ first_time('opened') }} as opened_at,
        {{ first_time('clicked') }} as clicked_at,
        {{ first_time('unsubscribed') }} as unsubscribed_at,
        {{ first_time('complained') }} as complained_at
    from {{ of_touched('unified_customer_events') }} as events
    where customer_id is not null and channel in ('email', 'sms') and {{ is_customer_traffic() }} and trim(campaign_id) <> ''
        and {{ is_message('sent', 'delivered', 'bounced', 'opened', 'clicked', 'unsubscribed', 'complained', 'held_out') }}
    group by trim(campaign_id), channel, customer_id
),

-- Whoever got a message after all is no control.
members as (
    select messages.*, case when sent_at is null then 'control' else 'treated' end as member_group,
        coalesce(sent_at, held_out_at) as started_at
    from messages
),

bought as (
    select
        members.campaign_id,
        members.channel,
        members.customer_id,
        conversions.converted_at,
        conversions.revenue_base,
        conversions.margin_base,
        conversions.converted_at <= {{ dbt.dateadd('day', window, 'members.started_at') }} as is_in_window,
        conversions.converted_at >= members.clicked_at
            and conversions.converted_at <= {{ dbt.dateadd('day', window, 'members.clicked_at') }} as is_after_click
    from members
    inner join {{ of_touched('analytics_conversions') }} as conversions
        on conversions.customer_id = members.customer_id and conversions.converted_at >= members.started_at
    where conversions.converted_at <= {{ dbt.dateadd('day', window, 'greatest(members.started_at, coalesce(members.clicked_at, members.started_at))') }}
),

counted as (
    select
        campaign_id,
        channel,
        customer_id,
        min(case when is_in_window then converted_at end) as converted_at,
        count(case when is_in_window then 1 end) as conversion_count,
        sum(case when is_in_window then revenue_base end) as revenue_base,
        sum(case when is_in_window then margin_base end) as margin_base,
        count(case when is_in_window and margin_base is null then 1 end) as unknown_margin_count,
        count(case when is_after_click then 1 end) as after_click_count
    from bought
    group by campaign_id, channel, customer_id
)

select
    md5(concat_ws('|', members.channel, members.customer_id, members.campaign_id)) as member_id,
    members.campaign_id,
    members.channel,
    members.customer_id,
    members.member_group,
    members.started_at,
    members.sent_at,
    members.held_out_at,
    members.delivered_at,
    members.bounced_at,
    members.opened_at,
    members.clicked_at,
    members.unsubscribed_at,
    members.complained_at,
    counted.converted_at,
    coalesce(counted.conversion_count, 0) as conversion_count,
    cast(coalesce(counted.revenue_base, 0) as decimal(18, 4)) as revenue_base,
    cast(case when coalesce(counted.unknown_margin_count, 0) = 0 then coalesce(counted.margin_base, 0) end as decimal(18, 4))
        as margin_base,
    coalesce(counted.after_click_count, 0) > 0 as is_converted_after_click,
    {{ seq() }}
from members
left join counted
    on counted.customer_id = members.customer_id and counted.campaign_id = members.campaign_id and counted.channel = members.channel
