-- Grain: one customer, purpose and channel, with the statement in force: the latest wins, of equal times a denial. A
-- channel of `any` speaks for all. Fed by crm consents; read by publication.
{{ config(materialized='table') }}

with stated as (
    select
        assignments.customer_id,
        consents.purpose,
        consents.channel,
        consents.status,
        consents.occurred_at,
        row_number() over (
            partition by assignments.customer_id, consents.purpose, consents.channel
            order by
                consents.occurred_at desc,
                case when consents.status = 'granted' then 1 else 0 end,
                consents.status,
                consents.record_id
        ) as recency
    from {{ ref('cleaned_crm_consents') }} as consents
    inner join {{ ref('identity_assignments') }} as assignments
        on assignments.identifier_type = consents.identifier_type
        and assignments.identifier_value = consents.identifier_value
        and {{ in_span('assignments', 'consents.occurred_at') }}
    where consents.occurred_at <= {{ as_of() }}
)

select customer_id, purpose, channel, status, occurred_at as as_of from stated where recency = 1
