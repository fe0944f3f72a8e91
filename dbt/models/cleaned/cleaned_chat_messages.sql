-- Grain: one message of a conversation. Fed by chat/messages; read by cleaned.events, identity and satisfaction.

-- Messages come again when their author turns out to be an agent.
{%- set late_agents -%}
    exists (
        select 1 from {{ ref('cleaned_chat_agents') }} as agents
        where agents._seq > {{ cursor() }} and agents.agent_id = rows.author_id
    )
{%- endset %}

with staged as ({{ staged('chat_messages', again_if=late_agents) }}),

sided as (
    select
        staged.record_id,
        coalesce(staged.direction, case when agents.agent_id is null then 'in' else 'out' end) as side
    from staged
    left join {{ ref('cleaned_chat_agents') }} as agents on agents.agent_id = staged.author_id
)

select
    {{ carried() }},
    {{ event('chat_messages',
        event_name="case sided.side when 'in' then 'message_received' else 'message_sent' end",
        score='csat_score') }},
    message_id,
    conversation_id,
    occurred_at,
    sided.side as direction,
    author_id,
    user_id,
    anonymous_id,
    {{ contact('email', 'email') }},
    {{ contact('phone', 'phone') }},
    coalesce(contact_id, case when sided.side = 'in' then author_id end) as contact_id,
    coalesce(agent_id, case when sided.side = 'out' then author_id end) as agent_id,
    trim(text) as text,
    status,
    csat_score
from staged
inner join sided on sided.record_id = staged.record_id
