select customer_id, tag, count(*) as times
from {{ ref('tags_customer_tags') }}
where customer_id in (select customer_id from {{ ref('tags_customer_tags') }} where {{ is_untested() }})
group by customer_id, tag
having count(*) > 1
