-- Grain: one union of two customers that a rule forbade, with the rule, its reason and the identifier that would have united
-- them; its evidence are the rows of identity.evidence of the pair. The solver writes it; read by reviews and BI.
-- depends_on: {{ ref('identity_assignments') }}
{{ config(materialized='view') }}

select
    left_type, left_value, right_type, right_value, through_type, through_value, rule, reason, detail,
    left_customer_id, right_customer_id, refused_at, rules_version
from {{ this.schema }}._refusals
