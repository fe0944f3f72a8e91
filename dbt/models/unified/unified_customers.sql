-- Grain: one customer. Who they are (one value of each attribute survives, with its source), what they did and bought, how
-- we spoke. Fed by the unified tables; read by tags, audiences and BI.
{{ config(incremental_strategy='touched') }}

{%- set attributes = ['first_name', 'last_name', 'full_name', 'gender', 'birth_date', 'address', 'city', 'region',
    'postal_code', 'country', 'company', 'job_title', 'loyalty_tier', 'loyalty_points'] %}

with touched as ({{ touched_customers() }}),

theirs as (
    select * from {{ ref('unified_customer_identifiers') }} where customer_id in (select customer_id from touched)
),

acts as (
    select customer_id, channel, event_name, occurred_at, amount_base, score, traffic
    from {{ ref('unified_customer_events') }}
    where customer_id in (select customer_id from touched)
),

identifiers as (
    select
        customer_id,
        bool_or(is_person) as is_known,
        count(distinct concat_ws(':', identifier_type, identifier_value)) as identifier_count,
        min(first_seen_at) as first_seen_at,
        max(last_seen_at) as last_seen_at
    from theirs
    group by customer_id
),

contacts as ({{ latest_contacts() }}),

survivors as ({{ surviving_attributes() }}),

profile as (
    select
        customer_id
        {%- for attribute in attributes %},
        max(case when attribute = '{{ attribute }}' then value end) as {{ attribute }},
        max(case when attribute = '{{ attribute }}' then source_table end) as {{ attribute }}_source
        {%- endfor %}
    from survivors
    group by customer_id
),

-- How many people the records of one customer speak of.
variety as (
    select
        customer_id,
        greatest(
            count(distinct case when attribute = 'first_name' then {{ lower_case('value') }} end),
            count(distinct case when attribute = 'full_name' then {{ lower_case('value') }} end)
        ) as name_count,
        count(distinct case when attribute = 'birth_date' then value end) as birth_date_count,
        count(distinct case when attribute = 'gender' then value end) as gender_count,
        count(distinct case when attribute = 'city' then {{ lower_case('value') }} end) as city_count
    from {{ ref('unified_customer_attributes') }}
    where value is not null and customer_id in (select customer_id from touched)
    group by customer_id
),

activity as (
    select
        customer_id,
        count(*) as event_count,
        {{ distinct_text('channel') }} as channels,
        count(distinct channel) as channel_count,
        min(occurred_at) as first_event_at,
        max(occurred_at) as last_event_at,
        {{ count_events('order_placed', 'store_purchase') }} as order_count,
        {{ count_events('order_refunded', 'store_return') }} as refund_count,
        coalesce(sum({{ amount_of('order_placed', 'store_purchase') }}), 0) as revenue_base,
        coalesce(sum({{ amount_of('order_refunded', 'store_return') }}), 0) as refunded_base,
        min(case when event_name in ('order_placed', 'store_purchase') then occurred_at end) as first_order_at,
        max(case when event_name in ('order_placed', 'store_purchase') then occurred_at end) as last_order_at,
        {{ count_events('page_viewed', 'product_viewed') }} as view_count,
        {{ count_events('searched') }} as search_count,
        {{ count_events('email_delivered', 'sms_delivered') }} as message_delivered_count,
        {{ count_events('email_opened', 'sms_opened') }} as message_opened_count,
        {{ count_events('email_clicked', 'sms_clicked') }} as message_clicked_count,
        {{ count_events('message_received', 'call_received') }} as service_contact_count,
        max(case when event_name in ('message_received', 'call_received') then occurred_at end) as last_service_contact_at,
        avg(cast(case when channel = 'chat' then score end as double)) as csat_average
    from acts
    where {{ is_customer_traffic() }}
    group by customer_id
),

others as (
    select customer_id, min(traffic) as traffic
    from acts
    where not {{ is_customer_traffic() }}
    group by customer_id
)

select
    identifiers.customer_id,
    identifiers.is_known,
    case when activity.customer_id is null then coalesce(others.traffic, 'customer') else 'customer' end as traffic,
    identifiers.identifier_count,
    identifiers.first_seen_at,
    identifiers.last_seen_at,
    contacts.email,
    contacts.phone,
    {% for attribute in attributes -%}
    {%- if attribute == 'birth_date' %}cast(profile.birth_date as date) as birth_date
    {%- elif attribute == 'loyalty_points' %}cast(profile.loyalty_points as double) as loyalty_points
    {%- else %}profile.{{ attribute }}{% endif %},
    profile.{{ attribute }}_source,
    {% endfor -%}
    coalesce(activity.event_count, 0) as event_count,
    activity.channels,
    coalesce(activity.channel_count, 0) as channel_count,
    activity.first_event_at,
    activity.last_event_at,
    coalesce(activity.order_count, 0) as order_count,
    coalesce(activity.refund_count, 0) as refund_count,
    cast(coalesce(activity.revenue_base, 0) as decimal(18, 4)) as revenue_base,
    cast(coalesce(activity.refunded_base, 0) as decimal(18, 4)) as refunded_base,
    cast(coalesce(activity.revenue_base, 0) - coalesce(activity.refunded_base, 0) as decimal(18, 4)) as net_revenue_base,
    activity.first_order_at,
    activity.last_order_at,
    coalesce(activity.view_count, 0) as view_count,
    coalesce(activity.search_count, 0) as search_count,
    coalesce(activity.message_delivered_count, 0) as message_delivered_count,
    coalesce(activity.message_opened_count, 0) as message_opened_count,
    coalesce(activity.message_clicked_count, 0) as message_clicked_count,
    coalesce(activity.service_contact_count, 0) as service_contact_count,
    activity.last_service_contact_at,
    activity.csat_average,
    coalesce(variety.name_count, 0) as name_count,
    coalesce(variety.birth_date_count, 0) as birth_date_count,
    coalesce(variety.gender_count, 0) as gender_count,
    coalesce(variety.city_count, 0) as city_count,
    coalesce(variety.name_count > 3 or variety.birth_date_count > 1 or variety.gender_count > 1 or variety.city_count > 5, false)
        as is_over_merge_suspect,
    {{ seq() }}
from identifiers
left join contacts on contacts.customer_id = identifiers.customer_id
left join profile on profile.customer_id = identifiers.customer_id
left join activity on activity.customer_id = identifiers.customer_id
left join variety on variety.customer_id = identifiers.customer_id
left join others on others.customer_id = identifiers.customer_id
