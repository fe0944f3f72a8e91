-- Grain: one thing that happened to a text message. Fed by sms/events; read by cleaned.events and identity.

with staged as ({{ staged('sms_events') }})

select
    {{ carried() }},
    {{ event('sms_events', event_name=event_name('sms', 'staged.event_name')) }},
    event_id,
    trim(staged.event_name) as source_event_name,
    occurred_at,
    {{ contact('phone', 'phone') }},
    contact_id,
    message_id,
    campaign_id,
    trim(url) as url
from staged
