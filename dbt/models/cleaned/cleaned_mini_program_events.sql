-- Grain: one event of the mini program's tracker. Fed by mini_program/events; read by cleaned.events and identity.

with staged as ({{ staged('mini_program_events', rates_at='occurred_at') }})

select
    {{ digital_event('mini_program') }},
    open_id,
    union_id
from staged
{{ join_rates('staged', 'currency', 'occurred_at') }}
{{ join_senders() }}
