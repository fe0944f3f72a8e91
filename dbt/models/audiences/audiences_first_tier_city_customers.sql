-- Geography. Grain: one customer who lives in Beijing, Shanghai, Guangzhou or Shenzhen.

select tags.customer_id
from {{ ref('tags_customer_tags') }} as tags
inner join {{ ref('unified_customers') }} as customers on customers.customer_id = tags.customer_id
where tags.tag = 'city'
    and {{ lower_case('tags.value') }} in (
        '北京', '上海', '广州', '深圳', '北京市', '上海市', '广州市', '深圳市',
        'beijing', 'shanghai', 'guangzhou', 'shenzhen')
    and customers.is_known
