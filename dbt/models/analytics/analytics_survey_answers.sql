-- Grain: one answer to a survey's question, as a rating where the seed survey_measures says what it measures. The words of a
-- response that has a rating are taken as that. Fed by unified.customer_events, survey responses and analytics.sentiments; read
-- by analytics.satisfaction and BI.
{{ config(incremental_strategy='of_groups', group_column='response_id', changed_groups='changed_responses') }}

with responses as (
    select record_id, response_id, survey_id, question, answer, score
    from {{ ref('cleaned_survey_responses') }}
    {%- if is_incremental() %}
    where response_id in ({{ changed_responses() }})
    {%- endif %}
),

answers as (
    select
        events.event_id,
        events.customer_id,
        events.occurred_at as answered_at,
        events.text,
        responses.response_id,
        responses.survey_id,
        responses.question,
        coalesce(own.measure, every.measure) as measure,
        coalesce(own.highest, every.highest) as highest,
        -- What is picked from a list has no sentiment.
        exists (
            select 1 from {{ ref('survey_dimensions') }} as dimensions
            where dimensions.question = responses.question and dimensions.survey_id in (responses.survey_id, '*')
        ) as is_choice,
        coalesce(responses.score, {{ number_of('responses.answer') }}) as score
    from responses
    inner join {{ ref('unified_customer_events') }} as events
        on events.record_id = responses.record_id and events.source_table = 'survey_responses' and {{ is_customer_traffic() }}
    left join {{ ref('survey_measures') }} as own
        on own.survey_id = responses.survey_id and {{ lower_case('own.question') }} = {{ lower_case('responses.question') }}
    left join {{ ref('survey_measures') }} as every
        on every.survey_id = '*' and {{ lower_case('every.question') }} = {{ lower_case('responses.question') }}
),

rated as (
    select
        answers.*,
        case
            when measure = 'nps' and score between 0 and 10 then score
            -- Every scale comes down to five points: of ten, 7 and 8 are a 4.
            when measure = 'csat' and score between 1 and highest then ceil(cast(score as double) * 5 / highest)
        end as rating
    from answers
),

grouped as (
    select
        rated.*,
        case
            when measure = 'nps' and rating >= 9 then 'promoter'
            when measure = 'nps' and rating >= 7 then 'passive'
            when measure = 'nps' and rating is not null then 'detractor'
            when rating >= 4 then 'satisfied'
            when rating is not null then 'not satisfied'
        end as rating_group,
        case
            when measure = 'nps' and rating >= 9 then 'positive'
            when measure = 'nps' and rating >= 7 then 'neutral'
            when measure = 'nps' and rating is not null then 'negative'
            when measure = 'csat' then {{ sentiment_of_rating('rating') }}
        end as rated_sentiment
    from rated
),

-- Of a response with both, CSAT is closer to what it was asked about.
shared as (
    select
        grouped.*,
        coalesce(
            rated_sentiment,
            max(case when measure = 'csat' then rated_sentiment end) over (partition by survey_id, response_id),
            max(case when measure = 'nps' then rated_sentiment end) over (partition by survey_id, response_id)
        ) as own_sentiment
    from grouped
)

select
    shared.event_id,
    response_id,
    survey_id,
    question,
    customer_id,
    answered_at,
    measure,
    cast(rating as double) as rating,
    rating_group,
    rated_sentiment is null and {{ is_complaint('text') }} as is_complaint,
    case when not is_choice then coalesce(own_sentiment, sentiments.sentiment) end as sentiment,
    case
        when is_choice then null
        when own_sentiment is not null then 'score'
        when sentiments.sentiment is not null then 'text'
    end as sentiment_basis,
    {{ seq() }}
from shared
left join {{ ref('analytics_sentiments') }} as sentiments on sentiments.text_id = md5(shared.text)
