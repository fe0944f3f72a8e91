-- Lapsed. Grain: one customer who bought at least once and not in the last 90 days.

select tags.customer_id
from {{ ref('tags_customer_tags') }} as tags
inner join {{ ref('unified_customers') }} as customers on customers.customer_id = tags.customer_id
where tags.tag = 'lifecycle' and tags.value in ('at_risk', 'lapsed') and customers.is_known
