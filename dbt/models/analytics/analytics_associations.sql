-- Grain: one rule: baskets with the antecedent have the consequent, too. Products and categories in one purchase, behaviours
-- in one visit. Built whole, once a day: an aggregate; pairs are few where baskets are small. Fed by unified.purchases and
-- analytics.customer_steps; read by BI and recommendations.
{{ config(materialized='table') }}

with bought as (
    select event_id, product_id, category from {{ ref('unified_purchases') }} where {{ is_purchase('event_name') }}
),

acts as (
    select distinct path_id, event_name from {{ ref('analytics_customer_steps') }} where scope = 'visit'
),

items as (
    select distinct 'products' as kind, event_id as basket_id, product_id as item from bought where product_id is not null
    union all
    select distinct 'categories', event_id, category from bought where category is not null
    union all
    select 'behaviours', path_id, event_name from acts
    union all
    -- What was not done goes with what was: a search without a purchase.
    select 'behaviours', path_id, 'no purchase' from acts
    group by path_id
    having max(case when {{ is_purchase('event_name') }} then 1 else 0 end) = 0
),

baskets as {{ materialized() }} (
    select kind, basket_id, item
    from (select items.*, count(*) over (partition by kind, basket_id) as item_count from items) as sized
    where item_count <= {{ var('association_largest_basket') }}
),

totals as (
    select kind, count(distinct basket_id) as basket_count from baskets group by kind
),

-- A pair is no more frequent than its items: rare items make none.
frequent as {{ materialized() }} (
    select kind, item, count(*) as item_count
    from baskets
    group by kind, item
    having count(*) >= {{ var('association_least_count') }}
),

considered as {{ materialized() }} (
    select baskets.kind, baskets.basket_id, baskets.item
    from baskets
    inner join frequent on frequent.kind = baskets.kind and frequent.item = baskets.item
),

pairs as (
    select one.kind, one.item as antecedent, other.item as consequent, count(*) as pair_count
    from considered as one
    inner join considered as other on other.kind = one.kind and other.basket_id = one.basket_id
    where one.item <> other.item
    group by one.kind, one.item, other.item
    having count(*) >= {{ var('association_least_count') }}
),

final as (
    select
        pairs.kind,
        pairs.antecedent,
        pairs.consequent,
        pairs.pair_count,
        antecedents.item_count as antecedent_count,
        consequents.item_count as consequent_count,
        totals.basket_count
    from pairs
    inner join totals on totals.kind = pairs.kind
    inner join frequent as antecedents on antecedents.kind = pairs.kind and antecedents.item = pairs.antecedent
    inner join frequent as consequents on consequents.kind = pairs.kind and consequents.item = pairs.consequent
)

select
    md5(concat_ws('|', kind, antecedent, consequent)) as association_id,
    kind,
    antecedent,
    consequent,
    cast(pair_count as bigint) as pair_count,
    cast(antecedent_count as bigint) as antecedent_count,
    cast(consequent_count as bigint) as consequent_count,
    cast(basket_count as bigint) as basket_count,
    cast(pair_count as double) / cast(basket_count as double) as support,
    cast(pair_count as double) / cast(antecedent_count as double) as confidence,
    cast(pair_count as double) * cast(basket_count as double)
        / (cast(antecedent_count as double) * cast(consequent_count as double)) as lift
from final
