-- Grain: one value of one tag on one day, with how many known customers had it in the first refresh of that day. Fed by
-- tags.customer_tags; read by the catalogue, which tells how far a tag has drifted since a week before.
{{ config(incremental_strategy='append', full_refresh=false, pre_hook="{{ forget_the_day('measured_on') }}") }}

with known as (select customer_id from {{ ref('unified_customers') }} where is_known)

select
    tags.tag,
    tags.value,
    count(*) as customer_count,
    (select count(*) from known) as known_customer_count,
    cast({{ as_of() }} as date) as measured_on,
    {{ seq() }}
from {{ ref('tags_customer_tags') }} as tags
inner join known on known.customer_id = tags.customer_id
{% if is_incremental() -%}
where not exists (select 1 from {{ this }} where measured_on = cast({{ as_of() }} as date))
{% endif -%}
group by tags.tag, tags.value
