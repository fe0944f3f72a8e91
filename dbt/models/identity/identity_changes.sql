-- Grain: one identifier that moved: to a new customer, by a merge, by a split, or away. The ledger that the solver writes;
-- replayed from its start it gives today's assignments.
-- depends_on: {{ ref('identity_assignments') }}
{{ config(materialized='view') }}

select * from {{ this.schema }}._changes
