-- Grain: one metric of one refresh, by channel and identifier type, with what was usual; the history of all of them.
{{ config(materialized='view') }}

{% for part in ('record', 'batch', 'customer') -%}
select
    metric, channel, identifier_type, value, numerator, denominator, measured_at, batch_id, refresh,
    usual, lower, upper, samples, deviation, is_anomaly, anomalous_since
from {{ ref('quality_' ~ part ~ '_metrics') }}
{{ 'union all' if not loop.last }}
{% endfor %}
