-- Grain: one pair of records that may describe one person, with how likely that is and what agrees; is_current = false once it is not
-- kept any more. This SELECT gives the profiles; the step compares those that are new with all that are like them
-- (dagster_project/lib/identity/match.py). Read by evidence, which takes the surest ones, by groups and by reviews.
{{ config(materialized='python_step', step='identity.steps.match') }}

select * from {{ ref('identity_profiles') }}
