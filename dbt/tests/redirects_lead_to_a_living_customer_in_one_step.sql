-- A customer id that is in use is not redirected, and a redirect leads to one that is neither redirected nor gone.
-- An id whose identifiers all became unusable is gone without a successor; what was redirected to it stays.
{{ config(meta={'dagster': {'ref': {'name': 'identity_redirects'}}}) }}

select redirects.from_customer_id, redirects.to_customer_id, 'is in use' as problem
from {{ ref('identity_redirects') }} as redirects
inner join {{ ref('identity_assignments') }} as assignments on assignments.customer_id = redirects.from_customer_id
union
select first_step.from_customer_id, first_step.to_customer_id, 'takes two steps'
from {{ ref('identity_redirects') }} as first_step
inner join {{ ref('identity_redirects') }} as second_step on second_step.from_customer_id = first_step.to_customer_id
