-- Grain: one conversation in which a customer said something: of the chat, an incoming call, or messages of a WeCom contact
-- without a longer pause. Fed by analytics.service_contacts; read by analytics.satisfaction and BI.
{{ config(incremental_strategy='of_groups', group_column='thread_id', changed_groups='changed_threads') }}

{%- set in_order = 'order by occurred_at, event_id' %}

with contacts as (
    select
        contacts.*,
        lag(occurred_at) over (partition by thread_id {{ in_order }}) as before_at
    from {{ ref('analytics_service_contacts') }} as contacts
    where kind is not null
        {%- if is_incremental() %}
        and thread_id in ({{ changed_threads() }})
        {%- endif %}
),

numbered as (
    select
        contacts.*,
        sum(case
            when channel = 'wecom' and occurred_at > {{ dbt.dateadd('hour', var('conversation_pause_hours'), 'before_at') }} then 1
            else 0
        end) over (partition by thread_id {{ in_order }} rows unbounded preceding) as place
    from contacts
),

opened as (
    select
        numbered.*,
        min(case when kind <> 'reply' then occurred_at end) over (partition by thread_id, place) as opened_at,
        min(occurred_at) over (partition by thread_id, place) as started_at,
        -- Where agents are named, what no agent wrote is a bot's.
        max(case when kind = 'reply' and agent_id is not null then 1 else 0 end) over (partition by thread_id, place) as names_agents
    from numbered
),

ranked as (
    select
        opened.*,
        case when kind = 'reply' and occurred_at >= opened_at and (names_agents = 0 or agent_id is not null) then occurred_at end
            as human_reply_at,
        row_number() over (
            partition by thread_id, place order by case when customer_id is null then 1 else 0 end, occurred_at, event_id
        ) as customer_rank,
        row_number() over (
            partition by thread_id, place
            order by case when status is null then 1 else 0 end, stated_at desc nulls last, event_id desc
        ) as status_rank,
        row_number() over (
            partition by thread_id, place
            order by case when csat_score is null then 1 else 0 end, coalesce(stated_at, occurred_at) desc, event_id desc
        ) as score_rank,
        row_number() over (
            partition by thread_id, place
            order by case when agent_id is null then 1 else 0 end, case when kind = 'ticket' then 1 else 0 end, occurred_at, event_id
        ) as agent_rank
    from opened
    where opened_at is not null
),

joined as (
    select
        thread_id,
        place,
        max(channel) as channel,
        max(opened_at) as opened_at,
        max(case when started_at < opened_at then 'company' else 'customer' end) as started_by,
        max(case when customer_rank = 1 then customer_id end) as customer_id,
        max(case when agent_rank = 1 then agent_id end) as agent_id,
        min(human_reply_at) as first_reply_at,
        max(case when status_rank = 1 then status end) as status,
        max(case when status = 'closed' then stated_at end) as last_closed_at,
        max(case when score_rank = 1 then csat_score end) as csat_score,
        max(case when is_complaint then 1 else 0 end) = 1 as is_complaint,
        count(case when kind in ('message', 'call') then 1 end) as customer_message_count,
        count(case when kind = 'reply' then 1 end) as reply_count,
        count(case when sentiment = 'positive' then 1 end) as positive_count,
        count(case when sentiment = 'negative' then 1 end) as negative_count,
        count(sentiment) as sentiment_count
    from ranked
    group by thread_id, place
)

select
    case when channel = 'wecom' then concat_ws(':', thread_id, cast({{ epoch_micros('opened_at') }} as string)) else thread_id end
        as conversation_id,
    thread_id,
    channel,
    customer_id,
    agent_id,
    opened_at,
    started_by,
    first_reply_at,
    cast({{ epoch_micros('first_reply_at') }} - {{ epoch_micros('opened_at') }} as double) / 1000000 as first_response_seconds,
    status,
    case when status = 'closed' then last_closed_at end as resolved_at,
    case when status = 'closed' then cast({{ epoch_micros('last_closed_at') }} - {{ epoch_micros('opened_at') }} as double) / 1000000 end
        as resolution_seconds,
    cast(customer_message_count as bigint) as customer_message_count,
    cast(reply_count as bigint) as reply_count,
    csat_score,
    is_complaint,
    coalesce(
        {{ sentiment_of_rating('csat_score') }},
        case
            when sentiment_count = 0 then null
            when negative_count > positive_count then 'negative'
            when positive_count > negative_count then 'positive'
            else 'neutral'
        end
    ) as sentiment,
    case when csat_score is not null then 'score' when sentiment_count > 0 then 'text' end as sentiment_basis,
    {{ seq() }}
from joined
