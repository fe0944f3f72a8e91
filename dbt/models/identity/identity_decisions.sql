-- Grain: one decision of a person about identity that counts: the last word on each pair, or on an identifier that was handed on. The
-- solver mirrors them from the state store; read by explain and BI.
-- depends_on: {{ ref('identity_assignments') }}
{{ config(materialized='view') }}

select kind, left_node_id as left_id, right_node_id as right_id, effective_at, decided_by, reason, decided_at
from {{ this.schema }}._decisions
