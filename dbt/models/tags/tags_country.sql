-- Grain: one customer whose country is known, by the survivorship rules; ISO 3166-1 alpha-2. Fed by unified.customers.

select {{ tag('country', value='country') }}
from {{ of_touched('unified_customers') }}
where country is not null
