-- Grain: one statement about consent or contact, by whatever identifier it names, with history: of crm/consents, and what e-mails
-- and text messages brought about. A complaint suppresses the address on its channel, unsubscribing withdraws. A statement that
-- its record makes no more has no status. Fed by cleaned models; read by unified.contact_permissions and unified.consents.
{{ config(unique_key='statement_id', incremental_strategy='delete+insert') }}

{%- set statuses = {'unsubscribed': 'withdrawn', 'complained': 'suppressed'} %}

with stated as (
    select
        concat_ws(':', 'crm_consents', record_id) as statement_id,
        identifier_type, identifier_value, purpose, channel, status, occurred_at, _is_revision
    from {{ ref('cleaned_crm_consents') }}
    where {{ is_new() }}
    {%- for channel, column in {'email': 'email', 'sms': 'phone'}.items() %}
    {%- for event, purposes in {'unsubscribed': var('unsubscribing_withdraws'), 'complained': ['any']}.items() %}
    {%- for purpose in purposes %}
    union all
    select
        concat_ws(':', '{{ channel }}_events', '{{ event }}', '{{ purpose }}', record_id) as statement_id,
        case when {{ column }} is not null then '{{ column }}' else 'contact_id' end as identifier_type,
        coalesce({{ column }}, contact_id) as identifier_value,
        '{{ purpose }}' as purpose,
        '{{ channel }}' as channel,
        case when event_name = '{{ channel }}_{{ event }}' then '{{ statuses[event] }}' end as status,
        occurred_at,
        _is_revision
    from {{ ref('cleaned_' ~ channel ~ '_events') }}
    where {{ is_new() }}
    {%- endfor %}{% endfor %}{% endfor %}
),

usable as (select * from stated where status is not null and identifier_value is not null),

heard as (
    select statement_id, identifier_type, identifier_value, purpose, channel, status, occurred_at from usable
    {%- if is_incremental() %}
    union all
    -- Made no more.
    select statement_id, identifier_type, identifier_value, purpose, channel, cast(null as string) as status, occurred_at
    from stated
    where _is_revision
        and statement_id in (select statement_id from {{ this }}) and statement_id not in (select statement_id from usable)
    union all
    -- Dated ahead, and its time has come: written anew, it touches its customers.
    select statement_id, identifier_type, identifier_value, purpose, channel, status, occurred_at
    from {{ this }}
    where is_ahead and occurred_at <= {{ as_of() }} and statement_id not in (select statement_id from stated)
    {%- endif %}
)

select
    statement_id,
    identifier_type,
    identifier_value,
    purpose,
    channel,
    status,
    occurred_at,
    occurred_at > {{ as_of() }} as is_ahead,
    {{ seq() }}
from heard
