-- Grain: one message between an employee and a customer. Fed by wecom/messages; read by cleaned.events and identity.

with staged as ({{ staged('wecom_messages') }})

select
    {{ carried() }},
    {{ event('wecom_messages',
        event_name="case direction when 'in' then 'message_received' else 'message_sent' end") }},
    message_id,
    external_user_id,
    occurred_at,
    direction,
    trim(text) as text
from staged
