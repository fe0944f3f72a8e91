-- Grain: one customer with at least five acts of their own in the last 180 days. The channel where they act most; confidence
-- is its share. Fed by unified.customer_events.

with shares as (
    select
        customer_id,
        channel,
        count(*) as acts,
        sum(count(*)) over (partition by customer_id) as acts_total,
        row_number() over (partition by customer_id order by count(*) desc, max(occurred_at) desc, channel) as preference
    from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and {{ is_own_act('event_name') }} and {{ within_days('occurred_at', 180) }}
    group by customer_id, channel
)

select
    {{ tag('preferred_channel', value='channel', number_value='acts', confidence='cast(acts as double) / acts_total') }}
from shares
where preference = 1 and acts_total >= 5
