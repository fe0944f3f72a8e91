-- Grain: one member of the loyalty programme. Fed by loyalty/members; read by identity and the customer's attributes.

with staged as ({{ staged('loyalty_members') }})

select
    {{ carried() }},
    member_id,
    {{ contact('phone', 'phone') }},
    {{ contact('email', 'email') }},
    {{ lower_case('trim(tier)') }} as tier,
    points,
    joined_at,
    updated_at
from staged
