-- Grain: one run of the solver that had something to do: under which rules, how many identifiers it looked at and moved, and how
-- many refusals stood after it. Read by BI.
-- depends_on: {{ ref('identity_assignments') }}
{{ config(materialized='view') }}

select run, solved_at, rules_version, identifiers_examined, identifiers_moved, refusals from {{ this.schema }}._runs
