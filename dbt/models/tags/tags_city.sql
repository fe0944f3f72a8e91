-- Grain: one customer whose city is known, by the survivorship rules. Fed by unified.customers.

select {{ tag('city', value='city') }}
from {{ ref('unified_customers') }}
where city is not null
