-- Grain: one exchange rate, valid from its day to the day before the next. Fed by external/fx_rates; read by every model
-- with amounts. Read whole, as it is small and a late rate changes the validity of the one before; only what differs is
-- written, so that only its amounts are converted again.
{{ config(unique_key='rate_id', incremental_strategy='delete+insert') }}

with ranked as (
    select
        {{ upper_case('trim(currency)') }} as currency,
        date as valid_from,
        rate_to_base,
        row_number() over (
            partition by {{ upper_case('trim(currency)') }}, date order by _payload_hash, _source_uri, _source_row
        ) as _rank
    from {{ source('staging', 'external_fx_rates') }}
),

valid as (
    select
        concat_ws(':', currency, valid_from) as rate_id,
        currency,
        valid_from,
        coalesce(
            lead(valid_from) over (partition by currency order by valid_from), cast('9999-12-31' as date)
        ) as valid_to,
        {{ decimal_of('rate_to_base', 8) }} as rate_to_base
    from ranked
    where _rank = 1
)

select valid.*, {{ seq() }}
from valid
{% if is_incremental() -%}
left join {{ this }} as kept on kept.rate_id = valid.rate_id
where kept.rate_id is null or kept.valid_to <> valid.valid_to or kept.rate_to_base <> valid.rate_to_base
{%- endif %}
