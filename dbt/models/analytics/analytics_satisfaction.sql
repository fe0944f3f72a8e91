-- Grain: one day (UTC) and channel of conversations, by when they were opened, or survey. Only days are made anew of which
-- conversations or answers changed. Fed by analytics.conversations and analytics.survey_answers; read by BI.
{{ config(incremental_strategy='of_groups', group_column='event_date', changed_groups='changed_satisfaction_days') }}

with conversations as (
    select
        cast(opened_at as date) as event_date,
        channel,
        cast(null as string) as survey_id,
        count(csat_score) as csat_responses,
        count(case when csat_score >= 4 then 1 end) as csat_satisfied,
        count(*) as conversation_count,
        count(case when is_complaint then 1 end) as complaint_count,
        count(case when is_awaited then 1 end) as awaited_count,
        count(case when is_awaited then first_reply_at end) as answered_count,
        count(case when is_awaited and first_response_seconds <= {{ var('service_level_minutes') * 60 }} then 1 end) as in_time_count,
        {{ median_of('case when is_awaited then first_response_seconds end') }} as first_response_median_seconds,
        count(resolved_at) as resolved_count,
        {{ median_of('resolution_seconds') }} as resolution_median_seconds
    from (
        -- Nobody waits for the first word on the telephone, as far as is known, and whoever is written to asked nothing.
        select *, channel <> 'call' and started_by = 'customer' as is_awaited
        from {{ ref('analytics_conversations') }}
    ) as conversations
    where {{ is_changed_span('cast(opened_at as date)', 'changed_satisfaction_days') }}
    group by cast(opened_at as date), channel
),

answers as (
    select
        cast(answered_at as date) as event_date,
        survey_id,
        count(case when rating_group = 'promoter' then 1 end) as promoters,
        count(case when rating_group = 'passive' then 1 end) as passives,
        count(case when rating_group = 'detractor' then 1 end) as detractors,
        count(case when measure = 'csat' then rating end) as csat_responses,
        count(case when rating_group = 'satisfied' then 1 end) as csat_satisfied,
        count(distinct case when is_complaint then response_id end) as complaint_count
    from {{ ref('analytics_survey_answers') }}
    where {{ is_changed_span('cast(answered_at as date)', 'changed_satisfaction_days') }}
    group by cast(answered_at as date), survey_id
),

measured as (
    select
        event_date, channel, survey_id, 0 as promoters, 0 as passives, 0 as detractors, csat_responses, csat_satisfied,
        complaint_count, conversation_count, awaited_count, answered_count, in_time_count, first_response_median_seconds,
        resolved_count, resolution_median_seconds
    from conversations
    union all
    select
        event_date, 'survey', survey_id, promoters, passives, detractors, csat_responses, csat_satisfied,
        complaint_count, 0, 0, 0, 0, null, 0, null
    from answers
)

select
    md5(concat_ws('|', cast(event_date as string), channel, survey_id)) as satisfaction_id,
    event_date,
    channel,
    survey_id,
    cast(promoters + passives + detractors as bigint) as nps_responses,
    cast(promoters as bigint) as promoters,
    cast(passives as bigint) as passives,
    cast(detractors as bigint) as detractors,
    {{ ratio('promoters - detractors', 'promoters + passives + detractors') }} as nps,
    cast(csat_responses as bigint) as csat_responses,
    cast(csat_satisfied as bigint) as csat_satisfied,
    {{ ratio('csat_satisfied', 'csat_responses') }} as csat,
    cast(complaint_count as bigint) as complaint_count,
    cast(conversation_count as bigint) as conversation_count,
    cast(awaited_count as bigint) as awaited_count,
    cast(answered_count as bigint) as answered_count,
    cast(in_time_count as bigint) as answered_in_time_count,
    {{ ratio('in_time_count', 'awaited_count') }} as answered_in_time,
    cast(first_response_median_seconds as double) as first_response_median_seconds,
    cast(resolved_count as bigint) as resolved_count,
    cast(resolution_median_seconds as double) as resolution_median_seconds,
    cast(spans.source_rows as bigint) as source_rows,
    cast(spans.source_seq as bigint) as source_seq,
    {{ seq() }}
from measured
inner join (
    {{ spans(satisfaction_days()) }}
) as spans on spans.span = measured.event_date
