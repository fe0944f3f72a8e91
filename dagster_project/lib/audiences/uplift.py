"""What being in an audience changed: members against its control group, by intention to treat."""

from datetime import datetime

import duckdb

from dagster_project.lib import dbt
from dagster_project.lib.audiences.rendering import rendered

WINDOW_DAYS = 30  # after entering; a longer one would let fewer count, a shorter one miss whom a message reminds

# Everybody counts from their first entry on, whether they were reached or not, once their window is over; whoever was on both
# sides, as the share was changed, counts on neither. Where there were members before there was a control group, those of that
# moment are no equals: the control group has all who had come in by then. So only later entries count.
_MEASURED = """
with stays as (
    select customer_id, entered_at, false as is_control from audiences.memberships where audience = $audience
    union all
    select customer_id, entered_at, true from audiences.control_memberships where audience = $audience
),

began as (
    select min(entered_at) as first_at, min(case when is_control then entered_at end) as control_at from stays
),

compared as (
    select customer_id, min(entered_at) as entered_at, bool_or(is_control) as is_control
    from stays group by customer_id having count(distinct is_control) = 1
),

counted as (
    select compared.* from compared cross join began
    where (entered_at > control_at or (entered_at = control_at and control_at = first_at))
        and entered_at + $days * interval 1 day <= $now
),

bought as (
    select counted.customer_id, sum(conversions.revenue_base) as revenue_base
    from counted
    inner join analytics.conversions as conversions
        on conversions.customer_id = counted.customer_id and conversions.converted_at > counted.entered_at
        and conversions.converted_at <= counted.entered_at + $days * interval 1 day
    group by counted.customer_id
),

numbers as (
    select
        count(*) filter (not is_control) as member_count,
        count(*) filter (is_control) as control_count,
        count(bought.customer_id) filter (not is_control) as converted_count,
        count(bought.customer_id) filter (is_control) as control_converted_count,
        coalesce(sum(revenue_base) filter (not is_control), 0) as revenue_base,
        coalesce(sum(revenue_base) filter (is_control), 0) as control_revenue_base
    from counted left join bought using (customer_id)
),

rates as (
    select
        *,
        {{ ratio('converted_count', 'member_count') }} as rate,
        {{ ratio('control_converted_count', 'control_count') }} as control_rate,
        {{ ratio('revenue_base', 'member_count') }} as revenue_per_customer,
        {{ ratio('control_revenue_base', 'control_count') }} as control_revenue_per_customer
    from numbers
),

bounded as (
    select
        *,
        {% for sign, limit in {'-': 'lower', '+': 'upper'}.items() -%}
        case when member_count > 0 then {{ wilson_limit('converted_count::double', 'member_count::double', sign) }} end
            as rate_{{ limit }},
        case when control_count > 0
            then {{ wilson_limit('control_converted_count::double', 'control_count::double', sign) }} end
            as control_rate_{{ limit }},
        {% endfor -%}
    from rates
),

final as (
    select
        *,
        rate - control_rate as uplift,
        {{ newcombe_limit('rate', 'control_rate', '-') }} as uplift_lower,
        {{ newcombe_limit('rate', 'control_rate', '+') }} as uplift_upper
    from bounded
)

select
    $audience as audience, $now as as_of, $days as window_days, member_count, control_count, converted_count,
    control_converted_count, rate as conversion_rate, control_rate as control_conversion_rate, uplift, uplift_lower,
    uplift_upper, uplift_lower > 0 or uplift_upper < 0 as is_significant, uplift * member_count as incremental_conversions,
    revenue_per_customer, control_revenue_per_customer,
    ((revenue_per_customer - control_revenue_per_customer) * member_count)::decimal(18, 4) as incremental_revenue_base
from final
"""


def is_due(connection: duckdb.DuckDBPyConnection, audience: str, now: datetime) -> bool:
    """Whether an audience ever had a control group and was not compared with it today yet: purchases are many."""
    has_controls, compared_at = connection.execute(
        "select exists (select 1 from audiences.control_memberships where audience = $audience), "
        "(select max(as_of) from audiences.uplift where audience = $audience)",
        {"audience": audience},
    ).fetchone()
    return has_controls and (compared_at is None or compared_at.date() != now.date())


def measure(connection: duckdb.DuckDBPyConnection, audience: str, now: datetime) -> None:
    """Put an audience's comparison as of now in place of the one before; for a caller who holds a transaction."""
    query = rendered(dbt.PROJECT, _MEASURED, {}, lambda model: model)
    connection.execute("delete from audiences.uplift where audience = ?", [audience])
    connection.execute(f"insert into audiences.uplift by name {query}", {"audience": audience, "now": now, "days": WINDOW_DAYS})
