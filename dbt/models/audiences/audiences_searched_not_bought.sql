-- Searched but did not buy. Grain: one customer who searched in the last 30 days and bought nothing since.

with searches as (
    select customer_id, max(occurred_at) as last_search_at
    from {{ ref('unified_customer_events') }}
    where customer_id is not null and event_name = 'searched' and {{ is_customer_traffic() }} and {{ within_days('occurred_at', 30) }}
    group by customer_id
)

select searches.customer_id
from searches
inner join {{ ref('unified_customers') }} as customers on customers.customer_id = searches.customer_id
where customers.is_known and (customers.last_order_at is null or customers.last_order_at < searches.last_search_at)
