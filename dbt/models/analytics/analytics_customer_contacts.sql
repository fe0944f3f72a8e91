-- Grain: one customer who ever bought: when they and the company last had to do with each other, and what waits for an answer.
-- Messages to many, and what becomes of orders, are no contact. Fed by unified.customer_events, cleaned chats and calls; read by
-- analytics.key_customers.

with events as (
    select events.*
    from {{ of_touched('unified_customer_events') }} as events
    inner join {{ ref('unified_customers') }} as customers on customers.customer_id = events.customer_id
    where customers.order_count > 0
),

contacts as (
    select
        customer_id,
        channel,
        event_name,
        occurred_at,
        row_number() over (partition by customer_id order by occurred_at desc, event_id) as recency
    from events
    where {{ is_own_act('event_name') }} or event_name in ('message_sent', 'call_made')
),

complaints as (
    select events.customer_id, max(events.occurred_at) as complained_at
    from events
    left join {{ ref('cleaned_call_calls') }} as calls
        on calls.record_id = events.record_id and events.source_table = 'call_calls'
    where events.channel in ('chat', 'call') and events.event_name in ('message_received', 'conversation_started', 'call_received')
        and ({{ is_complaint('events.text') }} or calls.outcome = 'escalated')
    group by events.customer_id
),

answers as (
    select customer_id, max(occurred_at) as answered_at
    from events
    where event_name in ('message_sent', 'call_made')
    group by customer_id
),

-- What a conversation's own record says goes before what its messages do, of these the latest.
states as (
    select events.customer_id, chats.conversation_id, chats.status, events.occurred_at, events.event_id, 0 as is_record
    from events
    inner join {{ ref('cleaned_chat_messages') }} as chats on chats.record_id = events.record_id
    where events.source_table = 'chat_messages' and chats.conversation_id is not null
    union all
    select events.customer_id, chats.conversation_id, chats.status, events.occurred_at, events.event_id, 1
    from events
    inner join {{ ref('cleaned_chat_conversations') }} as chats on chats.record_id = events.record_id
    where events.source_table = 'chat_conversations'
),

conversations as (
    select
        customer_id,
        conversation_id,
        status,
        max(occurred_at) over (partition by customer_id, conversation_id) as spoke_at,
        row_number() over (
            partition by customer_id, conversation_id
            order by case when status is null then 1 else 0 end, is_record desc, occurred_at desc, event_id
        ) as choice
    from states
),

open_conversations as (
    select customer_id, max(spoke_at) as open_conversation_at
    from conversations
    where choice = 1 and status in ('open', 'waiting')
    group by customer_id
)

select
    contacts.customer_id,
    contacts.occurred_at as last_contact_at,
    contacts.channel as last_channel,
    contacts.event_name as last_event_name,
    case when answers.answered_at is null or complaints.complained_at > answers.answered_at then complaints.complained_at end
        as open_complaint_at,
    open_conversations.open_conversation_at,
    {{ seq() }}
from contacts
left join complaints on complaints.customer_id = contacts.customer_id
left join answers on answers.customer_id = contacts.customer_id
left join open_conversations on open_conversations.customer_id = contacts.customer_id
where contacts.recency = 1
