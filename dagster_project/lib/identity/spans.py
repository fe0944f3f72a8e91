"""Who had what when: eras of a value that is handed on, and spans of a carrier that several customers share.

Both work on the temporary tables of a run of `resolve`: `affected`, `places`, `clusters` and `shared`.
"""

import duckdb

from dagster_project.lib.home import quoted
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.solve import SHARED

EVIDENCE = "select * from identity.evidence where is_current"
SIGHTINGS = "select * from identity.sightings where is_current and is_usable"
# Instead of one of the two where there is nothing to look for: they are as large as history.
_NOTHING = "select null as identifier_type, null as identifier_value, null::timestamp as seen_at where false"
AT_THAT_TIME = """(({place}.begins is null and {time} is null)
    or (({place}.begins is null or {time} >= {place}.begins) and ({place}.ends is null or {time} < {place}.ends)))"""


def cut_eras(connection: duckdb.DuckDBPyConnection, rules: Rules) -> None:
    """Make the temporary table `places`: a place (number, node_id, span) for each usable identifier, several where a value
    may have been handed on: after a silence, or when somebody said so (`is_stated`)."""
    days = by_type(rules, "recycled_after_days", "identifier_type")
    connection.execute(
        f"""
        create or replace temp table candidates as
        select affected.node_id, identifier_type, identifier_value, {days} as days, handed.effective_at
        from affected
        left join (select * from identity._decisions where kind = 'handed_over') as handed
            on handed.left_node_id = affected.node_id
        where is_usable and is_person
            and (handed.effective_at is not null or last_seen_at - first_seen_at >= to_days({days}))
        """
    )
    has_candidates = connection.execute("select count(*) from candidates").fetchone()[0]
    connection.execute(
        f"""
        create or replace temp table eras as
        with seen as (
            select distinct node_id, days, sightings.seen_at
            from ({SIGHTINGS if has_candidates else _NOTHING}) as sightings
            join candidates using (identifier_type, identifier_value)
            where sightings.seen_at is not null and sightings.identifier_type in (select identifier_type from candidates)
        ),
        cuts as (
            select node_id, seen_at as begins, false as is_stated
            from (select *, lag(seen_at) over (partition by node_id order by seen_at) as before from seen)
            where seen_at - before >= to_days(days)
            union all
            select node_id, effective_at, true from candidates where effective_at is not null
        ),
        -- A silence that ends where somebody says so is one cut.
        begun as (select node_id, begins, bool_or(is_stated) as is_stated from cuts group by node_id, begins)
        select node_id, begins, lead(begins) over (partition by node_id order by begins nulls first) as ends, is_stated
        from (from begun union all select distinct node_id, null, false from begun)
        """
    )
    connection.execute(
        """
        create or replace temp table places as
        with wide as (
            select
                affected.* exclude (position), position as node, eras.begins, eras.ends,
                coalesce(eras.is_stated, false) as is_stated
            from affected left join eras using (node_id)
            where is_usable
        )
        select
            row_number() over (order by begins is not null, coalesce(begins, first_seen_at) nulls last, node_id) - 1 as place,
            wide.*, concat(node_id, coalesce(concat(' since ', begins), '')) as name, begins is null as is_first
        from wide
        """
    )


def by_type(rules: Rules, key: str, column: str) -> str:
    """SQL: what the rules say under a key of the type in a column; null where they say nothing."""
    said = {name: getattr(identifier, key) for name, identifier in rules.types.items() if getattr(identifier, key)}
    cases = "".join(f" when '{quoted(name)}' then {value}" for name, value in said.items())
    return f"case {column}{cases} end" if said else "cast(null as integer)"


def cut_spans(connection: duckdb.DuckDBPyConnection, rules: Rules) -> None:
    """Make the temporary table `spans` (node_id, place, cluster, valid_from, valid_to); one without bounds for most.

    A shared carrier belongs to who logged in on it, from the beginning of that visit until the next one's; the time before the
    first log-in to the first. One on which nobody did takes the log-ins of the carriers that it is linked to.
    """
    evidence, sightings = EVIDENCE, SIGHTINGS
    if not connection.execute("select count(*) from shared").fetchone()[0]:
        sightings = _NOTHING
        evidence = (
            "select null as left_type, null as left_value, null as right_type, null as right_value, null::timestamp as seen_at "
            "where false"
        )
    idle = by_type(rules, "idle_minutes", "identifier_type")
    connection.execute(
        f"""
        create or replace temp table spans as
        with logins as (
            select carrier.place, shared.company, e.seen_at, person.priority, person.name, clusters.cluster
            from shared
            join places as carrier using (place)
            join (
                select left_type as person_type, left_value as person_value, right_type as carrier_type,
                    right_value as carrier_value, seen_at
                from ({evidence})
                union all
                select right_type, right_value, left_type, left_value, seen_at from ({evidence})
            ) as e on e.carrier_type = carrier.identifier_type and e.carrier_value = carrier.identifier_value
            join places as person on person.identifier_type = e.person_type and person.identifier_value = e.person_value
                and person.is_person and {AT_THAT_TIME.format(place="person", time="e.seen_at")}
            join clusters on clusters.place = person.place
        ),
        -- Whom somebody decided a carrier not to belong to.
        forbidden as (
            select carrier.place, clusters.cluster
            from (
                select left_node_id as one, right_node_id as other from identity._decisions where kind = 'different'
                union all
                select right_node_id, left_node_id from identity._decisions where kind = 'different'
            ) as decisions
            join places as carrier on carrier.node_id = decisions.one and not carrier.is_person
            join places as person on person.node_id = decisions.other
            join clusters on clusters.place = person.place
        ),
        used as (
            select place, seen_at, priority, name, cluster from logins anti join forbidden using (place, cluster)
            union all
            select shared.place, logins.seen_at, logins.priority, logins.name, logins.cluster
            from shared join logins using (company)
            left join forbidden on forbidden.place = shared.place and forbidden.cluster = logins.cluster
            where shared.place not in (select place from logins) and forbidden.place is null
        ),
        one_at_a_time as (
            select place, seen_at, cluster
            from used
            qualify row_number() over (partition by place, seen_at order by priority, name) = 1
        ),
        -- When the carrier was in use, and the beginning of the visit: what follows without a longer pause.
        in_use as (
            select shared.place, identifier_type, sightings.seen_at
            from shared
            join places using (place)
            join ({sightings}) as sightings using (identifier_type, identifier_value)
            where sightings.identifier_type in (select identifier_type from places join shared using (place))
            union
            select place, identifier_type, seen_at from one_at_a_time join places using (place)
        ),
        visits as (
            select place, seen_at, max(begins) over (partition by place order by seen_at) as begun
            from (
                select
                    place, seen_at,
                    case
                        when seen_at - lag(seen_at) over (partition by place order by seen_at) <= to_minutes({idle}) then null
                        else seen_at
                    end as begins
                from in_use where seen_at is not null
            )
        ),
        changed as (
            select place, cluster, seen_at, lag(seen_at) over (partition by place order by seen_at nulls first) as last_login
            from one_at_a_time
            qualify cluster is distinct from lag(cluster) over (partition by place order by seen_at nulls first)
        ),
        bounds as (
            select place, cluster, if(begun <= last_login, seen_at, coalesce(begun, seen_at)) as valid_from
            from changed left join visits using (place, seen_at)
            union all
            select place, cluster, places.begins
            from clusters join places using (place)
            where cluster <> {SHARED} and (begins is not null or ends is not null)
            union all  -- linked to several customers by no record: all of these together to nobody
            select place, -2 - company, null from shared where place not in (select place from used)
        ),
        ordered as (
            select
                places.node_id, bounds.*,
                row_number() over (partition by places.node_id order by valid_from nulls first) as number,
                lag(cluster) over (partition by places.node_id order by valid_from nulls first) as before
            from bounds join places using (place)
        )
        select node_id, place, cluster, cast(null as timestamp) as valid_from, cast(null as timestamp) as valid_to
        from clusters join places using (place)
        where cluster <> {SHARED} and begins is null and ends is null
        union all
        select
            node_id, place, cluster,
            case when number > 1 then valid_from end as valid_from,
            lead(valid_from) over (partition by node_id order by number) as valid_to
        from ordered
        where before is null or before <> cluster
        """
    )
