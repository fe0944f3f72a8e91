-- Grain: one call. Fed by call/calls; read by cleaned.events and identity.

with staged as ({{ staged('call_calls') }})

select
    {{ carried() }},
    {{ event('call_calls',
        event_name="case direction when 'in' then 'call_received' else 'call_made' end",
        occurred_at='started_at', text='transcript') }},
    call_id,
    direction,
    {{ contact('phone', 'phone') }},
    duration_seconds,
    agent_id,
    {{ lower_case('trim(outcome)') }} as outcome
from staged
