-- Grain: one customer whose city is in the seed city_tiers, by its Chinese or its Latin name; who states another country than
-- China has none. Fed by unified.customers.

with named as (
    select name_zh as name, tier from {{ ref('city_tiers') }}
    union all
    select name_en, tier from {{ ref('city_tiers') }}
),

cities as (
    select {{ place_key('name') }} as place, tier from named where name is not null
),

located as (
    select customer_id, {{ place_key('city') }} as place
    from {{ of_touched('unified_customers') }}
    where city is not null and coalesce(country, 'CN') = 'CN'
),

tiered as (
    select located.customer_id, cities.tier
    from located
    inner join cities on cities.place = located.place
)

select {{ tag('city_tier', value='tier') }}
from tiered
