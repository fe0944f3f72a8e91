select customer_id, purpose, channel, count(*) as statements
from {{ ref('unified_consents') }}
group by customer_id, purpose, channel
having count(*) > 1
