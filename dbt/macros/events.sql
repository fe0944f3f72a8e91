{# The columns of cleaned.events, in order, with their types. Every event has all of them; the last four say more than
   `customer` and null only of a tracker's events. #}
{% macro event_columns() -%}
    {{ return({
        'event_name': 'string', 'occurred_at': 'timestamp',
        'user_id': 'string', 'email': 'string', 'phone': 'string', 'anonymous_id': 'string', 'device_id': 'string',
        'session_id': 'string', 'direction': 'string', 'product_id': 'string', 'quantity': 'decimal(18, 4)',
        'order_id': 'string', 'amount': 'decimal(18, 4)', 'currency': 'string', 'amount_base': 'decimal(18, 4)',
        'campaign_id': 'string', 'utm_source': 'string', 'utm_medium': 'string', 'utm_campaign': 'string',
        'search_term': 'string', 'duration_seconds': 'double', 'score': 'double', 'url': 'string', 'referrer': 'string',
        'text': 'string', 'properties': 'string',
        'traffic': 'string', 'visitor_id': 'string', 'occurred_at_local': 'timestamp', 'device_class': 'string',
    }) }}
{%- endmacro %}

{# The event columns of a cleaned model, as far as its contract has none of that name; those the model selects itself.

   Usage: {{ event('call_calls', event_name="'call_made'", occurred_at='started_at') }}
   Arguments: SQL expressions by event column. #}
{% macro event(table) -%}
    {%- set known, fields = event_columns(), [] -%}
    {%- for name in kwargs if name not in known -%}
        {{ exceptions.raise_compiler_error(table ~ ": '" ~ name ~ "' is not an event column; there are " ~ known | join(', ')) }}
    {%- endfor -%}
    {%- for name, type in known.items() -%}
        {%- if name in kwargs -%}{%- do fields.append('cast(' ~ kwargs[name] ~ ' as ' ~ type ~ ') as ' ~ name) -%}
        {%- elif name == 'traffic' -%}{%- do fields.append("'customer' as traffic") -%}
        {%- elif name not in contract(table).columns -%}{%- do fields.append('cast(null as ' ~ type ~ ') as ' ~ name) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ fields | join(',\n    ') }}
{%- endmacro %}

{# The one name of an event, from the vocabulary; a name that is not in it stays, in snake case.
   À-힣 spans the letters of every script beside ASCII's, so that names in two of them never become one. #}
{% macro event_name(channel, name) -%}
    coalesce(
        (select max(vocabulary.event_name) from {{ ref('event_vocabulary') }} as vocabulary
         where vocabulary.channel in ('{{ channel }}', '*') and vocabulary.source_name = {{ lower_case('trim(' ~ name ~ ')') }}),
        {{ replace_all(replace_all(lower_case('trim(' ~ name ~ ')'), '[^a-z0-9À-힣]+', '_'), '^_+|_+$', '') }}
    )
{%- endmacro %}
