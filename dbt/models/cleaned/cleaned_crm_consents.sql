-- Grain: one statement of consent. Fed by crm/consents; read by the customer's consents.

with staged as ({{ staged('crm_consents') }})

select
    {{ carried() }},
    {{ named_identifier('identifier_type', 'identifier_value') }},
    lower(trim(purpose)) as purpose,
    coalesce(nullif(lower(trim(channel)), ''), 'any') as channel,
    lower(trim(status)) as status,
    occurred_at,
    trim(source) as source
from staged
