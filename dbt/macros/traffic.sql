{# Who a tracker's event is from: bot, staff, test or customer; the first that fits. Needs the join of `join_senders`.

   In an app the name of an HTTP library is the app's own client and says nothing. #}
{% macro traffic(channel) -%}
    case
        when user_agents.bot_pattern is not null {{- ' and not user_agents.is_http_library' if channel != 'web' }} then 'bot'
        when {{ is_of('staff') }} then 'staff'
        when {{ is_of('test') }} then 'test'
        else 'customer'
    end
{%- endmacro %}

{# What Python made of the sender's user agent and address when they were first ingested. #}
{% macro join_senders() -%}
    left join {{ source('staging', '_user_agents') }} as user_agents on user_agents.given = staged.user_agent
    left join {{ source('staging', '_ip_addresses') }} as ip_addresses on ip_addresses.given = staged.ip
{%- endmacro %}

{# Whether a list of the settings `staff_traffic` or `test_traffic` holds address, e-mail, page or account of an event. #}
{% macro is_of(traffic) -%}
    {%- set lists = var(traffic ~ '_traffic', {}) -%}
    {%- set reserved = reserved_names() if traffic == 'test' else [] -%}
    {%- set domains, hosts = reserved + lists.get('email_domains', []), reserved + lists.get('hosts', []) -%}
    {%- set conditions = ["ip_addresses.traffic = '" ~ traffic ~ "'"] -%}
    {%- if domains -%}
        {%- do conditions.append(matches(lower_case('trim(staged.email)'), '@([^@]+[.])?(' ~ any_of(domains) ~ ')$')) -%}
    {%- endif -%}
    {%- if hosts -%}
        {%- set names = '([^/?#:@]+[.])?(' ~ any_of(hosts) ~ ')[.]?' -%}
        {%- set host = '(' ~ names ~ ('|' ~ private_host() if traffic == 'test' else '') ~ ')' -%}
        {%- do conditions.append(
            matches(lower_case('trim(staged.url)'), '^[a-z][a-z0-9+.-]*://([^/?#]*@)?' ~ host ~ '(:[0-9]*)?([/?#]|$)')) -%}
    {%- endif -%}
    {%- if lists.get('user_ids') -%}
        {%- do conditions.append("trim(staged.user_id) in ('" ~ lists.user_ids | map('replace', "'", "''") | join("', '") ~ "')") -%}
    {%- endif -%}
    coalesce({{ conditions | join(', false) or coalesce(') }}, false)
{%- endmacro %}

{# Names that belong to nobody (RFC 2606, RFC 6761, RFC 6762, ICANN's .internal). #}
{% macro reserved_names() -%}
    {{ return(['test', 'example', 'invalid', 'localhost', 'local', 'internal', 'example.com', 'example.net', 'example.org']) }}
{%- endmacro %}

{# Pages served from a developer's machine or network by its bare address. #}
{% macro private_host() -%}
    {{ return('(10|127|192[.]168|172[.](1[6-9]|2[0-9]|3[01]))[.][0-9.]+|[^0-9a-z.]::1[^0-9a-z.]') }}
{%- endmacro %}

{% macro any_of(names) -%}{{ return(names | map('replace', '.', '[.]') | join('|')) }}{%- endmacro %}

{# Whether an event of unified.customer_events counts as something that a customer did or met; no bot, staff or test. #}
{% macro is_customer_traffic() -%}
    coalesce(traffic, 'customer') = 'customer'
{%- endmacro %}
