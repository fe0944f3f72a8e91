-- Grain: one hour, as the company's clocks show it, and topic that had posts; (all) stands for all topics. Only hours are made
-- anew of which posts changed. Fed by analytics.mentions; read by analytics.listening_hours.
{{ config(incremental_strategy='of_groups', group_column='hour_at', changed_groups='changed_mention_hours') }}

with by_topic as (
    {{ posts_by_topic(mention_hours().analytics_mentions, 'changed_mention_hours') }}
),

counted as (
    select span as hour_at, topic, {{ mention_counts() }} from by_topic group by span, topic
)

select
    counted.hour_at,
    topic,
    cast(mention_count as bigint) as mention_count,
    cast(negative_count as bigint) as negative_count,
    cast(spans.source_rows as bigint) as source_rows,
    cast(spans.source_seq as bigint) as source_seq,
    {{ seq() }}
from counted
inner join (
    {{ spans(mention_hours()) }}
) as spans on spans.span = counted.hour_at
