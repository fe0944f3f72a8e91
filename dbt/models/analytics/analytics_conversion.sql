-- Grain: one month of first visits and the channel group of the first; (all) stands for all of them. How many of the visitors
-- are known today, have looked for something, bought, and bought again. Built whole, once a day: one pass over
-- analytics.visitors. Read by BI.
{{ config(materialized='table') }}

with visitors as (
    select
        {{ month_of('visited_at') }} as month,
        channel_group,
        is_known,
        engaged_at,
        bought_at,
        bought_again_at,
        bought_at <= {{ dbt.dateadd('day', 30, 'visited_at') }} as is_bought_soon,
        ({{ epoch_micros('bought_at') }} - {{ epoch_micros('visited_at') }}) / cast(86400000000 as double) as days_to_purchase
    from {{ ref('analytics_visitors') }}
    where visited_at <= {{ as_of() }}
),

views as (
    select '(all)' as of_group, visitors.* from visitors
    union all
    select channel_group, visitors.* from visitors
),

counted as (
    select
        month,
        of_group,
        count(*) as visitor_count,
        count(case when is_known then 1 end) as known_count,
        count(engaged_at) as engaged_count,
        count(bought_at) as buyer_count,
        count(case when is_bought_soon then 1 end) as soon_count,
        count(bought_again_at) as repeat_buyer_count,
        {{ median_of('days_to_purchase') }} as median_days
    from views
    group by month, of_group
),

final as (
    -- All visitors of the month have had their 30 days.
    select counted.*, {{ dbt.dateadd('day', 30, months_later('month', 1)) }} <= {{ as_of() }} as is_due
    from counted
)

select
    md5(concat_ws('|', month, of_group)) as conversion_key,
    month,
    of_group as channel_group,
    month = {{ present_month() }} as is_partial,
    cast(visitor_count as bigint) as visitor_count,
    cast(known_count as bigint) as known_count,
    cast(engaged_count as bigint) as engaged_count,
    cast(buyer_count as bigint) as buyer_count,
    cast(repeat_buyer_count as bigint) as repeat_buyer_count,
    {{ ratio('known_count', 'visitor_count') }} as known_rate,
    {{ ratio('engaged_count', 'visitor_count') }} as engaged_rate,
    {{ ratio('buyer_count', 'visitor_count') }} as buyer_rate,
    {{ ratio('repeat_buyer_count', 'buyer_count') }} as repeat_rate,
    case when is_due then cast(soon_count as bigint) end as buyer_30_day_count,
    case when is_due then {{ ratio('soon_count', 'visitor_count') }} end as buyer_30_day_rate,
    cast(median_days as double) as median_days_to_purchase
from final
