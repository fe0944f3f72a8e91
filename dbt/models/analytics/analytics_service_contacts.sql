-- Grain: one message, ticket or call of customer service, with the thread it belongs to: a conversation of the chat, a call, or
-- all messages of a WeCom contact. Fed by unified.customer_events, chat, calls and WeCom; read by analytics.conversations.
{{ config(incremental_strategy='of_events') }}

with fresh as (
    select *, {{ is_service_contact() }} as is_contact
    from {{ ref('unified_customer_events') }}
    where {{ is_new() }} and channel in ('chat', 'call', 'wecom')
)
{%- if is_incremental() %},

kept as (
    select event_id, thread_id from {{ this }} where event_id in (select event_id from fresh where _is_revision)
)
{%- endif %}

select
    fresh.event_id,
    concat_ws(':', fresh.channel, coalesce(messages.conversation_id, tickets.conversation_id, chats.external_user_id, fresh.record_id))
        as thread_id,
    {{ 'kept.thread_id' if is_incremental() else 'cast(null as string)' }} as previous_thread_id,
    fresh.channel,
    fresh.customer_id,
    fresh.occurred_at,
    -- None: it was a contact before; its conversation has to be made anew.
    case
        when not fresh.is_contact then null
        when fresh.event_name = 'message_sent' then 'reply'
        when fresh.event_name = 'message_received' then 'message'
        when fresh.event_name = 'call_received' then 'call'
        else 'ticket'
    end as kind,
    coalesce(messages.agent_id, tickets.agent_id, calls.agent_id) as agent_id,
    case
        when calls.record_id is null then coalesce(messages.status, tickets.status)
        when calls.outcome in ('resolved', 'solved', 'closed', 'completed', '已解决') then 'closed'
        when calls.outcome is not null then 'open'
    end as status,
    -- Since when it is so: a ticket has one row, which says its latest state.
    case
        when tickets.record_id is not null then tickets.updated_at
        when calls.record_id is not null then {{ dbt.dateadd('second', 'cast(round(calls.duration_seconds) as bigint)', 'fresh.occurred_at') }}
        else fresh.occurred_at
    end as stated_at,
    case when fresh.score between 1 and 5 then fresh.score end as csat_score,
    fresh.event_name <> 'message_sent' and (
        {{ is_complaint('fresh.text') }} or coalesce({{ matches('calls.outcome', 'escalat|complain|投诉') }}, false)
    ) as is_complaint,
    case when fresh.event_name <> 'message_sent' then sentiments.sentiment end as sentiment,
    {{ seq() }}
from fresh
left join {{ ref('cleaned_chat_messages') }} as messages
    on messages.record_id = fresh.record_id and fresh.source_table = 'chat_messages'
left join {{ ref('cleaned_chat_conversations') }} as tickets
    on tickets.record_id = fresh.record_id and fresh.source_table = 'chat_conversations'
left join {{ ref('cleaned_call_calls') }} as calls
    on calls.record_id = fresh.record_id and fresh.source_table = 'call_calls'
left join {{ ref('cleaned_wecom_messages') }} as chats
    on chats.record_id = fresh.record_id and fresh.source_table = 'wecom_messages'
left join {{ ref('analytics_sentiments') }} as sentiments on sentiments.text_id = md5(fresh.text)
{%- if is_incremental() %}
left join kept on kept.event_id = fresh.event_id
{%- endif %}
where fresh.is_contact {{- ' or kept.event_id is not null' if is_incremental() }}
