-- Grain: one band of one measure on one day, with the least value that reaches it; 1 is the lowest. Worked out once a day from
-- all customers, so that a customer's tag moves when they act and not whenever somebody else does. Fed by unified; read by
-- tags.rfm and tags.value_tier.
{{ config(incremental_strategy='append', full_refresh=false, pre_hook="{{ forget_the_day('computed_on') }}") }}

with bought as ({{ bought_in_a_year(ref('unified_customer_events')) }}),

ranked as (
    select net_revenue_base, percent_rank() over (order by net_revenue_base desc) as share_above
    from {{ ref('unified_customers') }}
    where order_count > 0
),

banded as (
    select 'recency' as measure, {{ days_since_1970('last_order_at') }} as value,
        {{ quintile(days_since_1970('last_order_at')) }} as band
    from bought
    union all
    select 'frequency', orders, {{ quintile('orders') }} from bought
    union all
    select 'monetary', spend, {{ quintile('spend') }} from bought
    union all
    select 'tier', net_revenue_base,
        case when share_above < 0.05 then 4 when share_above < 0.2 then 3 when share_above < 0.5 then 2 else 1 end
    from ranked
)

select
    measure,
    cast(band as bigint) as band,
    cast(min(value) as decimal(18, 4)) as least_value,
    cast({{ as_of() }} as date) as computed_on,
    {{ seq() }}
from banded
{% if is_incremental() -%}
where not exists (select 1 from {{ this }} where computed_on = cast({{ as_of() }} as date))
{% endif -%}
group by measure, band
