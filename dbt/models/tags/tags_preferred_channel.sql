-- Grain: one customer with at least five acts of their own in the last 180 days. The channel where they act most; confidence
-- is its share. Fed by unified.customer_events.

{{ event_preference_tag('preferred_channel', 'channel', days=180, least=5) }}
