-- Grain: one touchpoint of a customer: a session, or a click in an e-mail or text message that led to no session. Fed by
-- unified.sessions and unified.customer_events; read by attribution, channels and BI.

{%- set idle = var('session_idle_minutes', 30) %}
{%- set in_order = 'order by occurred_at, is_session, touchpoint_id' %}

with visits as (
    select
        session_id as touchpoint_id,
        customer_id,
        channel,
        started_at as occurred_at,
        {{ campaign() }} is not null as is_tagged,
        {{ lower_case('trim(utm_source)') }} as utm_source,
        {{ lower_case('trim(utm_medium)') }} as utm_medium,
        trim(utm_campaign) as utm_campaign,
        {{ clicked_network('entry_url') }} as network,
        -- Pages of one's own site lead nobody in.
        case when {{ source_name(host('referrer')) }} <> coalesce({{ source_name(host('entry_url')) }}, '') then {{ host('referrer') }} end
            as referrer
    from {{ of_touched('unified_sessions') }} as sessions
    where customer_id is not null and traffic = 'customer'
),

sourced as (
    select
        touchpoint_id,
        customer_id,
        channel,
        occurred_at,
        true as is_session,
        coalesce(nullif(case when is_tagged then utm_source else coalesce(network, referrer, '(direct)') end, ''), '(not set)') as source,
        coalesce(nullif(case
            when is_tagged then utm_medium
            when network is not null then 'cpc'
            when {{ source_category('visits.referrer') }} = 'search' then 'organic'
            when referrer is not null then 'referral'
            else '(none)'
        end, ''), '(not set)') as medium,
        coalesce(nullif(utm_campaign, ''), '(not set)') as campaign
    from visits
    union all
    select event_id, customer_id, channel, occurred_at, false, channel, channel, coalesce(nullif(trim(campaign_id), ''), '(not set)')
    from {{ of_touched('unified_customer_events') }} as events
    where customer_id is not null and event_name in ('email_clicked', 'sms_clicked') and {{ is_customer_traffic() }}
),

grouped as (
    select
        categorised.*,
        {{ channel_group('source', 'medium', lower_case('campaign'), 'category') }} as channel_group,
        -- Clicks, and the session that comes after them.
        sum(case when is_session then 1 else 0 end) over (
            partition by customer_id {{ in_order }} rows between unbounded preceding and current row
        ) - case when is_session then 1 else 0 end as stretch
    from (select sourced.*, {{ source_category('sourced.source') }} as category from sourced) as categorised
),

followed as (
    select
        grouped.*,
        max(case when is_session then occurred_at end) over (partition by customer_id, stretch) as visited_at,
        max(case when is_session then channel_group end) over (partition by customer_id, stretch) as visit_group,
        lag(occurred_at) over (partition by customer_id, stretch {{ in_order }}) as clicked_at,
        lag(channel_group) over (partition by customer_id, stretch {{ in_order }}) as click_group,
        lag(channel) over (partition by customer_id, stretch {{ in_order }}) as click_channel,
        lag(campaign) over (partition by customer_id, stretch {{ in_order }}) as click_campaign
    from grouped
),

-- A click led to the customer's next session if it began within the idle time, and came from nowhere else. A session that
-- names no source takes that of its click: links in an app or with their tags cut off still count for the message.
joined as (
    select
        followed.*,
        is_session and channel_group = 'Direct'
            and coalesce(occurred_at <= {{ dbt.dateadd('minute', idle, 'clicked_at') }}, false) as is_of_click,
        not is_session and coalesce(
            visited_at <= {{ dbt.dateadd('minute', idle, 'occurred_at') }} and visit_group in ('Direct', channel_group), false
        ) as is_visited
    from followed
)

select
    touchpoint_id,
    customer_id,
    case when is_session then 'session' else 'click' end as kind,
    channel,
    occurred_at,
    case when is_of_click then click_group else channel_group end as channel_group,
    case when is_of_click then click_channel else source end as source,
    case when is_of_click then click_channel else medium end as medium,
    case when is_of_click then click_campaign else campaign end as campaign,
    {{ seq() }}
from joined
where not is_visited
