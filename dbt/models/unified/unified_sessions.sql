-- Grain: one session: what one visitor did on one channel without a break. Fed by unified.session_events and
-- unified.customer_events; read by analytics and BI.
{{ config(incremental_strategy='visitors') }}

{%- set carriers = "('" ~ carrier_types() | join("', '") ~ "')" %}

with {% if is_incremental() -%}
{% set since = touched_since() -%}
touched as ({{ touched_visitors(since) }}),

{% endif -%}
places as (
    select places.event_id, places.session_id, places.event_number, places.dwell_seconds
    from {{ ref('unified_session_events') }} as places
    {%- if is_incremental() %}
    inner join touched on touched.visitor_id = places.visitor_id
    where places.session_started_at >= touched.cut_from and places.occurred_at >= {{ since }}
    {%- endif %}
),

events as (
    select
        events.*,
        places.session_id as visit_id,
        places.event_number,
        places.dwell_seconds,
        events.event_name in ('page_viewed', 'product_viewed') as is_view
    from {{ ref('unified_customer_events') }} as events
    inner join places on places.event_id = events.event_id
    {%- if is_incremental() %}
    where events.occurred_at >= {{ since }}
    {%- endif %}
),

-- A page and the product on it are one view where the tracker sends both.
viewed as (
    select
        *,
        case
            when not is_view then 0
            when url = lag(url) over (partition by visit_id, is_view order by event_number) then 0
            else 1
        end as is_new_view
    from events
),

-- An order belongs to the session of the last thing that its customer did on a tracker before it, up to the idle time.
acts as (
    select event_id, customer_id, occurred_at, visitor_id is not null as is_visit, amount_base
    from {{ ref('unified_customer_events') }}
    where customer_id in (select customer_id from events)
        {%- if is_incremental() %}
        and occurred_at >= {{ since }}
        {%- endif %}
        and (visitor_id is not null or event_name = 'order_placed')
),

followed as (
    select
        *,
        max(case when is_visit then occurred_at end) over (
            partition by customer_id order by occurred_at, is_visit desc, event_id rows unbounded preceding
        ) as last_visited_at,
        max(case when is_visit then concat_ws('', {{ sortable('occurred_at') }}, event_id) end) over (
            partition by customer_id order by occurred_at, is_visit desc, event_id rows unbounded preceding
        ) as last_visit
    from acts
),

orders as (
    select places.session_id as visit_id, count(*) as order_count, sum(followed.amount_base) as amount_base
    from followed
    inner join places on places.event_id = substr(followed.last_visit, 19)
    where not followed.is_visit
        and followed.occurred_at <= {{ dbt.dateadd('minute', var('session_idle_minutes', 30), 'followed.last_visited_at') }}
    group by places.session_id
),

visits as (
    select
        visit_id,
        min(visitor_id) as visitor_id,
        -- Whoever logged in last; before that, whoever the browser or device belongs to.
        max_by(customer_id, case
            when customer_id is not null then event_number + case when identifier_type in {{ carriers }} then 0 else 1000000000 end
        end) as customer_id,
        min(channel) as channel,
        coalesce(min(case when traffic <> 'customer' then traffic end), 'customer') as traffic,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        coalesce(sum({{ decimal_of('dwell_seconds', 6) }}), 0) as duration_seconds,
        count(*) as event_count,
        sum(is_new_view) as page_views,
        min_by(url, case when url is not null then event_number end) as entry_url,
        max_by(url, case when url is not null then event_number end) as exit_url,
        min_by(referrer, case when referrer is not null then event_number end) as referrer,
        max(case when campaign_at = event_number then utm_source end) as utm_source,
        max(case when campaign_at = event_number then utm_medium end) as utm_medium,
        max(case when campaign_at = event_number then utm_campaign end) as utm_campaign,
        min_by(device_class, case when device_class is not null then event_number end) as device_class,
        min_by(session_id, case when session_id is not null then event_number end) as tracker_session_id,
        {{ count_events('checkout_completed') }} as tracked_order_count,
        sum({{ amount_of('checkout_completed') }}) as tracked_amount_base
    from (
        select *, min(case when {{ campaign() }} is not null then event_number end) over (partition by visit_id) as campaign_at
        from viewed
    ) as viewed
    group by visit_id
),

-- What only the tracker reports as bought counts where the shop's own records have no order.
final as (
    select
        visits.*,
        cast(coalesce(orders.order_count, visits.tracked_order_count) as bigint) as order_count,
        cast(coalesce(case when orders.visit_id is not null then orders.amount_base else visits.tracked_amount_base end, 0)
            as decimal(18, 4)) as amount_base
    from visits
    left join orders on orders.visit_id = visits.visit_id
)

select
    visit_id as session_id,
    visitor_id,
    customer_id,
    channel,
    traffic,
    started_at,
    ended_at,
    cast(duration_seconds as double) as duration_seconds,
    cast(event_count as bigint) as event_count,
    cast(page_views as bigint) as page_views,
    entry_url,
    exit_url,
    referrer,
    utm_source,
    utm_medium,
    utm_campaign,
    device_class,
    tracker_session_id,
    order_count,
    amount_base,
    order_count > 0 as is_converted,
    -- Google Analytics 4: a session is engaged that lasts 10 seconds, has two views or a key event; others bounce.
    not (duration_seconds >= 10 or page_views >= 2 or order_count > 0) as is_bounce,
    {{ seq() }}
from final
