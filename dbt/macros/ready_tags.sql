{# What the ready tags share. #}

{# A city's name without what spellings differ in: capitals, blanks, apostrophes, hyphens, and a closing 市 or City. #}
{% macro place_key(name) -%}
    {{ replace_all(replace_all(lower_case(name), '[^a-z一-鿿]+', ''), '(市|city)$', '') }}
{%- endmacro %}

{# Whether a customer's words to service complain. Words that nobody uses to ask a plain question: 退款 and refund are missing,
   as most who write them only ask how long it takes. #}
{% macro is_complaint(text) -%}
    coalesce({{ matches(lower_case(text),
        '投诉|差评|赔偿|失望|破损|坏的|不专业|太差|骗|complain|disappoint|compensat|terrible|unprofessional|damaged|broken|unacceptable|demand') }}, false)
{%- endmacro %}

{# Operating system by the words of a user agent; null where it names none. Devices of Apple's and Huawei's name the older
   system that they resemble as well, so these come first; iPads that pose as a Mac cannot be told from one. #}
{% macro operating_system(user_agent) -%}
    {%- set agent = lower_case(user_agent) -%}
    case
        when {{ matches(agent, 'harmonyos') }} then 'harmonyos'
        when {{ matches(agent, 'iphone|ipad|ipod|; ios ') }} then 'ios'
        when {{ matches(agent, 'android') }} then 'android'
        when {{ matches(agent, 'windows') }} then 'windows'
        when {{ matches(agent, 'macintosh|mac os x|macos') }} then 'macos'
        when {{ matches(agent, 'cros |linux|x11') }} then 'linux'
    end
{%- endmacro %}

{# Own acts of the last 180 days with the time that the customer's clock showed: a tracker's event knows it; others, such as an
   order or a call, take the offset that most of the customer's tracked events have, else the default time zone. Opened and
   clicked messages are left out: they tell when we write, as mailings that go out on Fridays make Friday everybody's day. #}
{% macro acts_on_own_clock() -%}
    select
        acts.customer_id,
        coalesce(
            acts.occurred_at_local,
            {{ dbt.dateadd('minute', 'offsets.offset_minutes', 'acts.occurred_at') }},
            {{ in_time_zone('acts.occurred_at', var('default_time_zone', 'UTC')) }}
        ) as acted_at
    from ({{ recent_acts() }}) as acts
    left join (
        select customer_id, offset_minutes
        from (
            select
                customer_id,
                offset_minutes,
                row_number() over (partition by customer_id order by count(*) desc, offset_minutes) as preference
            from (
                select customer_id, {{ dbt.datediff('occurred_at', 'occurred_at_local', 'minute') }} as offset_minutes
                from ({{ recent_acts() }}) as tracked
                where occurred_at_local is not null
            ) as stated
            group by customer_id, offset_minutes
        ) as ranked
        where preference = 1
    ) as offsets on offsets.customer_id = acts.customer_id
{%- endmacro %}

{% macro recent_acts() -%}
    select customer_id, occurred_at, occurred_at_local
    from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and channel not in ('email', 'sms')
        and {{ is_own_act('event_name') }} and {{ within_days('occurred_at', 180) }}
{%- endmacro %}

{# Values, lifestyle or attitude. Who said it in a survey has what their latest answer says, by the seed survey_dimensions; the
   survey's own row goes before one for all surveys (*). Else what most of their posts of 365 days say, by the words in the
   seed post_dimensions: at least two posts, of which confidence takes two for not meant that way. #}
{% macro psychographic_tag(name, dimension) -%}
    with stated as (
        select
            events.customer_id,
            dimensions.value,
            row_number() over (
                partition by events.customer_id
                order by events.occurred_at desc, case dimensions.survey_id when '*' then 1 else 0 end, events.event_id,
                    dimensions.value
            ) as place
        from {{ of_touched('unified_customer_events') }} as events
        inner join {{ ref('cleaned_survey_responses') }} as responses on responses.record_id = events.record_id
        inner join {{ ref('survey_dimensions') }} as dimensions
            on {{ lower_case('dimensions.question') }} = {{ lower_case('responses.question') }}
            and {{ lower_case('dimensions.answer') }} = {{ lower_case('responses.answer') }}
            and dimensions.survey_id in (responses.survey_id, '*')
        where events.source_table = 'survey_responses' and events.customer_id is not null
            and dimensions.dimension = '{{ dimension }}'
    ),

    posts as (
        select events.customer_id, events.event_id, events.occurred_at, {{ lower_case('interactions.text') }} as text
        from {{ of_touched('unified_customer_events') }} as events
        inner join {{ ref('cleaned_social_interactions') }} as interactions on interactions.record_id = events.record_id
        where events.source_table = 'social_interactions' and events.customer_id is not null
            and {{ within_days('events.occurred_at', 365) }}
    ),

    posted as (
        select
            posts.customer_id,
            dimensions.value,
            count(distinct posts.event_id) as posts,
            row_number() over (
                partition by posts.customer_id
                order by count(distinct posts.event_id) desc, max(posts.occurred_at) desc, dimensions.value
            ) as place
        from posts
        inner join {{ ref('post_dimensions') }} as dimensions on instr(posts.text, {{ lower_case('dimensions.term') }}) > 0
        where dimensions.dimension = '{{ dimension }}'
        group by posts.customer_id, dimensions.value
    ),

    told as (
        select customer_id, value, cast(null as bigint) as posts, cast(null as double) as confidence from stated where place = 1
        union all
        select customer_id, value, posts, cast(posts as double) / (posts + 2)
        from posted
        where place = 1 and posts >= 2 and customer_id not in (select customer_id from stated)
    )

    select {{ tag(name, value='value', number_value='posts', confidence='confidence') }}
    from told
{%- endmacro %}

{# Customers of one group of the seed sensitive_groups, by what they did within 365 days: an answer counts 10, a purchase 5, a
   search 3, a view 1; from 10 on they belong to it. A purchase alone may be a gift. Confidence is 1 for who said so, else
   points ÷ (points + 5), which two purchases bring to two thirds. #}
{% macro in_sensitive_group(sensitive_group) -%}
    {%- if execute and model.resource_type == 'model' and model.config.meta.get('sensitivity') != 'restricted' -%}
        {{ exceptions.raise_compiler_error(model.name ~ ': a tag of a sensitive group needs config.meta.sensitivity: restricted') }}
    {%- endif -%}
    with terms as (
        select evidence, {{ lower_case('question') }} as question, {{ lower_case('term') }} as term
        from {{ ref('sensitive_groups') }}
        where sensitive_group = '{{ sensitive_group }}'
    ),

    products as (
        select products.product_id
        from {{ ref('cleaned_catalog_products') }} as products
        inner join terms on terms.term = {{ lower_case('products.category') }} and terms.evidence = 'category'
        union
        select products.product_id
        from {{ ref('cleaned_catalog_products') }} as products
        inner join terms on terms.term = {{ lower_case('products.product_id') }} and terms.evidence = 'product'
    ),

    acts as (
        select * from {{ of_touched('unified_customer_events') }}
        where customer_id is not null and {{ is_customer_traffic() }} and {{ within_days('occurred_at', 365) }}
    ),

    evidence as (
        select purchases.customer_id, 5 as points, 0 as is_stated
        from {{ of_touched('unified_purchases') }} as purchases
        inner join products on products.product_id = purchases.product_id
        where purchases.customer_id is not null and {{ is_purchase('purchases.event_name') }}
            and {{ within_days('purchases.occurred_at', 365) }}
        union all
        select acts.customer_id, 1, 0
        from acts
        inner join products on products.product_id = acts.product_id
        where acts.event_name in ('product_viewed', 'product_added', 'product_liked', 'product_shared')
        union all
        select acts.customer_id, 3, 0
        from acts
        inner join terms on terms.term = {{ lower_case('trim(acts.search_term)') }} and terms.evidence = 'search'
        where acts.event_name = 'searched'
        union all
        select acts.customer_id, 10, 1
        from acts
        inner join {{ ref('cleaned_survey_responses') }} as responses on responses.record_id = acts.record_id
        inner join terms on terms.question = {{ lower_case('responses.question') }} and terms.term = {{ lower_case('responses.answer') }}
            and terms.evidence = 'answer'
        where acts.source_table = 'survey_responses'
    )

    select
        customer_id,
        sum(points) as points,
        case when max(is_stated) = 1 then 1 else cast(sum(points) as double) / (sum(points) + 5) end as confidence
    from evidence
    group by customer_id
    having sum(points) >= 10
{%- endmacro %}
