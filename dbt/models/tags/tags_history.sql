-- Grain: one value of one tag that a customer had for a time, and the value before it. `valid_from` is the refresh that saw it first.
-- Fed by tags.customer_tags; read by audiences that ask what somebody was or became.
-- depends_on: {{ ref('unified_touched_customers') }}, {{ ref('unified_customers') }}
{{ config(unique_key='history_key', incremental_strategy='revised', full_refresh=false, post_hook='{{ forget_old_values() }}') }}

with now as (
    select customer_id, tag, value from {{ ref('tags_customer_tags') }}
){% if is_incremental() %},

-- All customers where all tags were worked out, else those with something new.
looked_at as (
    select customer_id from {{ ref('unified_touched_customers') }} where {{ is_new() }}
    union
    select customer_id from {{ ref('unified_customers') }}
    where (select min(_seq) from {{ ref('tags_customer_tags') }}) > {{ cursor() }}
),

compared as (
    select
        coalesce(kept.customer_id, now.customer_id) as customer_id,
        coalesce(kept.tag, now.tag) as tag,
        kept.value as value_before,
        kept.previous_value as value_before_that,
        kept.valid_from as since,
        now.value
    from (
        select customer_id, tag, value, previous_value, valid_from
        from {{ this }}
        where valid_to is null and customer_id in (select customer_id from looked_at)
    ) as kept
    full outer join (select * from now where customer_id in (select customer_id from looked_at)) as now
        on now.customer_id = kept.customer_id and now.tag = kept.tag
    where kept.value is null or now.value is null or kept.value <> now.value
),

changes as (
    select customer_id, tag, value_before as value, value_before_that as previous_value, since as valid_from,
        greatest(since, {{ as_of() }}) as valid_to
    from compared
    where value_before is not null and (since < {{ as_of() }} or value is null)
    union all
    -- Of two values that were worked out for one moment the first was none.
    select customer_id, tag, value, case when since >= {{ as_of() }} then value_before_that else value_before end,
        greatest(coalesce(since, {{ as_of() }}), {{ as_of() }}), cast(null as timestamp)
    from compared
    where value is not null
)
{%- else %},

changes as (
    select customer_id, tag, value, cast(null as string) as previous_value, {{ as_of() }} as valid_from,
        cast(null as timestamp) as valid_to
    from now
)
{%- endif %}

select
    concat_ws('|', customer_id, tag, {{ epoch_micros('valid_from') }}) as history_key,
    customer_id, tag, value, previous_value, valid_from, valid_to,
    true as _is_revision,
    {{ seq() }}
from changes
