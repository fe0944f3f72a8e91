-- Grain: one metric of one refresh, by channel and identifier type; the history of all of them.
{{ config(materialized='view') }}

select metric, channel, identifier_type, value, numerator, denominator, measured_at, batch_id, refresh
from {{ ref('quality_record_metrics') }}
union all
select metric, channel, identifier_type, value, numerator, denominator, measured_at, batch_id, refresh
from {{ ref('quality_customer_metrics') }}
