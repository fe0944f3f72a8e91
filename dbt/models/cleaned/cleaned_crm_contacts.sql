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
    {{ gender('gender') }} as gender,
    gender as gender_given,
    {{ birth_date('birth_date') }} as birth_date,
    birth_date as birth_date_given,
    trim(address) as address,
    trim(city) as city,
    trim(region) as region,
    upper(trim(postal_code)) as postal_code,
    {{ country('country') }} as country,
    country as country_given,
    trim(company) as company,
    trim(job_title) as job_title,
    created_at,
    updated_at
from staged
