-- Grain: one identifier on one record, also of an earlier version of the record (is_current = false). Fed by the cleaned
-- models of every entity whose contract names identifiers; read by nodes, evidence, records and the quality metrics.
-- A record that changes is written anew with all its identifiers, so that readers find it whole among the new rows.
{{ config(unique_key='sighting_id') }}
{%- set weak, together = weak_types(), types_together() %}

with changed as (
    {% for table, entity in var('entities', {}).items() if entity.identifiers %}
    {%- for column, type in entity.identifiers.items() %}
    {%- set has_given = entity.columns.get(column) in ('email', 'phone') %}
    select
        '{{ entity.channel }}' as channel,
        '{{ table }}' as source_table,
        record_id,
        '{{ type }}' as identifier_type,
        {{ identifier_priority(type) }} as priority,
        {%- set value = 'coalesce(' ~ column ~ ', ' ~ column ~ '_given)' if has_given else column %}
        {#- A deleted record names nobody any more. #}
        {{ 'case when not coalesce(is_deleted, false) then ' ~ value ~ ' end' if 'is_deleted' in entity.columns else value }} as identifier_value,
        {{ 'coalesce(is_' ~ column ~ '_valid, false)' if has_given else 'true' }} as is_valid,
        {{ is_blocked(value, type) }} as is_blocked,
        {{ time_of(entity) }} as seen_at,
        _is_revision
    from {{ ref('cleaned_' ~ table) }}
    where {{ is_new() }}
    {{ 'union all' if not loop.last }}
    {%- endfor %}
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

seen as (
    select
        md5(concat_ws('|', source_table, record_id, identifier_type, identifier_value)) as sighting_id,
        channel, source_table, record_id, identifier_type, priority, identifier_value,
        max(is_valid) as is_valid,
        max(is_valid) and not max(is_blocked) as is_part,
        min(seen_at) as seen_at,
        true as is_current,
        {{ revision('bool_or(_is_revision)') }}
    from changed
    where identifier_value is not null
    group by channel, source_table, record_id, identifier_type, priority, identifier_value
),

named as (
    select
        sighting_id, channel, source_table, record_id, identifier_type, priority, identifier_value, is_valid,
        is_part{% if weak %} and identifier_type not in ('{{ weak | join("', '") }}'){% endif %} as is_usable, seen_at,
        is_current, _is_revision
    from seen
    {%- for name in together %}
    {%- set parts = name.split('+') %}
    {%- set values %}{% for part in parts %}replace(replace(part_{{ loop.index }}.identifier_value, '%', '%25'), '|', '%7C'){{ ', ' if not loop.last }}{% endfor %}{% endset %}
    union all
    select
        md5(concat_ws('|', part_1.source_table, part_1.record_id, '{{ name }}', {{ values }})), part_1.channel,
        part_1.source_table, part_1.record_id, '{{ name }}', {{ identifier_priority(name) }}, concat_ws('|', {{ values }}),
        true, true, part_1.seen_at, true, part_1._is_revision
    from seen as part_1
    {%- for part in parts[1:] %}
    inner join seen as part_{{ loop.index + 1 }}
        on part_{{ loop.index + 1 }}.source_table = part_1.source_table
        and part_{{ loop.index + 1 }}.record_id = part_1.record_id
        and part_{{ loop.index + 1 }}.identifier_type = '{{ part }}' and part_{{ loop.index + 1 }}.is_part
    {%- endfor %}
    where part_1.identifier_type = '{{ parts[0] }}' and part_1.is_part
    {%- endfor %}
),

{% if is_incremental() -%}
-- A record that no longer carries an identifier takes its sighting back.
taken_back as (
    select
        kept.sighting_id, kept.channel, kept.source_table, kept.record_id, kept.identifier_type, kept.priority,
        kept.identifier_value, kept.is_valid, kept.is_usable, kept.seen_at, false as is_current, true as _is_revision
    from {{ this }} as kept
    inner join (select distinct source_table, record_id from changed where _is_revision) as records
        on records.source_table = kept.source_table and records.record_id = kept.record_id
    left join named on named.sighting_id = kept.sighting_id
    where kept.is_current and named.sighting_id is null
),
{%- endif %}

final as (
    select * from named
    {% if is_incremental() -%}
    union all
    select * from taken_back
    {%- endif %}
)

select *, {{ seq() }} from final
