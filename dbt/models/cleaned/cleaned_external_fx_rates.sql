-- Grain: one exchange rate, valid from its day to the day before the next. Fed by external/fx_rates; read by every model
-- with amounts. Rebuilt whole: it is small, and a late rate changes the validity of the one before.
{{ config(materialized='table') }}

with ranked as (
    select
        upper(trim(currency)) as currency,
        date as valid_from,
        rate_to_base,
        _seq,
        row_number() over (
            partition by upper(trim(currency)), date order by _payload_hash, _source_uri, _source_row
        ) as _rank
    from {{ source('staging', 'external_fx_rates') }}
),

final as (
    select
        currency,
        valid_from,
        coalesce(
            lead(valid_from) over (partition by currency order by valid_from), cast('9999-12-31' as date)
        ) as valid_to,
        cast(rate_to_base as decimal(18, 8)) as rate_to_base,
        greatest(_seq, coalesce(lead(_seq) over (partition by currency order by valid_from), 0)) as _seq
    from ranked
    where _rank = 1
)

select * from final
