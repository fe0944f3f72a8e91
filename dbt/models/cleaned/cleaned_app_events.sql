-- Grain: one event of the app tracker. Fed by app/events; read by cleaned.events and identity.

with staged as ({{ staged('app_events', rates_at='occurred_at') }})

select {{ digital_event('app') }}
from staged
{{ join_rates('staged', 'currency', 'occurred_at') }}
{{ join_senders() }}
