-- Grain: one identifier of a customer, in time one span of it. Fed by identity; read by BI, activation and the console.
{{ config(materialized='view') }}

select
    assignments.customer_id,
    assignments.identifier_type,
    assignments.identifier_value,
    assignments.identifier_token,
    assignments.valid_from,
    assignments.valid_to,
    greatest(nodes.first_seen_at, assignments.valid_from) as first_seen_at,
    least(nodes.last_seen_at, assignments.valid_to) as last_seen_at,
    nodes.sources,
    assignments.is_person,
    greatest(assignments._seq, nodes._seq) as _seq
from {{ ref('identity_assignments') }} as assignments
inner join {{ ref('identity_nodes') }} as nodes on nodes.node_id = assignments.node_id
