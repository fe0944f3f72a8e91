-- Grain: one customer who said in a survey what they value most when they buy, by the latest answer that the seed survey_dimensions maps to
-- the dimension values. Certain, as they said so. Fed by unified.customer_events and cleaned.survey_responses.

with stated as ({{ stated_in_surveys('values') }})

select {{ tag('personal_values', value='value') }}
from stated
