-- Grain: one message of a conversation. Fed by chat/messages; read by cleaned.events, identity and satisfaction.

with staged as ({{ staged('chat_messages') }})

select
    {{ carried() }},
    {{ event('chat_messages',
        event_name="case direction when 'in' then 'message_received' else 'message_sent' end",
        score='csat_score') }},
    message_id,
    conversation_id,
    occurred_at,
    direction,
    user_id,
    anonymous_id,
    {{ contact('email', 'email') }},
    {{ contact('phone', 'phone') }},
    agent_id,
    trim(text) as text,
    status,
    csat_score
from staged
