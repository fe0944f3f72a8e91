"""The statements of `rounds`: only what DuckDB 1.5 and Spark 4.1 share. What is in braces is put in there: names or subqueries.

Every proposal has a stage (0 decisions, 1 other links between persons, 2 eras, 3 carriers) and a place in its component.
"""

# How connected components are found, by labels. Links go both ways, and each node is linked to itself.
ENDS = """
select id as one, id as other from ({nodes}) as nodes
union all
select one, other from ({edges}) as forth
union all
select other, one from ({edges}) as back
"""
NEAREST = "select one as id, min(other) as label from ({ends}) as ends group by one"
# Each takes the least label that its own label or a neighbour's label has; `is_moving`: a neighbour's was less.
LEAST = """
select
    ends.one as id, min(further.label) as label,
    min(further.label) <> min(case when ends.one = ends.other then further.label end) as is_moving
from ({ends}) as ends
join (
    select labels.id, beyond.label from {labels} as labels join {labels} as beyond on beyond.id = labels.label
) as further on further.id = ends.other
group by ends.one
"""
CANDIDATES = "select left_id as one, right_id as other from {links} union all select before_id, after_id from {eras}"
# The identifiers of components in which something can break. The others are one customer each.
IDENTIFIERS = """
with risky as (
    select label as component
    from {nodes} as nodes join {component} as labels using (id)
    group by label, kind, is_person
    having count(distinct value) > case when is_person then 1{most_carriers} end
    union
    select one.label
    from {apart} join {component} as one on one.id = left_id join {component} as other on other.id = right_id
    where one.label = other.label
)

select
    id, kind, is_person, value, first_seen, name, {keyed}(name) as name_hash, component,
    count(*) over (partition by component, kind, value) > 1 as is_recycled
from {nodes} as nodes join {component} as labels using (id) join risky on component = label
"""
TIES = """
select
    ties.id, left_id, right_id, rank, confidence, linked_at, one.component,
    {keyed}(least(one.name, other.name) || ' ' || greatest(one.name, other.name)) as tie_hash,
    case when one.is_person then 1 else 0 end + case when other.is_person then 1 else 0 end as persons,
    case when one.is_person then left_id else right_id end as person_id,
    case when one.is_person then right_id else left_id end as carrier_id -- where one of the two is a person
from {links} as ties join {identifiers} as one on one.id = left_id join {identifiers} as other on other.id = right_id
"""
AMONG_CARRIERS = "select left_id as one, right_id as other from {ties} where persons = 0"
# A row for each proposal and cluster that it would unite; `shown` is the identifier by which it touches the cluster, and
# `ordinal` the order in which a refusal tells of them.
TOUCHING = """
with pairs as (
    select
        component, case when rank = 0 then 0 else 1 end as stage, rank, confidence, linked_at as since, tie_hash,
        id as proposal, left_id as one, right_id as other, id as link_id, cast(null as bigint) as through_id
    from {ties}
    -- A decision gives a carrier to a person as if it were one of their identifiers.
    where persons = 2 or (persons = 1 and rank = 0)
    union all
    select component, 2, 0, 0.0, first_seen, name_hash, id, before_id, after_id, cast(null as bigint), id
    from {eras} join {identifiers} as identifiers on id = after_id
),

groups as (
    select label as proposal, id from {carriers}
    union
    select label, person_id from {ties} join {carriers} as carriers on carriers.id = carrier_id
    where persons = 1 and rank <> 0
),

members as (
    select component, stage, rank, confidence, since, tie_hash, proposal, one as id, 0 as ordinal, link_id, through_id
    from pairs
    union all
    select component, stage, rank, confidence, since, tie_hash, proposal, other, 1, link_id, through_id
    from pairs
    union all
    select
        component, 3, 0, 0.0, first_value(first_seen) over oldest, first_value(name_hash) over oldest, proposal, id,
        row_number() over (partition by proposal order by first_seen, name_hash, id), cast(null as bigint),
        first_value(id) over oldest
    from groups join {identifiers} as identifiers using (id)
    window oldest as (partition by proposal order by is_person, first_seen, name_hash, id) -- of its carriers
),

placed as (
    select
        *, dense_rank() over (partition by component order by stage, rank, confidence desc, since, tie_hash, proposal) as place,
        count(*) over (partition by stage, proposal) as clusters
    from members
)

select component, stage, place, link_id, through_id, id as cluster, id as shown, ordinal from placed where clusters > 1
"""
# A row for each value that a cluster holds, of the kinds that rules look at. `is_recycled`: it has several eras.
HELD = """
select component, id as cluster, kind, is_person, value, first_seen, is_recycled
from {identifiers} where is_person or kind in ({limited})
"""
NOTHING_FORBIDDEN = "select component, id as one, id as other from {identifiers} where false"
FORBIDDEN = """
select component, left_id as one, right_id as other from {apart} join {identifiers} as identifiers on id = left_id
union
select component, right_id, left_id from {apart} join {identifiers} as identifiers on id = right_id
"""
# The proposals of the stage that each component is in. In a group, customers come before its own carriers, which are nobody's
# yet; the two ends of a pair count as customers.
TURN = """
with staged as (select *, min(stage) over (partition by component) as first_stage from {touching}),

known as (
    select
        component, stage, place, link_id, through_id, cluster, shown, ordinal,
        stage < 3 or coalesce(has_person, false) as is_customer, coalesce(is_forbidden, false) as is_forbidden
    from staged
    left join (select component, cluster, bool_or(is_person) as has_person from {held} group by all) as holders
        using (component, cluster)
    left join (select distinct component, one as cluster, true as is_forbidden from {forbidden}) as forbidden
        using (component, cluster)
    where stage = first_stage
)

select
    *, row_number() over (partition by component, place order by not is_customer, ordinal) as position,
    sum(case when is_customer then 1 else 0 end) over (partition by component, place) as customers
from known
"""
# The values that each cluster holds, and that the clusters of a proposal hold together, where limits count.
HOLDINGS = """
select component, cluster, cast(null as bigint) as place, kind, value, first_seen, is_recycled
from {held} where kind in ({limited})
union all
select component, cast(null as bigint), place, kind, value, min(first_seen), bool_or(is_recycled)
from {turn} join {held} using (component, cluster)
where stage > 0 and customers > 1 and kind in ({limited})
group by component, place, kind, value
"""
# How many values count against each limit: all, or the most that were first seen within its days. `may_lessen`: an earlier era
# of one of them may take it out of the days.
EVER = """
select component, cluster, place, number, kind, most, 0 as days, count(*) as found, false as may_lessen
from {holdings} join (values {limits}) as limits(number, kind, most) using (kind)
group by component, cluster, place, number, kind, most
"""
WITHIN = """
select
    component, cluster, place, number, kind, most, {days} as days, max(found) as found, bool_or(is_recycled) as may_lessen
from (
    select component, cluster, place, number, kind, most, is_recycled, count(*) over (
        partition by component, cluster, place, number order by first_seen range between {before} preceding and current row
    ) as found
    from {holdings} join (values {limits}) as limits(number, kind, most) using (kind)
) as counted
group by component, cluster, place, number, kind, most
"""
# What each proposal breaks, and whether that dooms it. A limit does where the union has more than the limit allows any cluster
# of the component: what somebody decided may be over it already. Carriers may yet join a customer whatever the limits.
BROKEN = """
with conflicts as (
    select component, place, {kind_name} as kind_name
    from {turn} join {held} using (component, cluster)
    where stage > 1 and is_person
    group by all
    having count(distinct cluster) > 1 and count(distinct value) > 1
),

decisions as (
    select
        component, place, bool_or(one.is_customer and other.is_customer) as is_doomed,
        min(greatest(one.position, other.position)) as refused
    from {turn} as one join {turn} as other using (component, place)
    join {forbidden} as forbidden using (component)
    where forbidden.one = one.cluster and forbidden.other = other.cluster
    group by all
),

most_of_each as (
    select turn.component, turn.place, stage, number, max(found) as found
    from {turn} as turn join {counted} as own on own.component = turn.component and own.cluster = turn.cluster
    group by all
),

most_of_all as (
    select component, number, max(found) as found from {counted} where cluster is not null group by all
),

limits as (
    select
        totals.component, totals.place, number, case when days > 0 then 'window' else 'limit' end as reason,
        totals.found || ' values of ' || {kind_name}
            || case when days > 0 then ' first seen within ' || days || ' days' else '' end
            || ', of at most ' || most as detail,
        stage < 3 and totals.found > most_of_all.found and not may_lessen as is_doomed
    from {counted} as totals
    join most_of_each using (component, place, number)
    join most_of_all using (component, number)
    where totals.found > most and totals.found > most_of_each.found
),

reasons as (
    select
        component, place, -2 as number, 'conflict' as reason, 'each has its own ' || min(kind_name) as detail,
        true as is_doomed, 0 as refused
    from conflicts group by all
    union all
    select component, place, -1, 'decision', 'somebody decided that they are different', is_doomed, refused from decisions
    union all
    select component, place, number, reason, detail, is_doomed, 0 from limits
)

select
    component, place, min_by(reason, number) as reason, min_by(detail, number) as detail, bool_or(is_doomed) as is_doomed,
    max(refused) as refused
from reasons group by all
"""
# What becomes of each cluster of the proposals that are decided now. `refused`: of a group with one customer at most, the first
# that somebody's decision keeps from those before it; it leaves the group, whose others are looked at again. What is open, so
# neither doomed nor certain, also waits for the certain before it, as what they bring counts.
OUTCOMES = """
with roles as (
    select
        turn.*, reason, detail, refused,
        case
            when coalesce(is_doomed, false) then 'doomed'
            when customers > 1 or bool_or(is_forbidden and not is_customer) over (partition by component, place) then 'open'
            else 'certain'
        end as role
    from {turn} as turn left join {broken} using (component, place)
),

queued as (
    select
        *, coalesce(bool_or(role = 'open') over earlier, false) as is_after_open,
        coalesce(bool_or(role = 'certain') over earlier, false) as is_after_certain
    from roles
    window earlier as (partition by component, cluster order by place rows between unbounded preceding and 1 preceding)
),

waiting as (
    select *, bool_or(is_after_open or (is_after_certain and role = 'open')) over (partition by component, place) as waits
    from queued
),

-- Before what is doomed and waits at one cluster, nothing may unite the other one: its refusal tells of both as they are.
overtaking as (
    select *, role = 'open' and coalesce(bool_or(waits) over earlier, false) as overtakes
    from waiting
    window earlier as (partition by component, cluster order by place rows between unbounded preceding and 1 preceding)
),

decided as (select *, not bool_or(waits or overtakes) over (partition by component, place) as is_decided from overtaking)

select
    component, place, cluster, link_id, through_id, shown, position, reason, detail,
    first_value(cluster) over members as first_cluster, first_value(shown) over members as first_shown,
    case
        when reason is null then 'joins'
        when customers > 1 and is_customer then 'refused'
        when customers > 1 then 'shared'
        when position = refused then 'refused'
        else 'stays'
    end as outcome
from decided
where is_decided
window members as (partition by component, place order by position)
"""
MOVED = """
select component, cluster, case when outcome = 'joins' then first_cluster else {shared} end as target
from {outcomes} where outcome = 'shared' or (outcome = 'joins' and position > 1)
"""
REFUSED = """
select first_shown as left_id, shown as right_id, reason, detail, link_id, through_id
from {outcomes} where outcome = 'refused' and position > 1
"""
STILL_TOUCHING = """
with kept as (
    select
        touching.component, stage, touching.place, touching.link_id, touching.through_id, touching.shown, ordinal,
        coalesce(target, touching.cluster) as cluster
    from {touching} as touching
    left join {outcomes} as outcomes using (component, place, cluster)
    left join {moved} as moved using (component, cluster)
    where coalesce(outcome, 'stays') in ('joins', 'stays')
),

met as (
    select component, stage, place, link_id, through_id, cluster, min_by(shown, ordinal) as shown, min(ordinal) as ordinal
    from kept group by all
),

counted as (select *, count(*) over (partition by component, place) as clusters from met)

select component, stage, place, link_id, through_id, cluster, shown, ordinal from counted where clusters > 1
"""
STILL_HELD = """
select
    held.component, coalesce(target, held.cluster) as cluster, kind, is_person, value, min(first_seen) as first_seen,
    bool_or(is_recycled) as is_recycled
from {held} as held left join {moved} as moved using (component, cluster)
where held.component in (select component from {touching})
group by all
"""
STILL_FORBIDDEN = """
select distinct forbidden.component, coalesce(left_moved.target, one) as one, coalesce(right_moved.target, other) as other
from {forbidden} as forbidden
left join {moved} as left_moved on left_moved.component = forbidden.component and left_moved.cluster = one
left join {moved} as right_moved on right_moved.component = forbidden.component and right_moved.cluster = other
where forbidden.component in (select component from {touching})
"""
MOVES = "select cluster as one, target as other from ({moves}) as moves"
CLUSTERS = """
select labels.id, coalesce(merged.label, labels.label) as cluster
from {component} as labels left join {merged} as merged on merged.id = labels.id
"""
MOST_UNDECIDED = """
select count(distinct place) as proposals, min(cluster) as id from {touching} group by component order by 1 desc, 2 limit 1
"""
