{# Whether a customer may be contacted at an address, for a purpose, on a channel. Whoever asks, asks here: models by these macros,
   Python by dagster_project/lib/consent.py, which renders the same. The rules with examples: docs/privacy.md. #}

{# The verdict on every address and channel that something was stated about, and on the person as such (no address).

   An address states for itself on the channels that it serves; any other statement is the person's, and is heard at all of their
   addresses. Of each side the latest statement counts, of equal times a denial. `any` speaks for every channel; as a purpose it
   only forbids. What things say that people hold, such as browsers, forbids, too, and allows nothing.

   Args:
       identifiers: relation like unified.customer_identifiers, of the customers to judge.
       statements: relation like unified.consent_statements. #}
{% macro judged_permissions(identifiers, statements) -%}
    {%- set sides = {'': 'is_own', 'person_': 'not is_own'} -%}
    {%- set kinds = {
        'granted_at': "'granted'", 'denied_at': "'denied', 'withdrawn'", 'suppressed_at': "'suppressed'", 'released_at': "'released'"
    } -%}
    with identifiers as (
        select customer_id, identifier_type, identifier_value, identifier_token, valid_from, valid_to, is_person
        from {{ identifiers }} as theirs
    ),

    stated as (
        select
            identifiers.customer_id,
            identifiers.identifier_type,
            identifiers.identifier_value,
            identifiers.valid_to is null as is_theirs_now,
            statements.purpose,
            statements.channel,
            statements.status,
            statements.occurred_at,
            addresses.identifier_type is not null
                and (statements.channel = 'any' or served.channel is not null) as is_of_address,
            identifiers.is_person or statements.status not in ('granted', 'released') as is_of_person
        from {{ statements }} as statements
        inner join identifiers
            on identifiers.identifier_type = statements.identifier_type
            and identifiers.identifier_value = statements.identifier_value
            and {{ in_span('identifiers', 'statements.occurred_at') }}
        left join (select distinct identifier_type from {{ ref('contact_channels') }}) as addresses
            on addresses.identifier_type = statements.identifier_type
        left join {{ ref('contact_channels') }} as served
            on served.identifier_type = statements.identifier_type and served.channel = statements.channel
        where statements.occurred_at <= {{ as_of() }} and statements.status is not null
            and not (statements.purpose = 'any' and statements.status = 'granted')
    ),

    personal as (
        select customer_id, purpose, channel, status, occurred_at from stated where not is_of_address and is_of_person
    ),

    places as (
        select
            identifiers.customer_id, identifiers.identifier_type, identifiers.identifier_value, identifiers.identifier_token,
            served.channel
        from identifiers
        inner join {{ ref('contact_channels') }} as served on served.identifier_type = identifiers.identifier_type
        where identifiers.valid_to is null
    ),

    heard as (
        select
            stated.customer_id, stated.identifier_type, stated.identifier_value, served.channel,
            stated.purpose, stated.status, stated.occurred_at, true as is_own
        from stated
        inner join {{ ref('contact_channels') }} as served on served.identifier_type = stated.identifier_type
        where stated.is_of_address and stated.is_theirs_now and stated.channel in ('any', served.channel)
        union all
        select
            places.customer_id, places.identifier_type, places.identifier_value, places.channel,
            personal.purpose, personal.status, personal.occurred_at, false as is_own
        from personal
        inner join places on places.customer_id = personal.customer_id
        where personal.channel in ('any', places.channel)
        union all
        select
            personal.customer_id, '' as identifier_type, '' as identifier_value, spoken.channel,
            personal.purpose, personal.status, personal.occurred_at, true as is_own
        from personal
        inner join (select distinct customer_id, channel from personal) as spoken on spoken.customer_id = personal.customer_id
        where personal.channel in ('any', spoken.channel)
    ),

    said as (
        select
            customer_id, identifier_type, identifier_value, channel, purpose
            {%- for side, condition in sides.items() %}{% for kind, statuses in kinds.items() %},
            max(case when {{ condition }} and status in ({{ statuses }}) then occurred_at end) as {{ side }}{{ kind }}
            {%- endfor %}{% endfor %}
        from heard
        group by customer_id, identifier_type, identifier_value, channel, purpose
    ),

    -- What was stated about every purpose is stated about each.
    summed as (
        select
            said.customer_id, said.identifier_type, said.identifier_value, said.channel, said.purpose
            {%- for side in sides %}{% for kind in kinds %},
            greatest(said.{{ side }}{{ kind }}, every_purpose.{{ side }}{{ kind }}) as {{ side }}{{ kind }}
            {%- endfor %}{% endfor %}
        from said
        left join (select * from said where purpose = 'any') as every_purpose
            on every_purpose.customer_id = said.customer_id
            and every_purpose.identifier_type = said.identifier_type
            and every_purpose.identifier_value = said.identifier_value
            and every_purpose.channel = said.channel
    ),

    judged as (
        select
            summed.*,
            case
                {%- for side in sides %}
                when {{ side }}suppressed_at >= coalesce({{ side }}released_at, {{ side }}suppressed_at)
                    then '{{ side | replace('_', ' ') }}suppressed'
                {%- endfor %}
                {%- for side in sides %}
                when {{ side }}denied_at >= coalesce({{ side }}granted_at, {{ side }}denied_at)
                    then '{{ side | replace('_', ' ') }}denied'
                {%- endfor %}
                {%- for side in sides %}
                when {{ side }}granted_at is not null then '{{ side | replace('_', ' ') }}granted'
                {%- endfor %}
            end as reason
        from summed
    )

    select
        judged.customer_id,
        nullif(judged.identifier_type, '') as identifier_type,
        nullif(judged.identifier_value, '') as identifier_value,
        places.identifier_token,
        judged.purpose,
        judged.channel,
        judged.reason in ('granted', 'person granted') as is_allowed,
        judged.reason,
        case judged.reason
            {%- for side in sides %}{% for kind in kinds if kind != 'released_at' %}
            when '{{ side | replace('_', ' ') }}{{ kind.removesuffix('_at') }}' then judged.{{ side }}{{ kind }}
            {%- endfor %}{% endfor %}
        end as as_of
    from judged
    left join places
        on places.customer_id = judged.customer_id
        and places.identifier_type = judged.identifier_type
        and places.identifier_value = judged.identifier_value
        and places.channel = judged.channel
    -- What was only released is as if nothing had been stated.
    where judged.reason is not null
{%- endmacro %}

{# Every address that customers have now, for one purpose: whether it may be contacted, and why (not). What nothing was stated
   about is left alone, unless `onefold.yaml` declares the purpose as legitimate interest.

   Args:
       channel: those that serve it; without one every address on its usual channel.
       identifiers: relation like unified.customer_identifiers; by default all.

   Columns: customer_id, identifier_type, identifier_value, channel, last_seen_at, is_allowed, reason #}
{% macro address_permissions(purpose, channel=none, identifiers=none) -%}
    {%- set legitimate = purpose in var('legitimate_interest', []) -%}
    select
        theirs.customer_id,
        theirs.identifier_type,
        theirs.identifier_value,
        served.channel,
        theirs.last_seen_at,
        coalesce(own.is_allowed, every_purpose.is_allowed, {{ 'true' if legitimate else 'false' }}) as is_allowed,
        coalesce(own.reason, every_purpose.reason, '{{ 'legitimate interest' if legitimate else 'no consent' }}')
            as reason
    from {{ identifiers or ref('unified_customer_identifiers') }} as theirs
    inner join {{ ref('contact_channels') }} as served
        on served.identifier_type = theirs.identifier_type
        and {{ "served.channel = '" ~ channel ~ "'" if channel else 'served.is_usual' }}
    {%- for name, stated in {'own': purpose, 'every_purpose': 'any'}.items() %}
    left join (select * from {{ ref('unified_contact_permissions') }} where purpose = '{{ stated }}') as {{ name }}
        on {{ name }}.customer_id = theirs.customer_id
        and {{ name }}.identifier_type = theirs.identifier_type
        and {{ name }}.identifier_value = theirs.identifier_value
        and {{ name }}.channel = served.channel
    {%- endfor %}
    where theirs.valid_to is null
{%- endmacro %}

{# For one purpose: whether a customer may be contacted anywhere, at an address or as the person, and why not. With a channel: at
   one of the addresses that serve it; who has none of them is judged as the person.

   Args:
       customers: relation with a column customer_id, whom to judge; by default all customers.

   Columns: customer_id, is_allowed, reason (suppressed, consent denied or withdrawn, no consent; null where allowed) #}
{% macro customer_permissions(purpose, channel=none, customers=none) -%}
    {%- set legitimate = purpose in var('legitimate_interest', []) -%}
    {%- set of_person, of_address = 'permissions.identifier_type is null', 'permissions.identifier_type is not null' -%}
    {%- set granted = "permissions.purpose = '" ~ purpose ~ "' and permissions.is_allowed" -%}
    select customer_id, is_allowed,
        case
            when is_allowed then null
            when is_suppressed then 'suppressed'
            when is_denied then 'consent denied or withdrawn'
            else 'no consent'
        end as reason
    from (
        select
            customer_id, is_suppressed, is_denied,
            {% if channel -%}
            is_address_allowed or (not has_address and is_person_allowed)
            {%- else -%}
            is_address_allowed or is_person_allowed
            {%- endif %} as is_allowed
        from (
            select
                whom.customer_id,
                coalesce(bool_or(permissions.reason in ('suppressed', 'person suppressed')), false) as is_suppressed,
                coalesce(bool_or(not permissions.is_allowed), false) as is_denied,
                coalesce(bool_or({{ of_address }} and {{ granted }}), false)
                    {{- ' or coalesce(bool_or(addresses.is_silent), false)' if channel and legitimate }} as is_address_allowed,
                {% if channel -%}
                -- What the person stated about the channel, else about all of them.
                coalesce(max_by(
                    permissions.is_allowed,
                    case when {{ of_person }} and permissions.purpose = '{{ purpose }}'
                        then case permissions.channel when 'any' then 1 else 2 end end
                ), false)
                {%- else -%}
                coalesce(bool_or({{ of_person }} and {{ granted }}), false)
                {%- endif %}
                {%- if legitimate %}
                    or not coalesce(bool_or({{ of_person }} and not permissions.is_allowed
                        {{- " and permissions.channel = 'any'" if not channel }}), false)
                {%- endif %} as is_person_allowed
                {%- if channel %},
                -- What a person states is heard at all addresses, so that only silence can hide one.
                coalesce(bool_or({{ of_address }}), false)
                    {{- ' or bool_or(addresses.customer_id is not null)' if legitimate }} as has_address
                {%- endif %}
            from {{ customers or ref('unified_customers') }} as whom
            left join (
                select customer_id, identifier_type, purpose, channel, is_allowed, reason
                from {{ ref('unified_contact_permissions') }}
                where purpose in ('{{ purpose }}', 'any')
                {%- if channel %}
                    and (channel = '{{ channel }}' or (channel = 'any' and identifier_type is null))
                {%- endif %}
            ) as permissions on permissions.customer_id = whom.customer_id
            {%- if channel and legitimate %}
            left join (
                select customer_id, bool_or(reason = 'legitimate interest') as is_silent
                from ({{ address_permissions(purpose, channel) }}) as known
                group by customer_id
            ) as addresses on addresses.customer_id = whom.customer_id
            {%- endif %}
            group by whom.customer_id
        ) as counted
    ) as judged
{%- endmacro %}

{# Customers who may be contacted for a purpose: somewhere or, with a channel, on that one. #}
{% macro consenting(purpose, channel=none) -%}
    select customer_id from ({{ customer_permissions(purpose, channel) }}) as permissions where is_allowed
{%- endmacro %}
