-- Grain: one customer whose records, identity, attributes or consent changed, with the number of the write that last did. Fed by
-- identity and the unified tables; read by every model that is kept up to date customer by customer.
{{ config(unique_key='customer_id', incremental_strategy='delete+insert') }}

with touched as (
    select customer_id from {{ ref('unified_customer_events') }} where {{ is_new() }}
    union
    select previous_customer_id from {{ ref('unified_customer_events') }} where {{ is_new() }}
    union
    select customer_id from {{ ref('unified_customer_attributes') }} where {{ is_new() }}
    union
    select previous_customer_id from {{ ref('unified_customer_attributes') }} where {{ is_new() }}
    union
    select customer_id from {{ ref('identity_records') }} where {{ is_new() }}
    union
    select previous_customer_id from {{ ref('identity_records') }} where {{ is_new() }}
    union
    select from_customer_id from {{ ref('identity_changes') }} where {{ is_new() }}
    union
    select to_customer_id from {{ ref('identity_changes') }} where {{ is_new() }}
    union
    select assignments.customer_id
    from (select * from {{ ref('cleaned_external_attributes') }} where {{ is_new() }}) as stated
    inner join {{ ref('identity_assignments') }} as assignments
        on assignments.identifier_type = stated.identifier_type and assignments.identifier_value = stated.identifier_value
    union
    select assignments.customer_id
    from (select * from {{ ref('unified_consent_statements') }} where {{ is_new() }}) as stated
    inner join {{ ref('identity_assignments') }} as assignments
        on assignments.identifier_type = stated.identifier_type and assignments.identifier_value = stated.identifier_value
)

select customer_id, {{ seq() }} from touched where customer_id is not null
