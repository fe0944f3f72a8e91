-- Grain: one customer. How much they did of their own in the last 30 days: high (20 acts or more), medium (5), low (1),
-- inactive. Fed by unified.customer_events and unified.customers.

{{ event_metric_tag('activity', days=30, tiers={'high': 20, 'medium': 5, 'low': 1}, otherwise='inactive') }}
