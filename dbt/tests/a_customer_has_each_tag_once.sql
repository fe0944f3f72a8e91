select customer_id, tag, count(*) as times
from {{ ref('tags_customer_tags') }}
group by customer_id, tag
having count(*) > 1
