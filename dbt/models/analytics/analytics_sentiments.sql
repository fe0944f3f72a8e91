-- Grain: one distinct text that customers wrote, with its sentiment. Only new texts are scored. This SELECT is what there is to
-- read; the step scores it (dagster_project/lib/voice.py). Fed by unified.customer_events; read by this layer.
{{ config(materialized='python_step', step='voice.score') }}

select text, _seq, {{ 'true' if should_full_refresh() else 'false' }} as is_whole
from {{ ref('unified_customer_events') }}
where {{ has_own_words() }}
