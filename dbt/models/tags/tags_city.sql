-- Grain: one customer whose city is known, by the survivorship rules. Fed by unified.customers.

select {{ tag('city', value='city') }}
from {{ of_touched('unified_customers') }}
where city is not null
