-- Grain: one customer who bought catalogued products in the last year. The three categories that they bought most often, in that
-- order. Fed by unified.purchases.

{{ event_top_tag('top_categories', 'category', count=3, events=['order_placed', 'store_purchase'], days=365, of='unified_purchases') }}
