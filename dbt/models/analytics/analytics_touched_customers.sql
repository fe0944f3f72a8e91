-- Grain: one customer whose touchpoints or conversions may have changed, with the number of the write that found it: those whose
-- own records did, and those with an event in a session that was cut anew: the visit is whose log-in was last, and others'
-- events may move it. Read by this layer.
{{ config(unique_key='customer_id', incremental_strategy='delete+insert') }}

with touched as (
    select customer_id from {{ ref('unified_touched_customers') }} where {{ is_new() }}
    union
    select events.customer_id
    from (select event_id from {{ ref('unified_session_events') }} where {{ is_new() }}) as places
    inner join {{ ref('unified_customer_events') }} as events on events.event_id = places.event_id
)

select customer_id, {{ seq() }} from touched where customer_id is not null
