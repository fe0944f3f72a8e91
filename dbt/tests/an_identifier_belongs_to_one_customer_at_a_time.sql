-- Spans of one identifier do not overlap; valid_to is excluded from its span.
select earlier.node_id, earlier.customer_id, later.customer_id as other_customer_id
from {{ ref('identity_assignments') }} as earlier
inner join {{ ref('identity_assignments') }} as later
    on later.node_id = earlier.node_id
    and coalesce(later.valid_from, timestamp '0001-01-01') >= coalesce(earlier.valid_from, timestamp '0001-01-01')
    and coalesce(later.valid_from, timestamp '0001-01-01') < coalesce(earlier.valid_to, timestamp '9999-12-31')
where earlier.node_id in (select node_id from {{ ref('identity_assignments') }} where {{ is_untested() }})
    and (later.customer_id <> earlier.customer_id
    or coalesce(later.valid_from, timestamp '0001-01-01') > coalesce(earlier.valid_from, timestamp '0001-01-01'))
