-- Grain: one customer with at least five acts of their own whose operating system is known, within 180 days. Channel and
-- system that they use most, such as app_ios or web_windows; confidence is its share. Fed by unified.customer_events and the
-- trackers' cleaned events, which hold the user agent.

with tracked as (
    {% for table in ['web_events', 'app_events', 'mini_program_events'] -%}
    select '{{ table }}' as source_table, record_id, user_agent
    from {{ ref('cleaned_' ~ table) }}
    where user_agent is not null
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

-- By user agent first, of which there are few: its words are searched once for each.
used as (
    select
        events.customer_id, events.channel, tracked.user_agent, count(*) as acts, max(events.occurred_at) as last_act_at
    from {{ of_touched('unified_customer_events') }} as events
    inner join tracked on tracked.record_id = events.record_id and tracked.source_table = events.source_table
    where events.customer_id is not null and {{ is_own_act('events.event_name') }}
        and {{ within_days('events.occurred_at', 180) }}
    group by events.customer_id, events.channel, tracked.user_agent
),

named as (
    select customer_id, channel, {{ operating_system('user_agent') }} as operating_system, acts, last_act_at from used
),

shares as (
    select
        customer_id,
        concat_ws('_', channel, operating_system) as platform,
        sum(acts) as acts,
        sum(sum(acts)) over (partition by customer_id) as acts_total,
        row_number() over (
            partition by customer_id order by sum(acts) desc, max(last_act_at) desc, channel, operating_system
        ) as preference
    from named
    where operating_system is not null
    group by customer_id, channel, operating_system
)

select {{ tag('platform', value='platform', number_value='acts', confidence='cast(acts as double) / acts_total') }}
from shares
where preference = 1 and acts_total >= 5
