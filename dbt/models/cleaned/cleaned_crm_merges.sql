-- Grain: one contact that the CRM merged into another. Fed by crm/merges; read by identity, which links the two.

with staged as ({{ staged('crm_merges') }})

select
    {{ carried() }},
    contact_id,
    merged_contact_id,
    merged_at
from staged
