-- Grain: one identifier by which records of one channel are attributed, usable or not, and its customer now; is_current = false
-- once no record is. Kept from new records alone: `witness` is one record that names it, and only where the witness names
-- another now, older records are asked. Fed by identity; read by the record metrics.
-- depends_on: {{ ref('identity_changes') }}
{{ config(unique_key='named_id', incremental_strategy='delete+insert') }}

with fresh as (
    select
        record_key, channel, identifier_type, identifier_value, is_usable,
        md5(concat_ws('|', channel, identifier_type, identifier_value, cast(is_usable as string))) as named_id
    from {{ ref('identity_records') }}
    where {{ is_new() }}
),

named as (
    select named_id, channel, identifier_type, identifier_value, is_usable, min(record_key) as witness, true as is_current
    from fresh
    where identifier_type is not null
    group by named_id, channel, identifier_type, identifier_value, is_usable
),

{% if is_incremental() -%}
left_behind as (
    select kept.named_id, kept.channel, kept.identifier_type, kept.identifier_value, kept.is_usable, kept.witness
    from {{ this }} as kept
    inner join fresh on fresh.record_key = kept.witness
    left join named on named.named_id = kept.named_id
    where kept.is_current and named.named_id is null
),

other_witnesses as (
    select left_behind.named_id, min(records.record_key) as witness
    from {{ ref('identity_records') }} as records
    inner join left_behind
        on left_behind.identifier_value = records.identifier_value
        and left_behind.identifier_type = records.identifier_type
        and left_behind.channel = records.channel
        and left_behind.is_usable = records.is_usable
    group by left_behind.named_id
),

moved as (
    select kept.named_id, kept.channel, kept.identifier_type, kept.identifier_value, kept.is_usable, kept.witness
    from {{ this }} as kept
    inner join (
        select distinct identifier_type, identifier_value from {{ ref('identity_changes') }} where {{ is_new() }}
    ) as changes
        on changes.identifier_type = kept.identifier_type and changes.identifier_value = kept.identifier_value
    left join named on named.named_id = kept.named_id
    left join left_behind on left_behind.named_id = kept.named_id
    where kept.is_current and named.named_id is null and left_behind.named_id is null
),
{%- endif %}

touched as (
    select * from named
    {% if is_incremental() -%}
    union all
    select
        left_behind.named_id, left_behind.channel, left_behind.identifier_type, left_behind.identifier_value,
        left_behind.is_usable, other_witnesses.witness, other_witnesses.witness is not null
    from left_behind
    left join other_witnesses on other_witnesses.named_id = left_behind.named_id
    union all
    select moved.*, true from moved
    {%- endif %}
),

-- As a column: a condition beside the equalities would make the engine compare every pair.
usable as (select touched.*, case when is_usable then identifier_value end as usable_value from touched)

select
    usable.named_id, usable.channel, usable.identifier_type, usable.identifier_value, usable.is_usable,
    assignments.customer_id, usable.witness, usable.is_current, {{ seq() }}
from usable
left join (select * from {{ ref('identity_assignments') }} where valid_to is null) as assignments
    on assignments.identifier_type = usable.identifier_type and assignments.identifier_value = usable.usable_value
