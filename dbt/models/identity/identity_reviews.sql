-- Grain: one union of two customers for a person to look at: a rule refused it, or the records are alike but not enough to merge. A
-- decision about any two identifiers of the two customers takes it out. Fed by refusals, matches and decisions; read by
-- `onefold identity review` and the console.
{{ config(materialized='view') }}

with decided as (
    select a.customer_id as customer_id, b.customer_id as other_customer_id
    from {{ ref('identity_decisions') }} as decisions
    inner join {{ ref('identity_assignments') }} as a on a.node_id = decisions.left_id
    inner join {{ ref('identity_assignments') }} as b on b.node_id = decisions.right_id
    where decisions.kind = 'different'
),

pairs as (
    select customer_id, other_customer_id from decided
    union
    select other_customer_id, customer_id from decided
),

alike as (
    select
        matches.left_type, matches.left_value, matches.right_type, matches.right_value,
        cast(null as string) as through_type, cast(null as string) as through_value, 'alike' as rule, 'alike' as reason,
        matches.evidence as detail, a.customer_id as left_customer_id, b.customer_id as right_customer_id,
        cast(null as timestamp) as refused_at, matches.matched_by as rules_version, matches.match_probability
    from (select * from {{ ref('identity_matches') }} where is_current and grade <> 'transactional') as matches
    inner join (select * from {{ ref('identity_assignments') }} where valid_to is null) as a
        on a.identifier_type = matches.left_type and a.identifier_value = matches.left_value
    inner join (select * from {{ ref('identity_assignments') }} where valid_to is null) as b
        on b.identifier_type = matches.right_type and b.identifier_value = matches.right_value
    where a.customer_id <> b.customer_id
),

queue as (
    select refusals.*, cast(null as double) as match_probability
    from {{ ref('identity_refusals') }} as refusals
    where refusals.reason <> 'decision'
    union all
    select * from alike
)

select queue.*
from queue
left join pairs
    on pairs.customer_id = queue.left_customer_id and pairs.other_customer_id = queue.right_customer_id
where pairs.customer_id is null
