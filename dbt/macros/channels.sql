{# Default channel grouping, by the rules that Google Analytics 4 publishes for manual traffic
   (https://support.google.com/analytics/answer/9756891), in their order; a rule sees what none before it took.
   `category` is that of the source in the seed `traffic_sources`; all other arguments are lower case and not null. #}
{% macro channel_group(source, medium, campaign, category) -%}
    {%- set is_paid = matches(medium, '^(.*cp.*|ppc|retargeting|paid.*)$') -%}
    {%- set names_shop = matches(campaign, '^(.*(([^a-df-z]|^)shop|shopping).*)$') -%}
    case
        when {{ source }} = '(direct)' and {{ medium }} in ('(not set)', '(none)') then 'Direct'
        when {{ campaign }} like '%cross-network%' then 'Cross-network'
        when ({{ category }} = 'shopping' or {{ names_shop }}) and {{ is_paid }} then 'Paid Shopping'
        when {{ category }} = 'search' and {{ is_paid }} then 'Paid Search'
        when {{ category }} = 'social' and {{ is_paid }} then 'Paid Social'
        when {{ category }} = 'video' and {{ is_paid }} then 'Paid Video'
        when {{ medium }} in ('display', 'banner', 'expandable', 'interstitial', 'cpm') then 'Display'
        when {{ is_paid }} then 'Paid Other'
        when {{ category }} = 'shopping' or {{ names_shop }} then 'Organic Shopping'
        when {{ category }} = 'social'
            or {{ medium }} in ('social', 'social-network', 'social-media', 'sm', 'social network', 'social media')
            then 'Organic Social'
        when {{ category }} = 'video' or {{ medium }} like '%video%' then 'Organic Video'
        when {{ category }} = 'search' or {{ medium }} = 'organic' then 'Organic Search'
        when {{ medium }} in ('referral', 'app', 'link') then 'Referral'
        when {{ source }} in ('email', 'e-mail', 'e_mail', 'e mail')
            or {{ medium }} in ('email', 'e-mail', 'e_mail', 'e mail') then 'Email'
        when {{ medium }} = 'affiliate' then 'Affiliates'
        when {{ medium }} = 'audio' then 'Audio'
        when {{ source }} = 'sms' or {{ medium }} = 'sms' then 'SMS'
        when {{ medium }} like '%push' or {{ medium }} like '%mobile%' or {{ medium }} like '%notification%'
            or {{ source }} = 'firebase' then 'Mobile Push Notifications'
        else 'Unassigned'
    end
{%- endmacro %}

{# What channel_group can give. #}
{% macro channel_groups() -%}
    {{ return(['Direct', 'Cross-network', 'Paid Shopping', 'Paid Search', 'Paid Social', 'Paid Video', 'Display', 'Paid Other',
        'Organic Shopping', 'Organic Social', 'Organic Video', 'Organic Search', 'Referral', 'Email', 'Affiliates', 'Audio',
        'SMS', 'Mobile Push Notifications', 'Unassigned']) }}
{%- endmacro %}

{# Search, social, shopping or video, by the seed: of the source as it is, else of the company in its name. The column comes with
   its table, as the seed has one named `source`. #}
{% macro source_category(source) -%}
    coalesce(
        (select max(known.category) from {{ ref('traffic_sources') }} as known where known.source = {{ source }}),
        (select max(known.category) from {{ ref('traffic_sources') }} as known where known.source = {{ source_name(source) }})
    )
{%- endmacro %}

{# The company in a source: google of google_ads, www.google.co.uk and google.com.hk. #}
{% macro source_name(source) -%}
    {%- set bare = replace_all(source, '^(www[0-9]*|m|wap)[.]|[ _-]?ads?$', '') -%}
    {{ replace_all(replace_all(bare, '([.](com?|net|org|gov|edu|ac|ne|or))?[.][a-z]{2,}$', ''), '^.*[.]', '') }}
{%- endmacro %}

{# The host of a URL, lower case, without www; null where there is none. #}
{% macro host(url) -%}
    {%- set address = pattern('^[a-z][a-z0-9+.-]*://([^/?#]*@)?([^/?#:]+)') -%}
    nullif({{ replace_all("regexp_extract(" ~ lower_case(url) ~ ", " ~ address ~ ", 2)", '^www[0-9]*[.]', '') }}, '')
{%- endmacro %}

{# The advertising network that a page's address names by its own click id; those of networks whose links are also free
   (fbclid) say nothing. #}
{% macro clicked_network(url) -%}
    case
        when {{ matches(url, '[?&](gclid|gbraid|wbraid)=') }} then 'google'
        when {{ matches(url, '[?&]msclkid=') }} then 'bing'
        when {{ matches(url, '[?&]bd_vid=') }} then 'baidu'
        when {{ matches(url, '[?&](gdt_vid|qz_gdt)=') }} then 'tencent'
    end
{%- endmacro %}
