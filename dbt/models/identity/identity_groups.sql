-- Grain: one customer in a wider group of customers who are likely one person: surely enough for messages (lifecycle) or for reach
-- (advertising). Customers who are alone are in no group, and a group never merges its customers. This SELECT gives pairs of
-- customers (dagster_project/lib/identity/groups.py). Read by activation and BI.
{{ config(materialized='python_step', step='identity.steps.widen') }}

select
    least(a.customer_id, b.customer_id) as left_id,
    greatest(a.customer_id, b.customer_id) as right_id,
    max(matches.match_probability) as match_probability,
    min(matches.contradiction) as contradiction,
    max_by(matches.grade, matches.match_probability) as grade
from (select * from {{ ref('identity_matches') }} where is_current) as matches
inner join (select * from {{ ref('identity_assignments') }} where valid_to is null) as a
    on a.identifier_type = matches.left_type and a.identifier_value = matches.left_value
inner join (select * from {{ ref('identity_assignments') }} where valid_to is null) as b
    on b.identifier_type = matches.right_type and b.identifier_value = matches.right_value
where a.customer_id <> b.customer_id
group by least(a.customer_id, b.customer_id), greatest(a.customer_id, b.customer_id)
