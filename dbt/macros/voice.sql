{# What satisfaction and listening share. #}

{# A public post about the company; of unified.customer_events. What is merely liked or followed says nothing. #}
{% macro is_mention() -%}
    (channel = 'social' and event_name in ('brand_mentioned', 'commented', 'shared') and {{ is_customer_traffic() }})
{%- endmacro %}

{# A message, ticket or call of customer service; those of customers and those to them. #}
{% macro is_service_contact() -%}
    (channel in ('chat', 'call', 'wecom')
        and event_name in ('message_received', 'message_sent', 'conversation_started', 'call_received')
        and {{ is_customer_traffic() }})
{%- endmacro %}

{# Whether an event holds a customer's own words. #}
{% macro has_own_words() -%}
    (text is not null and event_name <> 'message_sent'
        and ({{ is_mention() }} or {{ is_service_contact() }} or event_name = 'survey_answered'))
{%- endmacro %}

{# negative, neutral or positive by a rating from 1 to 5. #}
{% macro sentiment_of_rating(rating) -%}
    case when {{ rating }} >= 4 then 'positive' when {{ rating }} < 3 then 'negative' when {{ rating }} < 4 then 'neutral' end
{%- endmacro %}

{# Incremental strategy `of_events`: rows of events that were revised are replaced, also by nothing. #}
{% macro get_incremental_of_events_sql(arguments) -%}
    {%- set revised -%}
        select event_id from {{ ref('unified_customer_events') }} where {{ is_new() }} and _is_revision
    {%- endset -%}
    {{ with_fresh_rows(arguments, 'event_id in (' ~ revised ~ ')') }}
{%- endmacro %}

{# Incremental strategy `of_groups`: everything of a group that changed is replaced, also by nothing. The model's config has
   `group_column`, and `changed_groups`, the name of a macro that gives the groups as its only column. #}
{% macro get_incremental_of_groups_sql(arguments) -%}
    {{ with_fresh_rows(arguments, config.require('group_column') ~ ' in (' ~ context[config.require('changed_groups')]() ~ ')') }}
{%- endmacro %}

{# Conversations of a service contact that changed, also those that lost one. #}
{% macro changed_threads() -%}
    select thread_id from {{ ref('analytics_service_contacts') }} where {{ is_new() }}
    union
    select previous_thread_id from {{ ref('analytics_service_contacts') }} where {{ is_new() }} and previous_thread_id is not null
{%- endmacro %}

{# Responses to a survey of which an answer changed. #}
{% macro changed_responses() -%}
    select responses.response_id
    from {{ ref('cleaned_survey_responses') }} as responses
    inner join (
        select record_id from {{ ref('unified_customer_events') }} where {{ is_new() }} and source_table = 'survey_responses'
    ) as changed on changed.record_id = responses.record_id
{%- endmacro %}

{# Spans of time (days, hours) of which rows came, changed or went. Each row of the model says how many rows its span was made
   from and what the last write among them was (`source_rows`, `source_seq`): where either differs, the span is stale.

   Arguments: column of the span in the model; for each table it is made from, the SQL of the span. #}
{% macro changed_spans(column, sources) -%}
    select coalesce(present.span, made.span) as span
    from (
        {{ spans(sources) }}
    ) as present
    full outer join (
        select {{ column }} as span, max(source_rows) as source_rows, max(source_seq) as source_seq from {{ this }} group by {{ column }}
    ) as made on made.span = present.span
    where coalesce(present.source_rows, 0) <> coalesce(made.source_rows, 0)
        or coalesce(present.source_seq, 0) <> coalesce(made.source_seq, 0)
{%- endmacro %}

{# Each span with how many rows it is made from, and the last write among them. #}
{% macro spans(sources) -%}
    select span, count(*) as source_rows, max(_seq) as source_seq
    from (
        {%- for name, span in sources.items() %}
        select {{ span }} as span, _seq from {{ ref(name) }} {{ 'union all' if not loop.last }}
        {%- endfor %}
    ) as dated
    group by span
{%- endmacro %}

{% macro mention_days() -%}{{ return({'analytics_mentions': 'cast(occurred_at as date)'}) }}{%- endmacro %}
{% macro changed_mention_days() -%}{{ changed_spans('event_date', mention_days()) }}{%- endmacro %}

{# Hours as the company's clocks show them. #}
{% macro mention_hours() -%}
    {{ return({'analytics_mentions': "date_trunc('hour', " ~ in_time_zone('occurred_at', var('default_time_zone', 'UTC')) ~ ')'}) }}
{%- endmacro %}
{% macro changed_mention_hours() -%}{{ changed_spans('hour_at', mention_hours()) }}{%- endmacro %}

{% macro satisfaction_days() -%}
    {{ return({'analytics_conversations': 'cast(opened_at as date)', 'analytics_survey_answers': 'cast(answered_at as date)'}) }}
{%- endmacro %}
{% macro changed_satisfaction_days() -%}{{ changed_spans('event_date', satisfaction_days()) }}{%- endmacro %}

{# Condition on a span that has to be made anew; true for all of them on a full build. #}
{% macro is_changed_span(span, changed) -%}
    {%- if is_incremental() -%}{{ span }} in ({{ context[changed]() }}){%- else -%}1 = 1{%- endif -%}
{%- endmacro %}

{# What is usual for a count: the median of the same hour of the weeks before, and a bound that chance hardly passes:
   3.5 robust standard deviations, or those of a Poisson count where the weeks are more alike than chance makes them. #}
{% macro upper_bound(median, deviation) -%}
    {{ median }} + 3.5 * greatest(1.4826 * {{ deviation }}, sqrt({{ median }} + 1))
{%- endmacro %}

{% macro mention_counts() -%}
    count(*) as mention_count,
        count(distinct customer_id) as author_count,
        count(case when sentiment = 'positive' then 1 end) as positive_count,
        count(case when sentiment = 'neutral' then 1 end) as neutral_count,
        count(case when sentiment = 'negative' then 1 end) as negative_count
{%- endmacro %}

{# The posts of analytics.mentions that have to be counted anew, once for each of their topics and once for (all). #}
{% macro posts_by_topic(span, changed) -%}
    with mentions as (
        select *, {{ span }} as span from {{ ref('analytics_mentions') }} where {{ is_changed_span(span, changed) }}
    )

    select mentions.*, '(all)' as topic from mentions
    union all
    select mentions.*, names.topic
    from mentions
    inner join (select distinct topic from {{ ref('topics') }} union select 'other') as names
        on instr(concat_ws('', ',', mentions.topics, ','), concat_ws('', ',', names.topic, ',')) > 0
{%- endmacro %}
