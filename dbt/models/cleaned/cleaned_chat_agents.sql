-- Grain: one employee who answers customers. Fed by chat/agents; read by the messages, to tell on which side an author is.

with staged as ({{ staged('chat_agents') }})

select
    {{ carried() }},
    agent_id,
    {{ person_name('name') }} as name,
    updated_at
from staged
