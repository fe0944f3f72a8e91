-- Grain: one public post about the company: a mention, comment or share. Fed by unified.customer_events, social interactions,
-- analytics.sentiments and the seed topics; read by analytics.listening, analytics.mention_hours and BI.
{{ config(incremental_strategy='of_events') }}

with posts as (
    select event_id, record_id, customer_id, occurred_at, text
    from {{ ref('unified_customer_events') }}
    where {{ is_new() }} and {{ is_mention() }}
),

-- English by words, Chinese anywhere in the text.
spelled as (
    select
        event_id,
        {{ lower_case('text') }} as chinese,
        concat_ws('', ' ', {{ replace_all(lower_case('text'), '[^a-z0-9]+', ' ') }}, ' ') as english
    from posts
    where text is not null
),

keywords as (
    select
        topic,
        language,
        case
            when language = 'zh' then {{ lower_case('trim(keyword)') }}
            when keyword like '%*' then concat_ws('', ' ', replace({{ lower_case('trim(keyword)') }}, '*', ''))
            else concat_ws('', ' ', {{ lower_case('trim(keyword)') }}, ' ')
        end as pattern
    from {{ ref('topics') }}
),

topics as (
    select event_id, {{ distinct_text('topic') }} as topics
    from spelled
    inner join keywords on instr(case when keywords.language = 'zh' then spelled.chinese else spelled.english end, keywords.pattern) > 0
    group by event_id
)

select
    posts.event_id,
    posts.customer_id,
    social.platform,
    social.kind,
    posts.occurred_at,
    coalesce(topics.topics, 'other') as topics,
    sentiments.language,
    sentiments.sentiment,
    sentiments.polarity,
    case when sentiments.sentiment is not null then 'text' end as sentiment_basis,
    {{ seq() }}
from posts
inner join {{ ref('cleaned_social_interactions') }} as social on social.record_id = posts.record_id
left join topics on topics.event_id = posts.event_id
left join {{ ref('analytics_sentiments') }} as sentiments on sentiments.text_id = md5(posts.text)
