-- The catalogue goes by the models' names: a tag that is named otherwise would have no coverage.
select tags.tag
from {{ ref('tags_customer_tags') }} as tags
left join {{ ref('tags_catalog') }} as catalog on catalog.tag = tags.tag
where catalog.tag is null
