-- Grain: one contact of the CRM, in its latest version. Fed by crm/contacts; read by identity and the customer's attributes.

with staged as ({{ staged('crm_contacts') }})

select
    {{ carried() }},
    contact_id,
    user_id,
    {{ contact('email', 'email') }},
    {{ contact('phone', 'phone') }},
    {{ person_name('first_name') }} as first_name,
    {{ person_name('last_name') }} as last_name,
    {{ person_name('full_name') }} as full_name,
    {{ normal('gender', gender('gender')) }},
    {{ normal('birth_date', birth_date('birth_date')) }},
    trim(address) as address,
    trim(city) as city,
    trim(region) as region,
    {{ upper_case('trim(postal_code)') }} as postal_code,
    {{ normal('country', country('country')) }},
    trim(company) as company,
    trim(job_title) as job_title,
    created_at,
    updated_at,
    coalesce(is_deleted, false) as is_deleted
from staged
