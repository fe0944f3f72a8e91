-- Grain: one tag of one customer. Fed by every other model of this folder but catalogue and cut points; read by audiences and BI.

-- Only who is a customer: a tag of daily refresh may still know others.
with touched as (
    select customer_id from {{ ref('unified_customers') }} where customer_id in ({{ touched_customers() }})
)

{% for model in var('tag_models', []) %}
select customer_id, tag, value, number_value, confidence, computed_at, {{ seq() }}
from {{ ref(model) }}
where customer_id in (select customer_id from touched)
{{ 'union all' if not loop.last }}
{% endfor %}
