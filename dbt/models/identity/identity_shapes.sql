-- Grain: one customer as a graph: how many identifiers, how many links between them, and whether single links hold large parts
-- together. Identifiers that several customers share in time are left out. The solver writes it; read by quality and BI.
-- depends_on: {{ ref('identity_assignments') }}
{{ config(materialized='view') }}

select
    customer_id, identifiers, links,
    cast(2 * links as double) / nullif(identifiers * (identifiers - 1), 0) as density,
    bridges, largest_side, _seq
from {{ this.schema }}._shapes
