-- Grain: one address of a customer (none: the person as such), purpose and channel that something was stated about; what has no
-- row is unknown. The rules are in dbt/macros/consent.sql. Fed by statements and identifiers; read by audiences, publication and
-- delivery.
{{ config(incremental_strategy='changed') }}

select permissions.*, {{ seq() }}
from (
    {{ judged_permissions(of_touched('unified_customer_identifiers'), ref('unified_consent_statements')) }}
) as permissions
