{# One value of each attribute for each touched customer, by the rules in the seed `survivorship`: by priority of the source,
   by recency, or by how many records say so; ties go to the later, then to the source's priority, then to the value. #}
{% macro surviving_attributes() -%}
    select customer_id, attribute, value, source_table
    from (
        select
            stated.customer_id, stated.attribute, stated.value, stated.source_table,
            row_number() over (
                partition by stated.customer_id, stated.attribute
                order by
                    case when coalesce(rules.strategy, 'priority') = 'priority' then coalesce(rules.priority, 99) else 0 end,
                    case when rules.strategy = 'frequency' then stated.said_by else 0 end desc,
                    stated.observed_at desc nulls last,
                    coalesce(rules.priority, 99),
                    stated.value,
                    stated.source_table,
                    stated.record_id
            ) as survival_rank
        from (
            select
                attributes.*,
                count(*) over (partition by customer_id, attribute, value) as said_by
            from {{ ref('unified_customer_attributes') }} as attributes
            where value is not null and customer_id in (select customer_id from touched)
        ) as stated
        left join {{ ref('survivorship') }} as rules
            on rules.attribute = stated.attribute and rules.source_table = stated.source_table
    ) as ranked
    where survival_rank = 1
{%- endmacro %}

{# The e-mail and the phone that a touched customer used last, of the identifiers in the CTE `theirs`. #}
{% macro latest_contacts() -%}
    select
        customer_id,
        max(case when identifier_type = 'email' then identifier_value end) as email,
        max(case when identifier_type = 'phone' then identifier_value end) as phone
    from (
        select
            customer_id, identifier_type, identifier_value,
            row_number() over (
                partition by customer_id, identifier_type order by last_seen_at desc nulls last, identifier_value
            ) as recency
        from theirs
        where identifier_type in ('email', 'phone') and valid_to is null  -- what is somebody else's now is no contact
    ) as ranked
    where recency = 1
    group by customer_id
{%- endmacro %}

{% macro count_events() -%}
    count(case when event_name in ('{{ varargs | join("', '") }}') then 1 end)
{%- endmacro %}

{% macro amount_of() -%}
    case when event_name in ('{{ varargs | join("', '") }}') then amount_base end
{%- endmacro %}
