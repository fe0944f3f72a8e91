-- Grain: one thing that happened to an e-mail. Fed by email/events; read by cleaned.events and identity.

with staged as ({{ staged('email_events') }})

select
    {{ carried() }},
    {{ event('email_events', event_name=event_name('email', 'staged.event_name')) }},
    event_id,
    trim(staged.event_name) as source_event_name,
    occurred_at,
    {{ contact('email', 'email') }},
    contact_id,
    message_id,
    campaign_id,
    trim(url) as url
from staged
