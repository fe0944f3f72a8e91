-- Grain: one customer of whom it is known what they value most when they buy: by their latest answer to a survey (seed survey_dimensions), which is
-- certain, else by what they write in public (seed post_dimensions); the number is how many posts say so. Fed by
-- unified.customer_events, cleaned.survey_responses and cleaned.social_interactions.

{{ psychographic_tag('personal_values', 'values') }}
