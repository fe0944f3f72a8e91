"""The state of identity: assignments, ids that survive, and the ledger of what moved and what was refused.

All but `TABLES` work on the intermediate results of a run of `resolve`: `affected`, `places`, `clusters`, `spans` and `found`.
"""

from collections.abc import Iterator
from datetime import datetime

from dagster_project.lib.identity.engine import Engine, moment
from dagster_project.lib.identity.rules import Rules

TABLES = """
create table if not exists identity.assignments (
    identifier_type varchar not null,
    identifier_value varchar not null,
    valid_from timestamp,              -- null: since ever
    valid_to timestamp,                -- null: open
    customer_id varchar not null,
    node_id varchar not null,
    identifier_token varchar not null, -- the identifier where it must not be read
    is_person boolean not null,
    _seq bigint not null
);
create table if not exists identity._changes (
    changed_at timestamp not null,
    identifier_type varchar not null,
    identifier_value varchar not null,
    valid_from timestamp,
    valid_to timestamp,
    kind varchar not null check (kind in ('created', 'merged', 'split', 'retired')),
    from_customer_id varchar,
    to_customer_id varchar,
    cause varchar not null,
    _seq bigint not null
);
create table if not exists identity._redirects (
    from_customer_id varchar not null,
    to_customer_id varchar not null,
    redirected_at timestamp not null,
    _seq bigint not null
);
-- Unions that a rule forbade: the two identifiers, the carrier or recycled value that would have united them, and why.
create table if not exists identity._refusals (
    left_type varchar not null,
    left_value varchar not null,
    right_type varchar not null,
    right_value varchar not null,
    through_type varchar,
    through_value varchar,
    rule varchar not null,
    reason varchar not null check (reason in ('limit', 'window', 'conflict', 'decision')),
    detail varchar not null,
    left_customer_id varchar not null,
    right_customer_id varchar not null,
    refused_at timestamp not null,
    rules_version varchar not null,
    left_node_id varchar not null,
    right_node_id varchar not null,
    _seq bigint not null
);
-- What each customer looks like as a graph; identifiers that several share in time are left out.
create table if not exists identity._shapes (
    customer_id varchar not null,
    identifiers bigint not null,
    links bigint not null,
    bridges bigint not null,           -- links without which it falls apart
    largest_side bigint not null,      -- identifiers on the smaller side of the most even such cut
    _seq bigint not null
);
-- What people decided, mirrored from the state store: the last word on each pair.
create table if not exists identity._decisions (
    kind varchar not null check (kind in ('same', 'different', 'handed_over')),
    left_node_id varchar not null,
    right_node_id varchar,             -- null: handed_over
    effective_at timestamp,            -- handed_over: since when the value is somebody else's
    decided_by varchar not null,
    reason varchar not null,
    decided_at timestamp not null
);
-- Every id ever given, so that none is given twice; `oldest_seen_at` is that of its first cluster.
create table if not exists identity._customer_ids (customer_id varchar not null, seq bigint not null, oldest_seen_at timestamp);
create table if not exists identity._solved (seq bigint not null, rules_version varchar);
alter table identity._solved add column if not exists rules_version varchar;
create table if not exists identity._runs (
    run bigint not null,
    solved_at timestamp not null,
    rules_version varchar not null,
    identifiers_examined bigint not null,
    identifiers_moved bigint not null,
    refusals bigint not null
);
"""


def claim_ids(engine: Engine, seq: int, is_first: bool) -> int:
    """Make `claims` (customer_id, cluster, age_rank) and `ids` (cluster, customer_id), and keep the ids that are new.

    Returns:
        How many ids are lost to others.
    """
    lost = 0
    if is_first:
        engine.view("claims", _NO_CLAIMS)
    else:
        engine.make("claims", _CLAIMS.format(age=engine.age))
        lost = engine.count("select count(*) from claims where age_rank > 1")
    engine.make("nameless", _NAMELESS.format(age=engine.age))
    named = list(_name(engine))
    engine.make(
        "ids",
        "select cluster, customer_id from claims where age_rank = 1"
        + "".join(f" union all select cluster, customer_id from {table}" for table in named),
    )
    fresh = " union all ".join(f"select customer_id, {seq} as seq, oldest_seen_at from {table}" for table in named)
    engine.append("_customer_ids", fresh)
    return lost


_NO_CLAIMS = """
select cast(null as string) as customer_id, cast(null as bigint) as cluster, cast(null as bigint) as age_rank where false
"""
_CLAIMS = """
with votes as (
    select kept.customer_id, spans.cluster, count(*) as votes, min({age}) as oldest
    from identity.assignments as kept
    join spans on spans.node_id = kept.node_id and (spans.valid_from is null) = (kept.valid_from is null)
    join places on places.place = spans.place
    where spans.valid_from is null  -- what is shared in time votes for its first span, an era for its own
        or (not places.is_first and coalesce(spans.valid_from < kept.valid_to, true)
            and coalesce(kept.valid_from < spans.valid_to, true))
    group by kept.customer_id, spans.cluster
),

ranked as (
    select customer_id, cluster, row_number() over (partition by customer_id order by votes desc, oldest) as choice from votes
)

select
    ranked.customer_id, ranked.cluster,
    row_number() over (
        partition by ranked.cluster order by given.seq, given.oldest_seen_at nulls last, ranked.customer_id
    ) as age_rank
from ranked join identity._customer_ids as given on given.customer_id = ranked.customer_id
where ranked.choice = 1
"""
# Only one customer has the first span of an identifier, or an era of it: no two get the same name.
_NAMELESS = """
select
    spans.cluster,
    min_by(places.name, (spans.valid_from is not null and places.is_first, {age})) as oldest,
    min(coalesce(places.begins, places.first_seen_at)) as oldest_seen_at
from spans join places on places.place = spans.place
where not exists (select 1 from claims where claims.cluster = spans.cluster)
group by spans.cluster
"""


def _name(engine: Engine) -> Iterator[str]:
    """Make tables (cluster, customer_id, oldest_seen_at) of new ids for the clusters of `nameless`; yields their names.

    An id that once was given, and split off or redirected since, is not given again: the hash is taken once more. Nearly all
    come through at the first attempt; for the others more are tried at once each time.
    """
    source, first, following = "nameless", 0, 1
    while True:
        named = f"named_{first}"
        attempts = ", ".join(f"({attempt})" for attempt in range(first, following))
        hashed = f"""
            select cluster, oldest_seen_at, attempt, 'c_' || substr(keyed(name), 1, 20) as customer_id
            from (
                select cluster, oldest_seen_at, attempt, 'customer ' || attempt || ' ' || oldest as name
                from {source} as nameless cross join (values {attempts}) as attempts(attempt)
            ) as tried
        """
        free = f"""
            select hashed.* from ({hashed}) as hashed
            where not exists (select 1 from identity._customer_ids as given where given.customer_id = hashed.customer_id)
        """
        if following - first == 1:
            engine.make(named, f"select cluster, customer_id, oldest_seen_at from ({free}) as free")
        else:
            engine.make(
                named,
                "select cluster, min_by(customer_id, attempt) as customer_id, min(oldest_seen_at) as oldest_seen_at "
                f"from ({free}) as free group by cluster",
            )
        yield named
        left = engine.count(f"select (select count(*) from {source}) - (select count(*) from {named})")
        if not left:
            return
        engine.make(
            f"left_{following}",
            f"select * from {source} as tried "
            f"where not exists (select 1 from {named} as named where named.cluster = tried.cluster)",
        )
        source, first, following = f"left_{following}", following, 16 * following


def write_moves(engine: Engine, seq: int, as_of: datetime, lost: int, has_decided: bool, other_rules: bool) -> int:
    """Move the spans of identifiers whose customer changed; returns how many."""
    engine.make("moved", _MOVED)
    moved = engine.count("select count(*) from moved")
    engine.exchange(
        "_shapes",
        f"""
        select ids.customer_id, shaped.identifiers, shaped.links, shaped.bridges, shaped.largest_side, {seq} as _seq
        from shaped join ids on ids.cluster = shaped.cluster
        """,
        gone={
            "customer_id": """
            select customer_id from identity.assignments where node_id in (select node_id from affected)
            union
            select customer_id from ids
            """
        },
    )
    if moved:
        _write_ledger(engine, seq, as_of, has_decided, other_rules)
        engine.exchange(
            "assignments",
            f"""
            select
                a.identifier_type, a.identifier_value, spans.valid_from, spans.valid_to, ids.customer_id, a.node_id,
                coalesce(a.identifier_token, keyed(a.node_id)) as identifier_token, a.is_person, {seq} as _seq
            from spans
            join ids on ids.cluster = spans.cluster
            join affected as a on a.node_id = spans.node_id
            where a.node_id in (select node_id from moved)
            """,
            gone={"node_id": "select node_id from moved"},
        )
    if lost:
        _redirect(engine, seq, as_of)
    return moved


_MOVED = """
with before as (select * from identity.assignments where node_id in (select node_id from affected)),

now as (
    select spans.node_id, spans.valid_from, spans.valid_to, ids.customer_id from spans join ids on ids.cluster = spans.cluster
),

compared as (
    select
        coalesce(before.node_id, now.node_id) as node_id,
        case when before.node_id is null then now.valid_from else before.valid_from end as valid_from,
        case when before.node_id is null then now.valid_to else before.valid_to end as valid_to,
        before.customer_id as old_customer_id, now.customer_id as new_customer_id
    from before full join now on now.node_id = before.node_id
        and now.valid_from is not distinct from before.valid_from
        and now.valid_to is not distinct from before.valid_to
)

select
    a.position, a.node_id, a.identifier_type, a.identifier_value, a.is_person, compared.valid_from, compared.valid_to,
    compared.old_customer_id, compared.new_customer_id
from compared join affected as a on a.node_id = compared.node_id
where compared.old_customer_id is distinct from compared.new_customer_id
"""


def _write_ledger(engine: Engine, seq: int, as_of: datetime, has_decided: bool, other_rules: bool) -> None:
    by_decision = "false"
    if has_decided:  # customers about whom somebody decided something else
        engine.make(
            "deciding",
            """
            select customer_id from identity.assignments where node_id in (select node_id from decided)
            union
            select ids.customer_id from spans join ids on ids.cluster = spans.cluster
            where spans.node_id in (select node_id from decided)
            """,
        )
        by_decision = "old_decided.customer_id is not null or new_decided.customer_id is not null"
    of_decisions = """
        left join deciding as old_decided on old_decided.customer_id = moved.old_customer_id
        left join deciding as new_decided on new_decided.customer_id = moved.new_customer_id
    """
    engine.append(
        "_changes",
        f"""
        with known as (
            select distinct node_id from identity.assignments where node_id in (select node_id from moved)
        ),

        living as (select distinct node_id from spans where node_id in (select node_id from moved))

        select
            {moment(as_of)} as changed_at, moved.identifier_type, moved.identifier_value, moved.valid_from, moved.valid_to,
            case
                when known.node_id is null then 'created'
                when living.node_id is null then 'retired'
                when moved.old_customer_id is null or moved.new_customer_id is null then 'split'
                when heirs.customer_id is not null then 'split'
                else 'merged'
            end as kind,
            moved.old_customer_id as from_customer_id, moved.new_customer_id as to_customer_id,
            case
                when living.node_id is null then 'identifier no longer usable'
                when {str(other_rules).lower()} then 'rules'
                when {by_decision} then 'decision'
                when moved.valid_from is not null or moved.valid_to is not null then 'shared in time'
                else 'links'
            end as cause,
            {seq} as _seq
        from moved
        left join known on known.node_id = moved.node_id
        left join living on living.node_id = moved.node_id
        left join ids as heirs on heirs.customer_id = moved.old_customer_id
        {of_decisions if has_decided else ""}
        """,
        order="moved.position, moved.new_customer_id is not null, moved.valid_from nulls first",
    )


def _redirect(engine: Engine, seq: int, as_of: datetime) -> None:
    """Lead the ids that are lost, and those that led to them, to the ids that are kept."""
    engine.make(
        "lost",
        """
        select claims.customer_id, ids.customer_id as kept_id
        from claims join ids on ids.cluster = claims.cluster where claims.age_rank > 1
        """,
    )
    engine.make(
        "redirected",
        f"""
        select known.from_customer_id, lost.kept_id as to_customer_id, known.redirected_at, {seq} as _seq
        from identity._redirects as known join lost on lost.customer_id = known.to_customer_id
        union all
        select customer_id, kept_id, {moment(as_of)}, {seq} from lost
        """,
    )
    engine.exchange("_redirects", "select * from redirected", gone={"to_customer_id": "select customer_id from lost"})


def write_refusals(engine: Engine, found: int, seq: int, as_of: datetime, rules: Rules, is_first: bool) -> None:
    """Replace the refusals of the affected components; one that stands keeps the moment it was first refused at."""
    engine.view("stood", _STOOD)
    if not found and (is_first or not engine.count("select count(*) from stood")):
        return
    if found:
        engine.make("mentioned", _MENTIONED)
    same = " and ".join(
        f"refused.{column} is not distinct from stood.{column}"
        for column in ("left_node_id", "right_node_id", "through_type", "through_value", "rule", "reason")
    )
    refused = f"""
        select
            refused.*, coalesce(min(stood.refused_at), {moment(as_of)}) as refused_at,
            '{rules.version}' as rules_version, {seq} as _seq
        from ({_REFUSED}) as refused left join stood on {same}
        group by all
    """
    affected = "select node_id from affected"
    engine.make("refused", refused if found else "select * from identity._refusals where false")
    engine.exchange("_refusals", "select * from refused", gone={"left_node_id": affected, "right_node_id": affected})


_STOOD = """
select * from identity._refusals
where left_node_id in (select node_id from affected) or right_node_id in (select node_id from affected)
"""
# Few of many: what follows joins no large tables with each other.
_MENTIONED = """
with named as (
    select left_place as place from found union select right_place from found union select through_place from found
)

select places.place, identifier_type, identifier_value, node_id, is_person, ids.customer_id
from places
join clusters on clusters.place = places.place
left join ids on ids.cluster = clusters.cluster
where places.place in (select place from named)
"""
_REFUSED = """
select
    a.identifier_type as left_type, a.identifier_value as left_value,
    b.identifier_type as right_type, b.identifier_value as right_value,
    through.identifier_type as through_type, through.identifier_value as through_value,
    coalesce(links.rule, case when through.is_person then 'recycled' else 'shared_carrier' end) as rule,
    cast(found.reason as string) as reason, cast(found.detail as string) as detail,
    a.customer_id as left_customer_id, b.customer_id as right_customer_id,
    a.node_id as left_node_id, b.node_id as right_node_id
from found
join mentioned as a on a.place = found.left_place and a.customer_id is not null
join mentioned as b on b.place = found.right_place and b.customer_id is not null
left join mentioned as through on through.place = found.through_place
left join links on links.link = found.link
"""
