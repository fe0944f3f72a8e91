-- Grain: one customer with at least five acts of their own on a device whose kind is known, within 180 days. The kind that
-- they use most: mobile, tablet or desktop; confidence is its share. Fed by unified.customer_events.

{{ event_preference_tag('device', "case when device_class in ('mobile', 'tablet', 'desktop') then device_class end", days=180) }}
