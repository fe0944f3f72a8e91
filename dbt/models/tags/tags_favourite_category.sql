-- Grain: one customer with at least three views or purchases of catalogued products. The category they favour; a purchase
-- weighs as much as five views. Confidence is its share. Fed by unified.purchases and unified.customer_events.

{{ favourite_tag('favourite_category', 'category') }}
