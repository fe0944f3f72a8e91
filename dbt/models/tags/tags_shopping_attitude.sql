-- Grain: one customer who said in a survey how they go about buying, by the latest answer that the seed survey_dimensions maps to
-- the dimension attitude. Certain, as they said so. Fed by unified.customer_events and cleaned.survey_responses.

with stated as ({{ stated_in_surveys('attitude') }})

select {{ tag('shopping_attitude', value='value') }}
from stated
