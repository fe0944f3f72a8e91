-- Grain: one customer with at least five acts of their own on a device whose kind is known, within 180 days. The kind that
-- they use most: mobile, tablet or desktop; confidence is its share. Fed by unified.customer_events.

with shares as (
    select
        customer_id,
        device_class,
        count(*) as acts,
        sum(count(*)) over (partition by customer_id) as acts_total,
        row_number() over (
            partition by customer_id order by count(*) desc, max(occurred_at) desc, device_class
        ) as preference
    from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and device_class in ('mobile', 'tablet', 'desktop')
        and {{ is_own_act('event_name') }} and {{ within_days('occurred_at', 180) }}
    group by customer_id, device_class
)

select
    {{ tag('device', value='device_class', number_value='acts', confidence='cast(acts as double) / acts_total') }}
from shares
where preference = 1 and acts_total >= 5
