"""Who had what when: eras of a value that is handed on, and spans of a carrier that several customers share.

Both work on the intermediate results of a run of `resolve`: `affected`, `places`, `clusters` and `shared`.
"""

from dagster_project.lib.home import quoted
from dagster_project.lib.identity.engine import Engine
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.solve import DAY, SHARED

EVIDENCE = "select * from identity.evidence where is_current"
SIGHTINGS = "select * from identity.sightings where is_current and is_usable"
AT_THAT_TIME = """(({place}.begins is null and {time} is null)
    or (({place}.begins is null or {time} >= {place}.begins) and ({place}.ends is null or {time} < {place}.ends)))"""
_MINUTE = 60_000_000  # microseconds


def cut_eras(engine: Engine, rules: Rules) -> bool:
    """Make `places`: a place (number, node_id, span) for each usable identifier, several where a value may have been handed on:
    after a silence, or when somebody said so (`is_stated`). Returns whether there are any such."""
    days = by_type(rules, "recycled_after_days", "identifier_type")
    engine.view(
        "candidates",
        f"""
        select affected.node_id, identifier_type, identifier_value, {days} as days, handed.effective_at
        from affected
        left join (select * from given where kind = 'handed_over') as handed on handed.left_node_id = affected.node_id
        where is_usable and is_person and (
            handed.effective_at is not null
            or {engine.micros("last_seen_at")} - {engine.micros("first_seen_at")} >= {days} * {DAY}
        )
        """,
    )
    has_eras = engine.count("select count(*) from candidates") > 0
    if has_eras:
        engine.make("eras", _eras(engine))
        has_eras = engine.count("select count(*) from eras") > 0
    eras = (
        "eras"
        if has_eras
        else (
            "(select cast(null as string) as node_id, cast(null as timestamp) as begins, cast(null as timestamp) as ends, "
            "false as is_stated where false)"
        )
    )
    engine.make(
        "places",
        f"""
        with wide as (
            select
                affected.node_id, identifier_type, identifier_value, is_person, priority, first_seen_at, position as node,
                eras.begins, eras.ends, coalesce(eras.is_stated, false) as is_stated
            from affected left join {eras} as eras on eras.node_id = affected.node_id
            where is_usable
        )

        select
            {engine.number("begins is not null, coalesce(begins, first_seen_at) nulls last, node_id")} as place,
            wide.*, node_id || ' since ' || coalesce(cast(begins as string), '') as name,
            begins is null as is_first
        from wide
        """,
    )
    return has_eras


def _eras(engine: Engine) -> str:
    return f"""
        with seen as (
            select distinct node_id, days, sightings.seen_at
            from ({SIGHTINGS}) as sightings
            join candidates
                on candidates.identifier_type = sightings.identifier_type
                and candidates.identifier_value = sightings.identifier_value
            where sightings.seen_at is not null and sightings.identifier_type in (select identifier_type from candidates)
        ),

        cuts as (
            select node_id, seen_at as begins, false as is_stated
            from (select *, lag(seen_at) over (partition by node_id order by seen_at) as before from seen) as seen
            where {engine.micros("seen_at")} - {engine.micros("before")} >= days * {DAY}
            union all
            select node_id, effective_at, true from candidates where effective_at is not null
        ),

        -- A silence that ends where somebody says so is one cut.
        begun as (select node_id, begins, bool_or(is_stated) as is_stated from cuts group by node_id, begins),

        all_begun as (
            select node_id, begins, is_stated from begun
            union all
            select distinct node_id, cast(null as timestamp), false from begun
        )

        select node_id, begins, lead(begins) over (partition by node_id order by begins nulls first) as ends, is_stated
        from all_begun
    """


def by_type(rules: Rules, key: str, column: str) -> str:
    """SQL: what the rules say under a key of the type in a column; null where they say nothing."""
    said = {name: getattr(identifier, key) for name, identifier in rules.types.items() if getattr(identifier, key)}
    cases = "".join(f" when '{quoted(name)}' then cast({value} as bigint)" for name, value in said.items())
    return f"case {column}{cases} end" if said else "cast(null as bigint)"


def cut_spans(engine: Engine, rules: Rules, has_eras: bool, has_shared: bool) -> None:
    """Make `spans` (node_id, place, cluster, valid_from, valid_to); one without bounds for most.

    A shared carrier belongs to who logged in on it, from the beginning of that visit until the next one's; the time before the
    first log-in to the first. One on which nobody did takes the log-ins of the carriers that it is linked to.
    """
    unbounded = f"""
        select
            places.node_id, places.place, clusters.cluster,
            cast(null as timestamp) as valid_from, cast(null as timestamp) as valid_to
        from clusters join places on places.place = clusters.place
        where clusters.cluster <> {SHARED} and places.begins is null and places.ends is null
    """
    if not (has_eras or has_shared):
        engine.make("spans", unbounded)
        return
    of_hands = ""
    if has_shared:
        _log_ins(engine)
        of_hands = f"select place, cluster, valid_from from ({_changes_of_hand(engine, rules)}) as hands union all"
    engine.make(
        "spans",
        f"""
        with bounds as (
            {of_hands}
            select clusters.place, clusters.cluster, places.begins as valid_from
            from clusters join places on places.place = clusters.place
            where clusters.cluster <> {SHARED} and (places.begins is not null or places.ends is not null)
        ),

        ordered as (
            select
                places.node_id, bounds.place, bounds.cluster, bounds.valid_from,
                row_number() over (partition by places.node_id order by bounds.valid_from nulls first) as number,
                lag(bounds.cluster) over (partition by places.node_id order by bounds.valid_from nulls first) as before
            from bounds join places on places.place = bounds.place
        )

        {unbounded}
        union all
        select
            node_id, place, cluster,
            case when number > 1 then valid_from end as valid_from,
            lead(valid_from) over (partition by node_id order by number) as valid_to
        from ordered
        where before is null or before <> cluster
        """,
    )


def _log_ins(engine: Engine) -> None:
    """Make `holders` (place, seen_at, cluster): who logged in on each shared carrier, one at a time."""
    engine.make(
        "logins",
        f"""
        select carrier.place, shared.company, e.seen_at, person.priority, person.name, clusters.cluster
        from shared
        join places as carrier on carrier.place = shared.place
        join (
            select left_type as person_type, left_value as person_value, right_type as carrier_type,
                right_value as carrier_value, seen_at
            from ({EVIDENCE}) as forth
            union all
            select right_type, right_value, left_type, left_value, seen_at from ({EVIDENCE}) as back
        ) as e on e.carrier_type = carrier.identifier_type and e.carrier_value = carrier.identifier_value
        join places as person on person.identifier_type = e.person_type and person.identifier_value = e.person_value
            and person.is_person and {AT_THAT_TIME.format(place="person", time="e.seen_at")}
        join clusters on clusters.place = person.place
        """,
    )
    engine.make(
        "holders",
        """
        -- Whom somebody decided a carrier not to belong to.
        with forbidden as (
            select distinct carrier.place, clusters.cluster
            from (
                select left_node_id as one, right_node_id as other from given where kind = 'different'
                union all
                select right_node_id, left_node_id from given where kind = 'different'
            ) as decisions
            join places as carrier on carrier.node_id = decisions.one and not carrier.is_person
            join places as person on person.node_id = decisions.other
            join clusters on clusters.place = person.place
        ),

        possible as (
            select place, seen_at, priority, name, cluster from logins
            union all
            select orphans.place, logins.seen_at, logins.priority, logins.name, logins.cluster
            from (
                select shared.place, shared.company
                from shared left join (select distinct place from logins) as known on known.place = shared.place
                where known.place is null
            ) as orphans
            join logins on logins.company = orphans.company
        ),

        used as (
            select possible.*
            from possible
            left join forbidden on forbidden.place = possible.place and forbidden.cluster = possible.cluster
            where forbidden.place is null
        ),

        ranked as (select *, row_number() over (partition by place, seen_at order by priority, name) as number from used)

        select place, seen_at, cluster from ranked where number = 1
        """,
    )


def _changes_of_hand(engine: Engine, rules: Rules) -> str:
    """Since when each holder of a shared carrier has it."""
    idle = by_type(rules, "idle_minutes", "identifier_type")
    seen_at, before = engine.micros("seen_at"), engine.micros("before")
    return f"""
        -- When the carrier was in use, and the beginning of the visit: what follows without a longer pause.
        with in_use as (
            select shared.place, places.identifier_type, sightings.seen_at
            from shared
            join places on places.place = shared.place
            join ({SIGHTINGS}) as sightings
                on sightings.identifier_type = places.identifier_type and sightings.identifier_value = places.identifier_value
            where sightings.identifier_type in (
                select places.identifier_type from places join shared on shared.place = places.place
            )
            union
            select holders.place, places.identifier_type, holders.seen_at
            from holders join places on places.place = holders.place
        ),

        paused as (
            select *, lag(seen_at) over (partition by place order by seen_at) as before from in_use where seen_at is not null
        ),

        visits as (
            select
                place, seen_at,
                max(case when {seen_at} - {before} <= {idle} * {_MINUTE} then null else seen_at end)
                    over (partition by place order by seen_at) as begun
            from paused
        ),

        followed as (
            select
                place, cluster, seen_at,
                lag(seen_at) over (partition by place order by seen_at nulls first) as last_login,
                lag(cluster) over (partition by place order by seen_at nulls first) as last_cluster
            from holders
        )

        select
            followed.place, followed.cluster,
            case
                when visits.begun <= followed.last_login then followed.seen_at
                else coalesce(visits.begun, followed.seen_at)
            end as valid_from
        from followed left join visits on visits.place = followed.place and visits.seen_at = followed.seen_at
        where followed.cluster is distinct from followed.last_cluster
        union all  -- linked to several customers by no record: all of these together to nobody
        select shared.place, -2 - shared.company, cast(null as timestamp)
        from shared left join (select distinct place from holders) as held on held.place = shared.place
        where held.place is null
    """
