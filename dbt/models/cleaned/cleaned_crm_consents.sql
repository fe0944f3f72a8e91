-- Grain: one statement of consent. Fed by crm/consents; read by the customer's consents.

with staged as ({{ staged('crm_consents') }})

select
    {{ carried() }},
    {{ named_identifier('identifier_type', 'identifier_value') }},
    {{ lower_case('trim(purpose)') }} as purpose,
    coalesce(nullif({{ lower_case('trim(channel)') }}, ''), 'any') as channel,
    {{ lower_case('trim(status)') }} as status,
    occurred_at,
    trim(source) as source
from staged
