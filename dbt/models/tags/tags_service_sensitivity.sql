-- Grain: one customer who asked for service within 365 days, or rated it badly. How much of it they need and how easily it
-- upsets them: a day with a chat or call of theirs counts 1, one with a complaint (by its words, or as the call was
-- escalated) 3 more; a day with a rating of 1 or 2 of 5, in a chat or a survey, 3. high from 6, medium from 3, else low; the
-- number is the sum. Fed by unified.customer_events, cleaned.call_calls and cleaned.survey_responses.

with recent as (
    select * from {{ of_touched('unified_customer_events') }}
    where customer_id is not null and channel in ('chat', 'call', 'survey')
        and {{ is_customer_traffic() }} and {{ within_days('occurred_at', 365) }}
),

contacts as (
    select
        recent.customer_id,
        recent.channel,
        cast(recent.occurred_at as date) as happened_on,
        max(case when {{ is_complaint('recent.text') }} or calls.outcome = 'escalated' then 3 else 0 end) as complaint
    from recent
    left join {{ ref('cleaned_call_calls') }} as calls
        on calls.record_id = recent.record_id and recent.source_table = 'call_calls'
    where recent.event_name in ('message_received', 'conversation_started', 'call_received')
    group by recent.customer_id, recent.channel, cast(recent.occurred_at as date)
),

low_ratings as (
    select distinct recent.customer_id, recent.channel, cast(recent.occurred_at as date) as happened_on
    from recent
    left join {{ ref('cleaned_survey_responses') }} as answers
        on answers.record_id = recent.record_id and recent.source_table = 'survey_responses'
    where recent.score <= 2 and (recent.channel = 'chat' or {{ lower_case('answers.question') }} = 'csat')
),

signals as (
    select customer_id, 1 + complaint as points from contacts
    union all
    select customer_id, 3 as points from low_ratings
),

totals as (
    select customer_id, sum(points) as points
    from signals
    group by customer_id
)

select
    {{ tag('service_sensitivity',
        value="case when points >= 6 then 'high' when points >= 3 then 'medium' else 'low' end", number_value='points') }}
from totals
