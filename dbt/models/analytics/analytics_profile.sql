-- Grain: one value of one dimension on one day: how many known customers have it, what they bought, and how that compares with
-- all. Dimensions are what customers are said to be and all tags that are not restricted. Worked out in the first refresh of a
-- day, as it joins all customers with all their tags. Fed by unified.customers and tags.customer_tags; read by BI.
{{ config(incremental_strategy='append', full_refresh=false, pre_hook="{{ profile_anew('measured_on') }}") }}

{%- set tags = [] %}
{%- for name in var('tag_models', []) if tag_meta(name).get('sensitivity') != 'restricted' %}{% do tags.append(name.removeprefix('tags_')) %}{% endfor %}
{%- set attributes = {'gender': 'gender', 'age_band': age_band('birth_date'), 'loyalty_tier': 'loyalty_tier'} %}

with known as (
    select customer_id, gender, birth_date, loyalty_tier, order_count, revenue_base
    from {{ ref('unified_customers') }}
    where is_known
        {%- if is_incremental() %}
        and not exists (select 1 from {{ this }} where measured_on = cast({{ as_of() }} as date))
        {%- endif %}
),

stated as (
    select customer_id, tag as dimension, value
    from {{ ref('tags_customer_tags') }}
    where tag in ('{{ tags | join("', '") }}')
    {%- for name, value in attributes.items() if name not in tags %}
    union all
    select customer_id, '{{ name }}', {{ value }} from known
    {%- endfor %}
),

total as (
    select
        count(*) as customers,
        count(case when order_count > 0 then 1 end) as buyers,
        coalesce(sum(revenue_base), 0) as revenue
    from known
),

valued as (
    select
        stated.dimension,
        stated.value,
        count(*) as customers,
        count(case when known.order_count > 0 then 1 end) as buyers,
        sum(known.revenue_base) as revenue
    from stated
    inner join known on known.customer_id = stated.customer_id
    where stated.value is not null
    group by stated.dimension, stated.value
),

-- Dates, towns and scores have many values: the commonest are shown.
named as (
    select
        dimension,
        case
            when row_number() over (partition by dimension order by customers desc, value) <= {{ var('profile_most_values') }} then value
            else '(other)'
        end as value,
        customers,
        buyers,
        revenue
    from valued
),

missing as (
    select
        dimension,
        max(total.customers) - sum(named.customers) as customers,
        max(total.buyers) - sum(named.buyers) as buyers,
        max(total.revenue) - sum(named.revenue) as revenue
    from named
    cross join total
    group by dimension
),

final as (
    select dimension, value, sum(customers) as customers, sum(buyers) as buyers, sum(revenue) as revenue
    from named
    group by dimension, value
    union all
    select dimension, '(none)', customers, buyers, revenue from missing where customers > 0
)

select
    md5(concat_ws('|', cast({{ as_of() }} as date), final.dimension, final.value)) as profile_id,
    cast({{ as_of() }} as date) as measured_on,
    final.dimension,
    final.value,
    cast(final.customers as bigint) as customer_count,
    {{ ratio('final.customers', 'total.customers') }} as share,
    cast(final.buyers as bigint) as buyer_count,
    {{ ratio('final.buyers', 'final.customers') }} as buyer_rate,
    100 * {{ ratio('final.buyers', 'final.customers') }} / nullif({{ ratio('total.buyers', 'total.customers') }}, 0) as buyer_index,
    cast(final.revenue as decimal(18, 4)) as revenue_base,
    {{ ratio('final.revenue', 'total.revenue') }} as revenue_share,
    {{ ratio('final.revenue', 'final.customers') }} as revenue_per_customer,
    100 * {{ ratio('final.revenue', 'final.customers') }} / nullif({{ ratio('total.revenue', 'total.customers') }}, 0) as revenue_index,
    {{ seq() }}
from final
cross join total
