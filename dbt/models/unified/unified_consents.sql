-- Grain: one customer, purpose and channel, with the statement in force, whichever of their identifiers it named: the latest wins,
-- of equal times a denial. A channel of `any` speaks for all. Whether somebody may be contacted is unified.contact_permissions.
-- Fed by statements; read by BI and the profile.
{{ config(incremental_strategy='changed') }}

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
                consents.statement_id
        ) as recency
    from {{ ref('unified_consent_statements') }} as consents
    inner join {{ of_touched('identity_assignments') }} as assignments
        on assignments.identifier_type = consents.identifier_type
        and assignments.identifier_value = consents.identifier_value
        and {{ in_span('assignments', 'consents.occurred_at') }}
    where consents.occurred_at <= {{ as_of() }} and consents.status in ('granted', 'denied', 'withdrawn')
)

select customer_id, purpose, channel, status, occurred_at as as_of, {{ seq() }} from stated where recency = 1
