-- Grain: one metric of one refresh about customers and tags; identifier_type is '*'. Fed by unified and tags; checked before
-- anything is served or published.
{{ config(unique_key='metric_key', incremental_strategy='delete+insert') }}

with measured as (
    select concat_ws(':', 'tag_coverage', tag) as metric, customer_count as numerator, known_customer_count as denominator
    from {{ ref('tags_catalog') }}
    union all
    select 'known_customers', count(case when is_known then 1 end), count(*) from {{ ref('unified_customers') }}
    union all
    select 'amount_conversion', count(amount_base), count(amount) from {{ ref('unified_customer_events') }}
    union all
    select 'event_attribution', count(customer_id), count(*) from {{ ref('unified_customer_events') }}
)

select
    concat_ws('|', '{{ var("refresh", 0) }}', metric) as metric_key,
    cast({{ var('refresh', 0) }} as bigint) as refresh,
    metric,
    '*' as channel,
    '*' as identifier_type,
    cast(numerator as double) / nullif(denominator, 0) as value,
    cast(numerator as bigint) as numerator,
    cast(denominator as bigint) as denominator,
    {{ as_of() }} as measured_at,
    cast(null as string) as batch_id
from measured
