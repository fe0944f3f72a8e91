-- Grain: one event of the web tracker. Fed by web/events; read by cleaned.events and identity. The slowest model of a full build
-- where most events are the web's: each is typed here once, its address, user agent and JSON are taken apart, its sender judged.

with staged as ({{ staged('web_events', rates_at='occurred_at') }})

select
    {{ digital_event('web') }},
    contact_id
from staged
{{ join_rates('staged', 'currency', 'occurred_at') }}
{{ join_senders() }}
