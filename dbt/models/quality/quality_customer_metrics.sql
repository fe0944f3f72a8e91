-- Grain: one metric of one refresh about customers, tags and events. Fed by unified and tags; checked before anything
-- is served or published. Definitions: docs/quality.md.
{{ config(unique_key='metric_key', incremental_strategy='delete+insert', full_refresh=false, post_hook='{{ thin_out() }}') }}

with {{ recent_days() }},

-- A rate over all history would hardly move when today's exchange rates are missing.
amounts as (
    select coalesce(channel, '*') as channel, sum(amounts) as amounts, sum(converted) as converted
    from recent_days
    where amounts > 0
    group by grouping sets ((channel), ())
    having sum(amounts) > 0
),

attributed as (select sum(event_count) as events from {{ ref('unified_customers') }}),

counted as (select sum(events) as events from {{ ref('quality_event_days') }}),

shares as (
    select concat_ws(':', 'tag_coverage', tag) as metric, '*' as channel, '*' as identifier_type, customer_count as numerator,
        known_customer_count as denominator, 'either' as worse
    from {{ ref('tags_catalog') }}
    union all
    select concat_ws(':', 'tag_drift', tag), '*', '*', cast(round(drift * known_customer_count) as bigint), known_customer_count,
        'higher'
    from {{ ref('tags_catalog') }}
    where drift is not null
    union all
    select 'known_customers', '*', '*', count(case when is_known then 1 end), count(*), 'either'
    from {{ ref('unified_customers') }}
    where {{ is_customer_traffic() }}
    union all
    select 'over_merge_suspects', '*', '*', count(case when is_over_merge_suspect then 1 end), count(*), 'higher'
    from {{ ref('unified_customers') }}
    where is_known
    union all
    select 'event_attribution', '*', '*', attributed.events, counted.events, 'lower' from attributed cross join counted
    union all
    select 'amount_conversion', channel, '*', converted, amounts, 'lower' from amounts
),

{{ banded('shares') }}
