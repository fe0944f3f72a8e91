-- Grain: one event of the web tracker. Fed by web/events; read by cleaned.events and identity.

with staged as ({{ staged('web_events', rates_at='occurred_at') }})

select
    {{ digital_event('web') }},
    contact_id
from staged
{{ join_rates('staged', 'currency', 'occurred_at') }}
{{ join_senders() }}
