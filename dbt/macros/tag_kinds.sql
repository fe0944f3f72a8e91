{# Tags of the usual kinds: each macro gives the whole model. `of` is a table of unified with customer_id, and event_name and
   occurred_at where acts are counted; `events` are names of events, all of a customer's own acts where it is left out. #}

{# Customers by tiers of a number: {'high': 20, 'low': 1} is high from 20 and low from 1 on; below all of them nobody has the tag. #}
{% macro tier_tag(name, number, tiers, of='unified_customers') -%}
    select {{ tag(name, value=tier_of(number, tiers), number_value=number) }}
    from {{ of_touched(of) }}
    where {{ number }} >= {{ tiers.values() | min }}
{%- endmacro %}

{# A measure of acts, as it is or by tiers; `otherwise` is the tier of whoever did nothing, or too little for all others. #}
{% macro event_metric_tag(name, measure='count(*)', events=none, days=none, of='unified_customer_events', tiers=none, otherwise=none) -%}
    with measured as (
        select customer_id, {{ measure }} as number
        from {{ of_touched(of) }}
        where {{ is_counted(events, days) }}
        group by customer_id
    )

    select {{ tag(name, value=tier_of('number', tiers, otherwise) if tiers else 'number', number_value='number') }}
    {% if otherwise -%}
    from (
        select customers.customer_id, coalesce(measured.number, 0) as number
        from {{ of_touched('unified_customers') }} as customers
        left join measured on measured.customer_id = customers.customer_id
    ) as everybody
    {%- else -%}
    from measured
    where number {{ '>= ' ~ (tiers.values() | min) if tiers else 'is not null' }}
    {%- endif %}
{%- endmacro %}

{# The value of a column that most acts have; of equals the latest. Confidence is its share; fewer than `least` acts show nothing. #}
{% macro event_preference_tag(name, column, events=none, days=none, of='unified_customer_events', least=5) -%}
    with shares as ({{ ranked_values(column, events, days, of, 'count(*) desc, max(occurred_at) desc') }})

    select {{ tag(name, value='value', number_value='acts', confidence='cast(acts as double) / acts_total') }}
    from shares
    where place = 1 and acts_total >= {{ least }}
{%- endmacro %}

{# The value of a column at the first or the last act that has one. #}
{% macro event_pick_tag(name, column, pick, events=none, days=none, of='unified_customer_events') -%}
    {%- set order = {'first': 'min(occurred_at)', 'last': 'max(occurred_at) desc'}.get(pick) -%}
    {%- if not order -%}{{ exceptions.raise_compiler_error(name ~ ': pick is first or last, not ' ~ pick) }}{%- endif -%}
    with picked as ({{ ranked_values(column, events, days, of, order) }})

    select {{ tag(name, value='value', number_value='acts') }}
    from picked
    where place = 1
{%- endmacro %}

{# The `count` values of a column that most acts have, the most first, with commas between; the number is how many there are. #}
{% macro event_top_tag(name, column, count=3, events=none, days=none, of='unified_customer_events', least=1) -%}
    with ranked as ({{ ranked_values(column, events, days, of, 'count(*) desc, max(occurred_at) desc') }}),

    listed as (
        select
            customer_id,
            concat_ws(', '
                {%- for place in range(1, count + 1) %}, max(case when place = {{ place }} then value end){% endfor %}) as value,
            count(*) as number,
            max(acts_total) as acts_total
        from ranked
        where place <= {{ count }}
        group by customer_id
    )

    select {{ tag(name, value='value', number_value='number') }}
    from listed
    where acts_total >= {{ least }}
{%- endmacro %}

{# The value of a product's column (category, brand) that a customer views and buys most; a purchase weighs five views. #}
{% macro favourite_tag(name, column, least=3) -%}
    with interest as (
        select customer_id, {{ column }} as value, 5 as weight
        from {{ of_touched('unified_purchases') }}
        where customer_id is not null and {{ column }} is not null and {{ is_purchase('event_name') }}
        union all
        select events.customer_id, products.{{ column }}, 1
        from {{ of_touched('unified_customer_events') }} as events
        inner join {{ ref('cleaned_catalog_products') }} as products on products.product_id = events.product_id
        where events.customer_id is not null and products.{{ column }} is not null
            and events.event_name in ('product_viewed', 'product_added', 'product_liked', 'product_shared')
            and {{ is_customer_traffic() }}
    ),

    shares as (
        select
            customer_id,
            value,
            sum(weight) as weight,
            sum(sum(weight)) over (partition by customer_id) as weight_total,
            sum(count(*)) over (partition by customer_id) as acts_total,
            row_number() over (partition by customer_id order by sum(weight) desc, value) as place
        from interest
        group by customer_id, value
    )

    select {{ tag(name, value='value', number_value='weight', confidence='cast(weight as double) / weight_total') }}
    from shares
    where place = 1 and acts_total >= {{ least }}
{%- endmacro %}

{# A list that was uploaded as external/attributes: the latest value that it says of an identifier of the customer. #}
{% macro uploaded_tag(name, attribute=none) -%}
    with listed as ({{ latest_statement(attribute or name) }})

    select {{ tag(name, value='value') }}
    from listed
    where value is not null
{%- endmacro %}

{# A score that a model of the company foretells, uploaded as external/attributes, by tiers of it; one that is older than `days`
   foretells nothing. #}
{% macro predicted_tag(name, tiers, score=none, days=90) -%}
    with scored as (
        select customer_id, case when {{ matches('value', '^-?[0-9]+([.][0-9]+)?(e-?[0-9]+)?$') }} then cast(value as double) end as score
        from ({{ latest_statement(score or name) }}) as stated
        where {{ within_days('as_of', days) }}
    )

    select {{ tag(name, value=tier_of('score', tiers), number_value='score') }}
    from scored
    where score >= {{ tiers.values() | min }}
{%- endmacro %}

{# The latest value that external/attributes has of an attribute, for each customer. #}
{% macro latest_statement(attribute) -%}
    select customer_id, value, as_of
    from (
        select
            assignments.customer_id,
            stated.value,
            stated.as_of,
            row_number() over (
                partition by assignments.customer_id
                order by stated.as_of desc, stated.identifier_type, stated.identifier_value
            ) as place
        from {{ ref('cleaned_external_attributes') }} as stated
        inner join {{ of_touched('identity_assignments') }} as assignments
            on assignments.identifier_type = stated.identifier_type and assignments.identifier_value = stated.identifier_value
        where stated.attribute = '{{ attribute | lower }}' and assignments.valid_to is null
            and stated.as_of <= cast({{ as_of() }} as date)
    ) as ranked
    where place = 1
{%- endmacro %}

{% macro tier_of(number, tiers, otherwise=none) -%}
    case
        {%- for tier in tiers | dictsort(by='value', reverse=true) %} when {{ number }} >= {{ tier[1] }} then '{{ tier[0] }}'{% endfor %}
        {%- if otherwise %} else '{{ otherwise }}'{% endif %} end
{%- endmacro %}

{% macro is_counted(events, days) -%}
    customer_id is not null
    and {{ "event_name in ('" ~ events | join("', '") ~ "')" if events else is_own_act('event_name') }}
    and {{ within_days('occurred_at', days) if days else 'occurred_at <= ' ~ as_of() }}
{%- endmacro %}

{# The values of a column of each customer's acts, ranked; with how many acts have the value, and how many have any. #}
{% macro ranked_values(column, events, days, of, order) -%}
    select
        customer_id,
        {{ column }} as value,
        count(*) as acts,
        sum(count(*)) over (partition by customer_id) as acts_total,
        row_number() over (partition by customer_id order by {{ order }}, {{ column }}) as place
    from {{ of_touched(of) }}
    where {{ is_counted(events, days) }} and {{ column }} is not null
    group by customer_id, {{ column }}
{%- endmacro %}
