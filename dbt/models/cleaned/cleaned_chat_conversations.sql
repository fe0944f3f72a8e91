-- Grain: one conversation or ticket, in its latest state. Fed by chat/conversations; read by cleaned.events, identity and
-- satisfaction.

with staged as ({{ staged('chat_conversations') }})

select
    {{ carried() }},
    {{ event('chat_conversations',
        event_name="'conversation_started'", occurred_at='started_at', score='csat_score', text='trim(subject)') }},
    conversation_id,
    started_at,
    user_id,
    {{ contact('email', 'email') }},
    {{ contact('phone', 'phone') }},
    contact_id,
    agent_id,
    trim(subject) as subject,
    status,
    csat_score,
    updated_at
from staged
