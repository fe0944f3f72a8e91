-- Grain: one customer who bought. New: one purchase; returning: more. Fed by unified.customers.

{{ tier_tag('new_or_returning', number='order_count', tiers={'returning': 2, 'new': 1}) }}
