-- Preference. Grain: one customer who clearly favours one category: at least half of what they view and buy.

select tags.customer_id
from {{ ref('tags_customer_tags') }} as tags
inner join {{ ref('unified_customers') }} as customers on customers.customer_id = tags.customer_id
where tags.tag = 'favourite_category' and tags.confidence >= 0.5 and customers.is_known
