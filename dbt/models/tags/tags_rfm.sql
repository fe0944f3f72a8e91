-- Grain: one customer who bought in the last year. Recency, frequency and spend, each in five groups by percent rank; 555 is
-- the best. Fed by unified.customer_events.

with bought as (
    select
        customer_id,
        max(occurred_at) as last_order_at,
        count(*) as orders,
        coalesce(sum(amount_base), 0) as spend
    from {{ ref('unified_customer_events') }}
    where customer_id is not null and {{ is_purchase('event_name') }} and {{ within_days('occurred_at', 365) }}
    group by customer_id
),

grouped as (
    select
        customer_id,
        {{ quintile('cast(last_order_at as date)') }} as recency,
        {{ quintile('orders') }} as frequency,
        {{ quintile('spend') }} as monetary
    from bought
)

select {{ tag('rfm', value='concat(recency, frequency, monetary)', number_value='recency + frequency + monetary') }}
from grouped
