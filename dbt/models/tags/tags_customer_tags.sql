-- Grain: one tag of one customer. Fed by every other model of this folder but the catalogue; read by audiences and BI.

{% for model in var('tag_models', []) %}
select customer_id, tag, value, number_value, confidence, computed_at from {{ ref(model) }}
{{ 'union all' if not loop.last }}
{% endfor %}
