-- Grain: one customer who bought in the last year. Recency, frequency and spend, each in five groups by percent rank, cut once
-- a day; 555 is the best. Fed by unified.customer_events and the cut points.

with bought as ({{ bought_in_a_year(of_touched('unified_customer_events')) }}),

cuts as ({{ cut_points(['recency', 'frequency', 'monetary'], [2, 3, 4, 5]) }}),

grouped as (
    select
        bought.customer_id,
        {{ band_of(days_since_1970('bought.last_order_at'), 'recency', [2, 3, 4, 5]) }} as recency,
        {{ band_of('bought.orders', 'frequency', [2, 3, 4, 5]) }} as frequency,
        {{ band_of('bought.spend', 'monetary', [2, 3, 4, 5]) }} as monetary
    from bought
    cross join cuts
)

select {{ tag('rfm', value="concat_ws('', recency, frequency, monetary)", number_value='recency + frequency + monetary') }}
from grouped
