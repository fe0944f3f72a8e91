-- Grain: one identifier (in time, one span of it) and the customer it belongs to. This SELECT is the candidate graph; the
-- materialisation solves it and keeps ids stable (dagster_project/lib/identity/). Read by everything unified.
-- depends_on: {{ ref('identity_nodes') }}, {{ ref('identity_sightings') }}, {{ ref('identity_evidence') }}
{{ config(materialized='python_step', step='identity.steps.assign') }}

select
    {{ node_id('left_type', 'left_value') }} as left_node_id,
    {{ node_id('right_type', 'right_value') }} as right_node_id,
    rule,
    confidence,
    first_seen_at,
    is_active,
    _seq
from {{ ref('identity_edges') }}
