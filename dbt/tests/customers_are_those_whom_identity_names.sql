-- Every customer that an identifier belongs to is in unified.customers, and nobody else is: a merged one is gone.
-- Only of customers who changed since the last tested write, as anybody else was tested then.
-- Reads assignments through their view in unified, so that the test runs when both sides are built.
{{ config(meta={'dagster': {'ref': {'name': 'unified_customers'}}}) }}

select named.customer_id, 'identity names it, unified.customers lacks it' as problem
from {{ ref('unified_customer_identifiers') }} as named
left join {{ ref('unified_customers') }} as customers on customers.customer_id = named.customer_id
where customers.customer_id is null
    and named.customer_id in (select customer_id from {{ ref('unified_touched_customers') }} where {{ is_untested() }})
union
select customers.customer_id, 'unified.customers has it, no identifier names it'
from {{ ref('unified_customers') }} as customers
left join {{ ref('unified_customer_identifiers') }} as named on named.customer_id = customers.customer_id
where named.customer_id is null
    and customers.customer_id in (select customer_id from {{ ref('unified_touched_customers') }} where {{ is_untested() }})
