-- Value. Grain: one customer of the tiers vip and high.

select tags.customer_id
from {{ ref('tags_customer_tags') }} as tags
inner join {{ ref('unified_customers') }} as customers on customers.customer_id = tags.customer_id
where tags.tag = 'value_tier' and tags.value in ('vip', 'high') and customers.is_known
