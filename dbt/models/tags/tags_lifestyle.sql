-- Grain: one customer who said in a survey how they live, by the latest answer that the seed survey_dimensions maps to
-- the dimension lifestyle. Certain, as they said so. Fed by unified.customer_events and cleaned.survey_responses.

with stated as ({{ stated_in_surveys('lifestyle') }})

select {{ tag('lifestyle', value='value') }}
from stated
