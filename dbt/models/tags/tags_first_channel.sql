-- Grain: one customer who did something of their own. The channel where they did so first; the number is their acts there. Fed by
-- unified.customer_events.

{{ event_pick_tag('first_channel', 'channel', pick='first') }}
