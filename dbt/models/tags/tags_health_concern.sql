-- Grain: one customer who probably looks after a health problem, by the seed sensitive_groups. Restricted: for care, never for
-- advertising. Confidence is 1 for who said so in a survey. Fed by unified, the catalogue and cleaned.survey_responses.

with members as ({{ in_sensitive_group('health_concern') }})

select {{ tag('health_concern', value="'yes'", number_value='points', confidence='confidence') }}
from members
