-- Grain: one customer who bought. New: one purchase; returning: more. Fed by unified.customers.

select
    {{ tag('new_or_returning', value="case when order_count = 1 then 'new' else 'returning' end",
        number_value='order_count') }}
from {{ of_touched('unified_customers') }}
where order_count > 0
