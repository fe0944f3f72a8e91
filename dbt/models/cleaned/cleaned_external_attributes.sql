-- Grain: one statement of a provider about an identifier. Fed by external/attributes; read by the customer's
-- attributes.

with staged as ({{ staged('external_attributes') }})

select
    {{ carried() }},
    {{ named_identifier('identifier_type', 'identifier_value') }},
    {{ lower_case('trim(attribute)') }} as attribute,
    trim(value) as value,
    as_of
from staged
