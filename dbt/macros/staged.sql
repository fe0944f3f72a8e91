{# The contract of a staging table, as `onefold` hands it over from the channel's YAML. #}
{% macro contract(table) -%}
    {%- set entities = var('entities', none) -%}
    {%- if entities is none -%}
        {{ exceptions.raise_compiler_error("The channels' contracts are missing: run dbt as `onefold dbt …`") }}
    {%- endif -%}
    {%- if table not in entities -%}
        {{ exceptions.raise_compiler_error("No channel declares the entity " ~ table ~ "; see dagster_project/defs/channels/") }}
    {%- endif -%}
    {{ return(entities[table]) }}
{%- endmacro %}

{# Newly staged rows of one entity, one for each business key: the survivor among themselves and against this model.

   The survivor has the greatest updated_at, then the least occurred_at, then the least payload hash, so that any order
   and grouping of batches gives the same rows. `_version` is these three as one text of which the least wins.
   With `rates_at` (a time column), rows whose exchange rate has changed come again; with `again_if`, those that the
   condition on `rows` holds for. Beside a column of phones stands
   `<column>_e164`, as libphonenumber read its spelling when it was ingested. #}
{% macro staged(table, rates_at=none, again_if=none) -%}
    {%- set entity = contract(table) -%}
    {%- set staging = source('staging', table) -%}
    {%- set spelled = [] -%}
    {%- for column, format in entity.columns.items() if format in ('phone', 'identifier') -%}
        {%- do spelled.append(column) -%}
    {%- endfor -%}
    with incoming as (
        select rows.* from {{ staging }} as rows where {{ is_new('rows') }}
        {%- if rates_at and is_incremental() %}
        union all
        select rows.*
        from {{ staging }} as rows
        inner join (select * from {{ ref('cleaned_external_fx_rates') }} where _seq > {{ cursor() }}) as rates
            on rates.currency = {{ upper_case('trim(rows.currency)') }}
            and cast(rows.{{ rates_at }} as date) >= rates.valid_from
            and cast(rows.{{ rates_at }} as date) < rates.valid_to
        where rows._seq <= {{ cursor() }}
        {%- endif %}
        {%- if again_if and is_incremental() %}
        union all
        select rows.* from {{ staging }} as rows where rows._seq <= {{ cursor() }} and {{ again_if }}
        {%- endif %}
    ),

    versions as (
        select
            incoming.*,
            {{ record_id(entity.key) }} as record_id,
            concat_ws('',
                {{ sortable(entity.updated_at, descending=true) }}, {{ sortable(entity.event_time) }},
                _payload_hash, _batch_id, lpad(cast(_source_row as string), 12, '0')
            ) as _version
        from incoming
    ),

    -- Hardly any key comes twice; ranking all rows would sort the whole width of all of them.
    repeated as (select record_id from versions group by record_id having count(*) > 1),

    fresh as (
        select versions.*, 1 as _rank from versions where record_id not in (select record_id from repeated)
        union all
        select * from (
            select versions.*, row_number() over (partition by record_id order by _version) as _rank
            from versions
            where record_id in (select record_id from repeated)
        ) as ranked
        where _rank = 1
    )
    {%- if is_incremental() %},

    -- In two steps, so that history is searched by its key alone; versions are read only where a key is known.
    known as (select record_id from {{ this }} where record_id in (select record_id from fresh)),

    kept as (select record_id, _version from {{ this }} where record_id in (select record_id from known))
    {%- endif %}

    select
        fresh.*,
        {{ revision('kept.record_id is not null') }}
        {%- for column in spelled %}, {{ column }}_spelling.e164 as {{ column }}_e164{% endfor %}
    from fresh
    {%- for column in spelled %}
    left join {{ source('staging', '_phones') }} as {{ column }}_spelling
        on {{ column }}_spelling.given = fresh.{{ column }}
        and {{ column }}_spelling.region = '{{ var("default_region", "CN") }}'
    {%- endfor %}
    {%- if is_incremental() %}
    left join kept on kept.record_id = fresh.record_id
    where kept.record_id is null or fresh._version <= kept._version
    {%- endif %}
{%- endmacro %}

{# Columns that every cleaned table opens with; the source row is named so that evidence can be shown. #}
{% macro carried(source='staged') -%}
    {{ source }}.record_id, {{ source }}._version, {{ source }}._batch_id, {{ source }}._source_uri, {{ source }}._source_row,
    cast({{ source }}._extra as string) as _extra, {{ source }}._is_revision, {{ seq() }}
{%- endmacro %}

{% macro record_id(key) -%}
    {%- if key | length == 1 -%}cast({{ key[0] }} as string)
    {%- else -%}concat_ws('|'
        {%- for column in key %}, replace(replace(coalesce(cast({{ column }} as string), ''), '%', '%25'), '|', '%7C')
        {%- endfor %})
    {%- endif -%}
{%- endmacro %}

{# A time as text of fixed width that sorts like it; without a value last. Microseconds, shifted to stay positive. #}
{% macro sortable(column, descending=false) -%}
    {%- if not column -%}''
    {%- elif descending -%}
        coalesce(lpad(cast(300000000000000000 - {{ epoch_micros(column) }} as string), 18, '0'), '~')
    {%- else -%}
        coalesce(lpad(cast(100000000000000000 + {{ epoch_micros(column) }} as string), 18, '0'), '~')
    {%- endif -%}
{%- endmacro %}

{# When a record of a cleaned model became true, or with `latest` when its present version did. #}
{% macro time_of(entity, latest=false) -%}
    {%- if entity.kind == 'event' -%}occurred_at
    {%- elif latest -%}cast({{ entity.updated_at or entity.event_time or 'null' }} as timestamp)
    {%- else -%}cast({{ entity.event_time or entity.updated_at or 'null' }} as timestamp)
    {%- endif -%}
{%- endmacro %}
