-- Grain: one external contact in WeCom. Fed by wecom/contacts; read by identity and the customer's attributes.

with staged as ({{ staged('wecom_contacts') }})

select
    {{ carried() }},
    external_user_id,
    union_id,
    {{ contact('phone', 'phone') }},
    {{ person_name('name') }} as name,
    trim(remark) as remark,
    added_at,
    updated_at
from staged
