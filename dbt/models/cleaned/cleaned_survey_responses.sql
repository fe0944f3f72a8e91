-- Grain: one answer to one question. Fed by survey/responses; read by cleaned.events, identity and satisfaction.

with staged as ({{ staged('survey_responses') }})

select
    {{ carried() }},
    {{ event('survey_responses', event_name="'survey_answered'", occurred_at='answered_at', text='trim(answer)') }},
    response_id,
    survey_id,
    answered_at,
    trim(question) as question,
    trim(answer) as answer,
    score,
    user_id,
    {{ contact('email', 'email') }},
    {{ contact('phone', 'phone') }}
from staged
