-- Grain: one day (UTC), platform and topic; (all) stands for all of them, and a post counts in each of its topics. Only days are
-- made anew of which posts changed. Fed by analytics.mentions; read by BI.
{{ config(incremental_strategy='of_groups', group_column='event_date', changed_groups='changed_mention_days') }}

with by_topic as (
    {{ posts_by_topic('cast(occurred_at as date)', 'changed_mention_days') }}
),

counted as (
    select
        span as event_date,
        platform,
        topic,
        {{ mention_counts() }}
    from by_topic
    group by span, platform, topic
    union all
    select
        span as event_date,
        '(all)',
        topic,
        {{ mention_counts() }}
    from by_topic
    group by span, topic
)

select
    md5(concat_ws('|', cast(counted.event_date as string), platform, topic)) as listening_id,
    counted.event_date,
    platform,
    topic,
    cast(mention_count as bigint) as mention_count,
    cast(author_count as bigint) as author_count,
    cast(positive_count as bigint) as positive_count,
    cast(neutral_count as bigint) as neutral_count,
    cast(negative_count as bigint) as negative_count,
    {{ ratio('positive_count - negative_count', 'positive_count + neutral_count + negative_count') }} as net_sentiment,
    cast(spans.source_rows as bigint) as source_rows,
    cast(spans.source_seq as bigint) as source_seq,
    {{ seq() }}
from counted
inner join (
    {{ spans(mention_days()) }}
) as spans on spans.span = counted.event_date
