{# What is usual for each measured value, and whether this one is outside.

   The usual is the median of the metric's last 20 values, from 5 on with a band around it. Its half width is the greatest of
   - 3.5 robust standard deviations, 1.4826 × the median absolute deviation (Iglewicz and Hoaglin, How to Detect and Handle
     Outliers, 1993: a modified z-score above 3.5 is an outlier);
   - for a share, 3.5 standard errors of a share of that size among so few rows, two successes and two failures added
     (Agresti and Coull, The American Statistician 52, 1998), so that a channel with twelve rows raises no alarm;
   - for a share, 0.02: what is less is not worth anybody's morning.
   A value outside its band becomes history only after 7 days, and those of refreshes that did not finish never do: a break
   stays visible, a lasting change becomes usual by itself, an approval makes it so at once.

   Arguments: names of two CTEs. `shares` (metric, channel, identifier_type, numerator, denominator, worse); `others`
   (metric, channel, identifier_type, value, numerator, usual, half_width, upper_half_width, samples, worse) bring their own. `worse` says on
   which side of the usual the trouble is: lower, higher or either. `batches`: a CTE (channel, batch_id). #}
{% macro banded(shares, others=none, batches=none) -%}
measured as (
    select
        metric, channel, identifier_type,
        cast(numerator as double) / nullif(denominator, 0) as value,
        cast(numerator as bigint) as numerator,
        cast(denominator as bigint) as denominator,
        worse,
        true as is_share,
        cast(null as double) as own_usual, cast(null as double) as own_half_width,
        cast(null as double) as own_upper_half_width, cast(null as bigint) as own_samples
    from {{ shares }}
    {%- if others %}
    union all
    select
        metric, channel, identifier_type, cast(value as double), cast(numerator as bigint), cast(null as bigint), worse,
        false, cast(usual as double), cast(half_width as double),
        cast(upper_half_width as double), cast(samples as bigint)
    from {{ others }}
    {%- endif %}
),

kept as ({{ measured_before() }}),

latest as (
    select metric, channel, identifier_type, is_anomaly, anomalous_since
    from (
        select
            kept.*, row_number() over (partition by metric, channel, identifier_type order by refresh desc) as age
        from kept
    ) as aged
    where age = 1
),

recent as (
    select metric, channel, identifier_type, value
    from (
        select
            kept.*, row_number() over (partition by metric, channel, identifier_type order by refresh desc) as age
        from kept
        where is_history and value is not null
    ) as aged
    where age <= 20
),

centre as (
    select metric, channel, identifier_type, {{ median_of('value') }} as usual, count(*) as samples
    from recent
    group by metric, channel, identifier_type
),

spread as (
    select recent.metric, recent.channel, recent.identifier_type, {{ median_of('abs(recent.value - centre.usual)') }} as deviation
    from recent
    inner join centre on centre.metric = recent.metric and centre.channel = recent.channel
        and centre.identifier_type = recent.identifier_type
    group by recent.metric, recent.channel, recent.identifier_type
),

expected as (
    select
        measured.*,
        case when measured.is_share then centre.usual else measured.own_usual end as usual,
        coalesce(case when measured.is_share then centre.samples else measured.own_samples end, 0) as samples,
        case
            when not measured.is_share then measured.own_half_width
            when centre.samples >= 5 then greatest(
                3.5 * 1.4826 * spread.deviation,
                case
                    when measured.denominator = 0 then 1  -- nothing can be said of a share of nothing
                    else 3.5 * sqrt(
                        cast(centre.usual * measured.denominator + 2 as double) / (measured.denominator + 4)
                        * (1 - cast(centre.usual * measured.denominator + 2 as double) / (measured.denominator + 4))
                        / measured.denominator
                    )
                end,
                0.02
            )
        end as half_width
    from measured
    left join centre on centre.metric = measured.metric and centre.channel = measured.channel
        and centre.identifier_type = measured.identifier_type
    left join spread on spread.metric = measured.metric and spread.channel = measured.channel
        and spread.identifier_type = measured.identifier_type
),

judged as (
    select
        sided.*,
        case
            when worse = 'lower' or (worse = 'either' and value < usual) then cast(usual - value as double) / half_width
            else cast(value - usual as double) / upper_half_width
        end as deviation
    from (
        select expected.*, case when is_share then half_width else own_upper_half_width end as upper_half_width from expected
    ) as sided
)

select
    concat_ws('|', '{{ var("refresh", 0) }}', judged.metric, judged.channel, judged.identifier_type) as metric_key,
    cast({{ var('refresh', 0) }} as bigint) as refresh,
    judged.metric,
    judged.channel,
    judged.identifier_type,
    judged.value,
    judged.numerator,
    judged.denominator,
    {{ as_of() }} as measured_at,
    {{ 'batches.batch_id' if batches else 'cast(null as string) as batch_id' }},
    judged.usual,
    case when judged.worse <> 'higher' and judged.half_width is not null then
        greatest(judged.usual - judged.half_width, 0)
    end as lower,
    case
        when judged.worse = 'lower' or judged.half_width is null then null
        when judged.is_share then least(judged.usual + judged.half_width, 1)
        else judged.usual + judged.upper_half_width
    end as upper,
    judged.samples,
    judged.deviation,
    coalesce(judged.deviation > 1, false) as is_anomaly,
    case when judged.deviation > 1 then
        case when latest.is_anomaly then latest.anomalous_since else {{ as_of() }} end
    end as anomalous_since,
    {{ seq() }}
from judged
left join latest on latest.metric = judged.metric and latest.channel = judged.channel
    and latest.identifier_type = judged.identifier_type
{%- if batches %}
left join {{ batches }} as batches on batches.channel = judged.channel
{%- endif %}
{%- endmacro %}

{# This model's rows of earlier refreshes; is_history says which of them the usual is made from. #}
{% macro measured_before() -%}
    {%- set unfinished = var('unfinished_refreshes', []) -%}
    {%- if is_incremental() %}
    select
        metric, channel, identifier_type, value, refresh, is_anomaly, anomalous_since,
        refresh > 0
        and (not is_anomaly or measured_at < {{ dbt.dateadd('day', -7, as_of()) }})
        {%- if unfinished %} and refresh not in ({{ unfinished | join(', ') }}){% endif %}
        {%- for metric, since in var('approved', {}).items() %}
        and (refresh >= {{ since.refresh }} or not {{ is_metric(metric) }})
        {%- endfor %} as is_history
    from {{ this }}
    where refresh <> {{ var('refresh', 0) }}
    {%- else %}
    select
        cast(null as string) as metric, cast(null as string) as channel, cast(null as string) as identifier_type,
        cast(null as double) as value, cast(null as bigint) as refresh, false as is_anomaly,
        cast(null as timestamp) as anomalous_since, false as is_history
    where 1 = 0
    {%- endif %}
{%- endmacro %}

{# Whether a row is of a metric, or of one of its parts: `completeness` is also `completeness:crm_contacts.email`. #}
{% macro is_metric(metric) -%}
    (metric = '{{ metric }}' or metric like '{{ metric }}:%')
{%- endmacro %}

{# From when on the days and gaps of a channel count as history: since somebody approved the metric's change, if so. #}
{% macro approved_at(metric) -%}
    cast('{{ var("approved", {}).get(metric, {}).get("as_of", "1970-01-01 00:00:00") }}' as timestamp)
{%- endmacro %}

{# Thins out a metric's history now and then: all values of the last 100 refreshes, before them the last one of each day, for
   400 days, so that a trend over a year stays and a warm loop that refreshes every few seconds does not fill the disk. #}
{% macro thin_out() -%}
    {%- if var('refresh', 0) % 20 == 0 %}
    {%- set is_thin -%}
    measured_at < {{ as_of() }} - interval 400 days
        or (refresh <= {{ var('refresh', 0) }} - 100 and metric_key not in (
            select max_by(metric_key, refresh)
            from {{ this }}
            group by metric, channel, identifier_type, cast(measured_at as date)
        ))
    {%- endset -%}
    {{ delete_rows(is_thin) }}
    {%- endif %}
{%- endmacro %}
