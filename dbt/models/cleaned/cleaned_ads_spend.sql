-- Grain: one day of one campaign on one platform. Fed by ads/spend; read by campaigns and attribution.

with staged as ({{ staged('ads_spend', rates_at='date') }})

select
    {{ carried() }},
    staged.date,
    {{ lower_case('trim(platform)') }} as platform,
    trim(campaign_id) as campaign_id,
    impressions,
    clicks,
    cost,
    {{ currency('staged.currency') }} as currency,
    {{ in_base_currency('cost', currency('staged.currency')) }} as cost_base
from staged
{{ join_rates('staged', 'currency', 'date') }}
