-- Whatever reads the seed sensitive_groups, or a tag that is restricted, is restricted itself.
{%- set offenders = [] %}
{%- if execute %}
{%- for model in var('tag_models', []) %}
{%- set node = graph.nodes['model.onefold.' ~ model] %}
{%- for parent in node.depends_on.nodes %}
{%- set is_sensitive = parent == 'seed.onefold.sensitive_groups'
    or (parent in graph.nodes and graph.nodes[parent].config.meta.get('sensitivity') == 'restricted') %}
{%- if is_sensitive and node.config.meta.get('sensitivity') != 'restricted' %}{% do offenders.append(model) %}{% endif %}
{%- endfor %}
{%- endfor %}
{%- endif %}

-- depends_on: {{ ref('tags_catalog') }}
select tag
from {{ ref('tags_catalog') }}
where tag in ('' {%- for model in offenders %}, '{{ model.removeprefix('tags_') }}'{% endfor %})
