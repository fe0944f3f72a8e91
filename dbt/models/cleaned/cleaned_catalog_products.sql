-- Grain: one product. Fed by catalog/products; read by purchases, recommendations and tags. Prices stay in their own
-- currency: they have no day whose rate could convert them.

with staged as ({{ staged('catalog_products') }})

select
    {{ carried() }},
    trim(product_id) as product_id,
    trim(name) as name,
    trim(category) as category,
    trim(brand) as brand,
    price,
    cost,
    {{ currency('currency') }} as currency,
    updated_at
from staged
