-- Grain: one customer id that is no longer used, and the living id that took its place, in one step.
-- depends_on: {{ ref('identity_assignments') }}
{{ config(materialized='view') }}

select * from {{ this.schema }}._redirects
