-- Grain: one metric of one refresh about records and identity, by channel and identifier type ('*': all). Checked before
-- anything unified is built. Definitions: docs/quality.md.
{{ config(unique_key='metric_key', incremental_strategy='delete+insert', full_refresh=false, post_hook='{{ thin_out() }}') }}

{%- set channels = [] -%}
{%- for entity in var('entities', {}).values() if entity.identifiers and entity.channel not in channels -%}
    {%- do channels.append(entity.channel) -%}
{%- endfor %}

-- Records of one channel that name the same person by the same identifier count once: a page view does not match the page
-- view before it.
with named as (
    select channel, identifier_type, customer_id from {{ ref('quality_record_identifiers') }} where is_current
),

reach as (
    select customer_id, min(channel) <> max(channel) as is_matched
    from named
    where customer_id is not null
    group by customer_id
),

linked as (
    select named.channel, named.identifier_type, named.customer_id, reach.is_matched
    from named
    left join reach on reach.customer_id = named.customer_id
),

-- The total is there also where there is no record; as a grouping set, not every engine has it then.
attached as (
    select
        channel, coalesce(identifier_type, '*') as identifier_type,
        count(*) as records, count(customer_id) as integrated, count(case when is_matched then 1 end) as matched
    from linked
    group by grouping sets ((channel, identifier_type), (channel))
    union all
    select '*', '*', count(*), count(customer_id), count(case when is_matched then 1 end) from linked
),

-- With a single channel that names people there is nothing to match with.
channels as (select count(distinct channel) as channels from named),

identifiers as (
    select
        identifier_type, sources, count(*) as identifiers,
        count(case when is_valid then 1 end) as valid, count(case when is_usable then 1 end) as usable
    from {{ ref('identity_nodes') }}
    where record_count > 0
    group by identifier_type, sources
),

valid as (
    {% for channel in channels -%}
    select '{{ channel }}' as channel, identifier_type, identifiers, valid, usable
    from identifiers
    where concat_ws(',', '', sources, '') like '%,{{ channel }},%'
    union all
    {% endfor -%}
    select '*' as channel, identifier_type, identifiers, valid, usable from identifiers
),

validity as (
    select channel, identifier_type, sum(identifiers) as identifiers, sum(valid) as valid, sum(usable) as usable
    from valid
    group by channel, identifier_type
),

clusters as (
    select count(*) as customers, max(identifiers) as largest, sum(identifiers) as identifiers
    from (
        select customer_id, count(*) as identifiers from {{ ref('identity_assignments') }} where valid_to is null group by customer_id
    ) as sizes
),

refused as (select count(*) as unions from {{ ref('identity_refusals') }}),

-- A large customer whom one link holds together may be two.
shapes as (
    select
        count(case when identifiers >= 10 then 1 end) as large,
        count(case when identifiers >= 10 and largest_side >= 5 then 1 end) as bridged,
        sum(links) as links,
        sum(identifiers * (identifiers - 1)) as ends
    from {{ ref('identity_shapes') }}
),

-- What moved from one customer to another since the last refresh that finished.
changes as (
    select {{ node_id('identifier_type', 'identifier_value') }} as node_id, from_customer_id
    from {{ ref('identity_changes') }}
    where kind in ('merged', 'split') and coalesce(cause, '') <> 'shared in time'
    {%- if is_incremental() %}
        and _seq > (
            select coalesce(max(_seq), 0) from {{ this }}
            where refresh not in ({{ ([var('refresh', 0)] + var('unfinished_refreshes', [])) | join(', ') }})
        )
    {%- endif %}
),

living as (
    select distinct customer_id
    from {{ ref('identity_assignments') }}
    where customer_id in (select from_customer_id from changes)
),

moved as (
    select
        count(distinct changes.node_id) as identifiers,
        count(distinct changes.from_customer_id) as customers,
        count(distinct case when living.customer_id is null then changes.from_customer_id end) as gone
    from changes
    left join living on living.customer_id = changes.from_customer_id
),

shares as (
    select 'integration_rate' as metric, channel, identifier_type, integrated as numerator, records as denominator,
        'lower' as worse
    from attached
    union all
    select 'match_rate', channel, identifier_type, matched, records, 'either'
    from attached
    where (select channels from channels) > 1
    union all
    select 'validity', channel, identifier_type, valid, identifiers, 'lower' from validity
    union all
    select 'usability', channel, identifier_type, usable, identifiers, 'lower' from validity
    union all
    select 'largest_customer_share', '*', '*', largest, identifiers, 'higher' from clusters
    union all
    select 'refused_unions', '*', '*', refused.unions, clusters.customers, 'higher' from refused cross join clusters
    union all
    select 'bridged_customers', '*', '*', bridged, large, 'higher' from shapes
    union all
    select 'cluster_density', '*', '*', 2 * links, ends, 'lower' from shapes
    union all
    select 'id_churn:identifiers', '*', '*', moved.identifiers, clusters.identifiers, 'higher'
    from moved cross join clusters
    union all
    select 'id_churn:customers', '*', '*', moved.customers, clusters.customers + moved.gone, 'higher'
    from moved cross join clusters
),

{{ banded('shares') }}
