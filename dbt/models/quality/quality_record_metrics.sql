-- Grain: one metric of one refresh, by channel and identifier type ('*': all). Fed by the ledger, sightings and records;
-- checked before anything unified is built. Definitions: docs/quality.md.
{{ config(unique_key='metric_key', incremental_strategy='delete+insert') }}

-- Records of one channel that name the same person by the same identifier count once: a page view does not match the page
-- view before it.
with named as (
    select distinct channel, identifier_type, identifier_value, customer_id
    from {{ ref('identity_records') }}
    where identifier_type is not null
),

reach as (
    select customer_id, count(distinct channel) as channels
    from named
    where customer_id is not null
    group by customer_id
),

attached as (
    select
        coalesce(named.channel, '*') as channel,
        coalesce(named.identifier_type, '*') as identifier_type,
        count(*) as records,
        count(named.customer_id) as integrated,
        count(case when reach.channels > 1 then 1 end) as matched
    from named
    left join reach on reach.customer_id = named.customer_id
    group by grouping sets ((named.channel, named.identifier_type), (named.channel), ())
),

-- With a single channel that names people there is nothing to match with.
channels as (select count(distinct channel) as channels from named),

valid as (
    select
        coalesce(channel, '*') as channel, identifier_type, count(*) as sightings,
        count(case when is_valid then 1 end) as valid, count(case when is_usable then 1 end) as usable
    from {{ ref('identity_sightings') }}
    where is_current
    group by grouping sets ((channel, identifier_type), (identifier_type))
),

-- The batches that no finished refresh has taken in; what was replayed since is no longer rejected.
waiting as (
    select batch_id, count(*) as rejected
    from {{ source('staging', '_rejected') }}
    where replayed_in is null
    group by batch_id
),

loads as (
    select
        coalesce(batches.channel, '*') as channel,
        sum(batches.rows_read) as read,
        coalesce(sum(waiting.rejected), 0) as rejected,
        sum(batches.rows_duplicate) as duplicate,
        max_by(batches.batch_id, batches.seq) as batch_id
    from {{ source('staging', '_loads') }} as batches
    left join waiting on waiting.batch_id = batches.batch_id
    where batches.seq > {{ var('judged_from', 0) }} and batches.status = 'loaded'
    group by grouping sets ((batches.channel), ())
    having count(*) > 0
),

clusters as (
    select count(*) as customers, max(identifiers) as largest, sum(identifiers) as identifiers
    from (select customer_id, count(*) as identifiers from {{ ref('identity_assignments') }} group by customer_id) as sizes
),

measured as (
    select 'integration_rate' as metric, channel, identifier_type, integrated as numerator, records as denominator
    from attached
    union all
    select 'match_rate', channel, identifier_type, matched, records
    from attached
    where (select channels from channels) > 1
    union all
    select 'validity', channel, identifier_type, valid, sightings from valid
    union all
    select 'usability', channel, identifier_type, usable, sightings from valid
    union all
    select 'reject_rate', channel, '*', rejected, read from loads
    union all
    select 'duplicate_rate', channel, '*', duplicate, read from loads
    union all
    select 'largest_customer_share', '*', '*', largest, identifiers from clusters
)

select
    concat_ws('|', '{{ var("refresh", 0) }}', measured.metric, measured.channel, measured.identifier_type) as metric_key,
    cast({{ var('refresh', 0) }} as bigint) as refresh,
    measured.metric,
    measured.channel,
    measured.identifier_type,
    cast(measured.numerator as double) / nullif(measured.denominator, 0) as value,
    cast(measured.numerator as bigint) as numerator,
    cast(measured.denominator as bigint) as denominator,
    {{ as_of() }} as measured_at,
    loads.batch_id
from measured
left join loads on loads.channel = measured.channel
