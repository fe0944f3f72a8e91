"""Who is who: clusters of identifiers under the rules, and customer ids that stay the same.

Every candidate component (customers whom links join, refused ones too) with a changed identifier, link, rule or decision is
solved again, whole; the rest is not touched. The rules by which ids survive are DESIGN's: each previous id is claimed by the
new cluster that holds most of its identifiers (tie: the one with its oldest identifier); a cluster keeps its oldest claimed
id and the others redirect to it; a cluster without a claim gets a new id, a keyed hash of its oldest identifier. An
identifier that several customers share in time counts for the one of its first span.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime

import duckdb
import numpy as np

from dagster_project.lib.home import quoted, transaction
from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.shape import shapes
from dagster_project.lib.identity.solve import NEVER, SHARED, Graph, Limit, Refusal, solve
from dagster_project.lib.keyed import tokens
from dagster_project.lib.state import Decision

_TABLES = """
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
EVIDENCE = "select * from identity.evidence where is_current"
SIGHTINGS = "select * from identity.sightings where is_current and is_usable"
# Instead of one of the two where there is nothing to look for: they are as large as history.
_NOTHING = "select null as identifier_type, null as identifier_value, null::timestamp as seen_at where false"


@dataclass(frozen=True)
class Resolution:
    """What one run did: identifiers that were solved again, spans of identifiers that moved, refusals that stand."""

    examined: int
    moved: int
    refused: int


def resolve(
    connection: duckdb.DuckDBPyConnection,
    *,
    graph: str,
    seq: int,
    as_of: datetime,
    key: bytes,
    rules: Rules,
    decisions: Sequence[Decision] = (),
) -> Resolution:
    """Bring `identity.assignments`, its refusals and its ledger up to the candidate graph, in one transaction; idempotent.

    Args:
        graph: SELECT of left_node_id, right_node_id, rule, confidence, first_seen_at, is_active, _seq.
        seq: the number of this write.
        as_of: the moment the changes are dated with, UTC.
        key: secret of ids and tokens.
        rules: what may become one.
        decisions: all that people decided and that counts.
    """
    with transaction(connection):
        connection.execute(_TABLES)
        _mirror(connection, decisions)
        return _resolve(connection, graph, seq, as_of, key, rules)


def _mirror(connection, decisions: Sequence[Decision]) -> None:
    """Bring `identity._decisions` up to the state store, and make the temporary table `decided` of the identifiers whose
    decisions changed."""
    connection.execute("create or replace temp table given as from identity._decisions limit 0")
    rows = [[at.replace(tzinfo=None) if isinstance(at, datetime) else at for at in astuple(d)] for d in decisions]
    if rows:
        connection.executemany("insert into given values (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.execute(
        """
        create or replace temp table decided as
        with changed as (
            (from given except from identity._decisions) union all (from identity._decisions except from given)
        )
        select left_node_id as node_id from changed
        union
        select right_node_id from changed where right_node_id is not null;
        delete from identity._decisions;
        insert into identity._decisions from given
        """
    )


def _resolve(connection, graph: str, seq: int, as_of: datetime, key: bytes, rules: Rules) -> Resolution:
    solved, version = connection.execute("select max(seq), max(rules_version) from identity._solved").fetchone()
    _affected_nodes(connection, graph, solved or 0, rules, version == rules.version)
    count = connection.execute("select count(*) from affected").fetchone()[0]
    moved = 0
    if count:
        _cut_eras(connection, rules)
        refusals = _cluster(connection, graph, key, rules)
        _cut_spans(connection, rules)
        _claim_ids(connection, seq, key)
        _tokens_of_new_nodes(connection, key)
        moved = _write(connection, seq, as_of, other_rules=version not in (None, rules.version))
        _write_refusals(connection, refusals, seq, as_of, rules)
    connection.execute("delete from identity._solved")
    connection.execute("insert into identity._solved values (?, ?)", [seq, rules.version])
    refused = connection.execute("select count(*) from identity._refusals").fetchone()[0]
    if count or version != rules.version:
        run = [seq, as_of.replace(tzinfo=None), rules.version, count, moved, refused]
        connection.execute("insert into identity._runs values (?, ?, ?, ?, ?, ?)", run)
    return Resolution(count, moved, refused)


def _affected_nodes(connection, graph: str, solved: int, rules: Rules, rules_are_the_same: bool) -> None:
    """Identifiers whose links, age, silences, usability or decisions changed since the last solution, with all others of
    their components.

    After a rebuild of nodes or edges, or under other rules, that is every identifier: what is gone from them can no longer
    be seen there.
    """
    rebuilt = connection.execute(
        f"""
        select coalesce((select min(_seq) from identity.nodes) > {solved}, true)
            or coalesce((select min(_seq) from ({graph})) > {solved}, false)
        """
    ).fetchone()[0]
    all_nodes = "union select node_id from identity.assignments union select node_id from identity.nodes"
    everything = all_nodes if rebuilt or not rules_are_the_same else ""
    silence = _by_type(rules, "recycled_after_days", "nodes.identifier_type")
    connection.execute(
        f"""
        create or replace temp table touched as
        with turned as (
            select nodes.node_id from identity.nodes as nodes
            left join (select distinct node_id from identity.assignments) as kept using (node_id)
            where nodes._seq > {solved} and nodes.is_usable <> (kept.node_id is not null)
        )
        select left_node_id as node_id from ({graph}) where _seq > {solved}
        union
        select right_node_id from ({graph}) where _seq > {solved}
        union
        select node_id from turned
        union  -- an identifier that becomes usable links what older edges tie to it
        select left_node_id from ({graph}) semi join turned on turned.node_id = right_node_id
        union
        select right_node_id from ({graph}) semi join turned on turned.node_id = left_node_id
        union
        select right_node_id from identity._decisions semi join turned on turned.node_id = left_node_id
        where right_node_id is not null
        union
        select left_node_id from identity._decisions semi join turned on turned.node_id = right_node_id
        union
        from decided
        union  -- seen earlier than was known: limits within days, and the order of carriers, go by that
        select node_id from identity.nodes where _first_seq > {solved}
        union  -- seen again: a silence may have begun, or not have been one
        select node_id from identity.nodes as nodes
        where _seq > {solved} and is_person and last_seen_at - first_seen_at >= to_days({silence})
        union  -- seen on a shared carrier before somebody logged in: the visit may have begun there
        select shared.node_id
        from (
            select node_id, identifier_type, identifier_value, max(valid_from) as last_cut
            from identity.assignments where valid_from is not null and not is_person group by all
        ) as shared
        join identity.sightings as sightings using (identifier_type, identifier_value)
        where sightings._seq > {solved} and (sightings.seen_at < shared.last_cut or sightings._is_revision)
        {everything}
        """
    )
    connection.execute(
        """
        -- What joins customers into one component: a refused union, what would have united them, an identifier in turns.
        create or replace temp table ties as
        with through as (
            select distinct refusals.left_customer_id, refusals.right_customer_id, kept.customer_id
            from identity._refusals as refusals
            join identity.assignments as kept
                on kept.identifier_type = refusals.through_type and kept.identifier_value = refusals.through_value
        ),
        in_turns as (
            select node_id, customer_id from identity.assignments where valid_from is not null or valid_to is not null
        ),
        pairs as (
            select left_customer_id as one, right_customer_id as other from identity._refusals
            union all
            select left_customer_id, customer_id from through
            union all
            select right_customer_id, customer_id from through
            union all
            select a.customer_id, b.customer_id from in_turns as a join in_turns as b using (node_id)
        )
        select one, other from pairs where one <> other
        union
        select other, one from pairs where one <> other;
        create or replace temp table affected as
        with recursive customers as (
            select customer_id from identity.assignments semi join touched using (node_id)
            union
            select ties.other from customers join ties on ties.one = customers.customer_id
        ),
        reached as (
            select node_id from touched
            union
            select node_id from identity.assignments semi join customers using (customer_id)
        )
        select
            row_number() over (order by nodes.first_seen_at nulls last, reached.node_id) - 1 as position,
            reached.node_id,
            coalesce(nodes.identifier_type, kept.identifier_type) as identifier_type,
            coalesce(nodes.identifier_value, kept.identifier_value) as identifier_value,
            coalesce(nodes.is_person, kept.is_person) as is_person,
            coalesce(nodes.is_usable, false) as is_usable,
            nodes.priority, nodes.first_seen_at, nodes.last_seen_at, kept.identifier_token
        from reached
        left join identity.nodes as nodes on nodes.node_id = reached.node_id
        left join identity.assignments as kept on kept.node_id = reached.node_id and kept.valid_from is null
        where nodes.node_id is not null or kept.node_id is not null
        """
    )


def _cut_eras(connection, rules: Rules) -> None:
    """Make the temporary table `places`: a place (number, node_id, span) for each usable identifier, several where a value
    may have been handed on: after a silence, or when somebody said so (`is_stated`)."""
    days = _by_type(rules, "recycled_after_days", "identifier_type")
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


def _by_type(rules: Rules, key: str, column: str) -> str:
    """SQL: what the rules say under a key of the type in a column; null where they say nothing."""
    said = {name: getattr(identifier, key) for name, identifier in rules.types.items() if getattr(identifier, key)}
    cases = "".join(f" when '{quoted(name)}' then {value}" for name, value in said.items())
    return f"case {column}{cases} end" if said else "cast(null as integer)"


def _cluster(connection, graph: str, key: bytes, rules: Rules) -> list[Refusal]:
    """Make the temporary tables `clusters` (place, cluster), `shaped` (cluster and its shape) and `shared` (place, company):
    carriers that are cut, with a number for those that are linked to each other. Returns the refusals, in places."""
    found = connection.execute(
        f"""
        select identifier_type, is_person, node, coalesce(epoch_us(coalesce(begins, first_seen_at)), {NEVER}) as since, name
        from places order by place
        """
    ).fetchnumpy()
    kind_names, kinds = np.unique(np.asarray(found["identifier_type"], dtype=str), return_inverse=True)
    links = {name: np.asarray(values) for name, values in _links(connection, graph).items()}
    followers = connection.execute(
        """
        select before.place, later.place, later.is_stated
        from places as before join places as later on later.node_id = before.node_id and later.begins = before.ends
        """
    ).fetchall()
    different = connection.execute(
        """
        select a.place, b.place
        from identity._decisions as decisions
        join places as a on a.node_id = decisions.left_node_id
        join places as b on b.node_id = decisions.right_node_id
        where decisions.kind = 'different'
        """
    ).fetchall()
    candidates = Graph(
        kinds=kinds.astype(np.int64),
        is_person=np.asarray(found["is_person"], dtype=bool),
        values=np.asarray(found["node"], dtype=np.int64),
        first_seen=np.asarray(found["since"], dtype=np.int64),
        left=links["left"].astype(np.int64),
        right=links["right"].astype(np.int64),
        rank=links["rank"].astype(np.int64),
        confidence=links["confidence"].astype(np.float64),
        linked_at=links["linked_at"].astype(np.int64),
        name=lambda places: found["name"][places],
        keyed=lambda texts: tokens(key, texts),
        # What somebody says was handed on stays apart; a silence alone proves nothing.
        apart=different + [(before, later) for before, later, is_stated in followers if is_stated],
        eras=[(before, later) for before, later, is_stated in followers if not is_stated],
    )
    limits = [
        Limit(kind, limit.most, limit.days) for kind, name in enumerate(kind_names) for limit in rules.of_type(name).limits
    ]
    solution = solve(candidates, limits, kind_names)
    connection.register("found", {"place": np.arange(candidates.count), "cluster": solution.clusters})
    connection.execute("create or replace temp table clusters as select place, cluster from found")
    connection.unregister("found")
    eras = np.array(candidates.eras, dtype=np.int64).reshape(-1, 2)
    ends = [np.concatenate([side, eras[:, at]]) for at, side in enumerate((candidates.left, candidates.right))]
    connection.register("found", vars(shapes(solution.clusters, *ends)))
    connection.execute("create or replace temp table shaped as from found")
    connection.unregister("found")
    is_shared = solution.clusters == SHARED
    among = is_shared[candidates.left] & is_shared[candidates.right]
    companies = connected_components(candidates.count, candidates.left[among], candidates.right[among])
    connection.register("found", {"place": np.flatnonzero(is_shared), "company": companies[is_shared].astype(np.int64)})
    connection.execute("create or replace temp table shared as select place, company from found")
    connection.unregister("found")
    connection.register("found", {"link": np.arange(len(links["rule"])), "rule": links["rule"]})
    connection.execute("create or replace temp table rules_of_links as select link, cast(rule as varchar) as rule from found")
    connection.unregister("found")
    return solution.refusals


_AT_THAT_TIME = """(({place}.begins is null and {time} is null)
    or (({place}.begins is null or {time} >= {place}.begins) and ({place}.ends is null or {time} < {place}.ends)))"""


def _links(connection, graph: str) -> dict[str, np.ndarray]:
    """Links between places in arrays: left, right, rank, confidence, linked_at (microseconds) and rule.

    What people decided has rank 0; the others rank by how far the less trusted of the two identifiers is trusted, and records
    that are only alike come after all that name the same.
    """
    rank = "1 + 1000 * greatest(a.priority, b.priority) + least(a.priority, b.priority) + if({}.rule = 'alike', 1000000, 0)"
    of_eras = ""
    if connection.execute("select count(*) from eras").fetchone()[0]:
        of_eras = f"""
        union all  -- a value with several eras is linked by each record to the one of that time
        select a.place, b.place, {rank.format("e")}, max(e.confidence), coalesce(epoch_us(min(e.seen_at)), {NEVER}), min(e.rule)
        from ({EVIDENCE}) as e
        join places as a on a.identifier_type = e.left_type and a.identifier_value = e.left_value
        join places as b on b.identifier_type = e.right_type and b.identifier_value = e.right_value
        where (a.begins is not null or a.ends is not null or b.begins is not null or b.ends is not null)
            and {_AT_THAT_TIME.format(place="a", time="e.seen_at")} and {_AT_THAT_TIME.format(place="b", time="e.seen_at")}
        group by a.place, b.place, a.priority, b.priority, e.rule"""
    return connection.execute(
        f"""
        select
            a.place as "left", b.place as "right", {rank.format("g")} as rank, g.confidence,
            coalesce(epoch_us(g.first_seen_at), {NEVER}) as linked_at, g.rule
        from ({graph}) as g
        join places as a on a.node_id = g.left_node_id
        join places as b on b.node_id = g.right_node_id
        where g.is_active and a.begins is null and a.ends is null and b.begins is null and b.ends is null
        {of_eras}
        union all
        select a.place, b.place, 0, 1.0, {NEVER} - epoch_us(decided_at), 'decision'  -- the later goes before the earlier
        from identity._decisions as decisions
        join places as a on a.node_id = decisions.left_node_id and {_AT_THAT_TIME.format(place="a", time="decided_at")}
        join places as b on b.node_id = decisions.right_node_id and {_AT_THAT_TIME.format(place="b", time="decided_at")}
        where decisions.kind = 'same'
        order by 1, 2, 3
        """
    ).fetchnumpy()


def _cut_spans(connection, rules: Rules) -> None:
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
    idle = _by_type(rules, "idle_minutes", "identifier_type")
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
                and person.is_person and {_AT_THAT_TIME.format(place="person", time="e.seen_at")}
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
            select place, cluster, places.begins from clusters join places using (place) where cluster <> {SHARED}
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
        select
            node_id, place, cluster,
            case when number > 1 then valid_from end as valid_from,
            lead(valid_from) over (partition by node_id order by number) as valid_to
        from ordered
        where before is null or before <> cluster
        """
    )


def _claim_ids(connection, seq: int, key: bytes) -> None:
    """Make the temporary table `ids` (cluster, customer_id) and `lost` (customer_id, cluster, kept_id)."""
    connection.execute(
        """
        create or replace temp table claims as
        with votes as (
            select kept.customer_id, spans.cluster, count(*) as votes, min(places.place) as oldest
            from identity.assignments as kept
            join spans on spans.node_id = kept.node_id and (spans.valid_from is null) = (kept.valid_from is null)
            join places using (place)
            where spans.valid_from is null  -- what is shared in time votes for its first span, an era for its own
                or (not places.is_first and coalesce(spans.valid_from < kept.valid_to, true)
                    and coalesce(kept.valid_from < spans.valid_to, true))
            group by all
        ),
        claimed as (
            select customer_id, cluster
            from votes
            qualify row_number() over (partition by customer_id order by votes desc, oldest) = 1
        )
        select
            claimed.customer_id, claimed.cluster,
            row_number() over (
                partition by claimed.cluster order by given.seq, given.oldest_seen_at nulls last, claimed.customer_id
            ) as age_rank
        from claimed join identity._customer_ids as given using (customer_id)
        """
    )
    connection.execute("create or replace temp table ids as select cluster, customer_id from claims where age_rank = 1")
    connection.execute(
        """
        create or replace temp table nameless as
        select
            spans.cluster,
            -- Only one customer has the first span of an identifier, or an era of it: no two get the same name.
            arg_min(places.name, (spans.valid_from is not null and places.is_first, places.place)) as oldest,
            min(coalesce(places.begins, places.first_seen_at)) as oldest_seen_at, 0 as attempt
        from spans join places using (place)
        anti join ids using (cluster)
        group by spans.cluster
        """
    )
    # An id that once was given, and split off or redirected since, is not given again: the hash is taken once more.
    while connection.execute("select count(*) from nameless").fetchone()[0]:
        rows = connection.execute(
            "select cluster, concat('customer ', attempt, ' ', oldest) as name from nameless"
        ).fetchnumpy()
        names = np.array([f"c_{token}" for token in tokens(key, rows["name"], 20)], dtype=object)
        connection.register("named", {"cluster": rows["cluster"], "customer_id": names})
        connection.execute(
            f"""
            create or replace temp table fresh as
            select n.cluster, named.customer_id, n.oldest_seen_at
            from named join nameless as n using (cluster) anti join identity._customer_ids using (customer_id);
            insert into ids select cluster, customer_id from fresh;
            insert into identity._customer_ids select customer_id, {seq}, oldest_seen_at from fresh;
            delete from nameless where cluster in (select cluster from fresh);
            update nameless set attempt = attempt + 1;
            """
        )
        connection.unregister("named")


def _tokens_of_new_nodes(connection, key: bytes) -> None:
    new = connection.execute("select node_id from affected where is_usable and identifier_token is null").fetchnumpy()[
        "node_id"
    ]
    if len(new):
        connection.register("made", {"node_id": new, "token": np.array(tokens(key, new), dtype=object)})
        connection.execute("update affected set identifier_token = made.token from made where made.node_id = affected.node_id")
        connection.unregister("made")


def _write(connection, seq: int, as_of: datetime, other_rules: bool) -> int:
    """Move the spans of identifiers whose customer changed; returns how many."""
    connection.execute(
        """
        create or replace temp table moved as
        with before as (select * from identity.assignments semi join affected using (node_id)),
        now as (select spans.node_id, spans.valid_from, spans.valid_to, ids.customer_id from spans join ids using (cluster))
        select
            a.position, a.node_id, a.identifier_type, a.identifier_value, a.identifier_token, a.is_person,
            m.valid_from, m.valid_to, m.old_customer_id, m.new_customer_id
        from (
            select
                coalesce(before.node_id, now.node_id) as node_id,
                case when before.node_id is null then now.valid_from else before.valid_from end as valid_from,
                case when before.node_id is null then now.valid_to else before.valid_to end as valid_to,
                before.customer_id as old_customer_id, now.customer_id as new_customer_id
            from before full join now on now.node_id = before.node_id
                and now.valid_from is not distinct from before.valid_from
                and now.valid_to is not distinct from before.valid_to
        ) as m
        join affected as a using (node_id)
        where m.old_customer_id is distinct from m.new_customer_id
        """
    )
    values = {"seq": seq, "as_of": as_of.replace(tzinfo=None)}
    connection.execute(
        """
        create or replace temp table deciding as  -- customers about whom somebody decided something else
        select customer_id from identity.assignments semi join decided using (node_id)
        union
        select customer_id from spans semi join decided using (node_id) join ids using (cluster)
        """
    )
    connection.execute(
        """
        delete from identity._shapes
        where customer_id in (select customer_id from identity.assignments semi join affected using (node_id))
            or customer_id in (select customer_id from ids)
        """
    )
    connection.execute(
        "insert into identity._shapes "
        "select customer_id, identifiers, links, bridges, largest_side, $seq from shaped join ids using (cluster)",
        {"seq": seq},
    )
    connection.execute(
        """
        insert into identity._changes
        select
            $as_of, identifier_type, identifier_value, valid_from, valid_to,
            case
                when node_id not in (select node_id from identity.assignments) then 'created'
                when node_id not in (select node_id from spans) then 'retired'
                when old_customer_id is null or new_customer_id is null then 'split'
                when old_customer_id in (select customer_id from ids) then 'split'
                else 'merged'
            end,
            old_customer_id, new_customer_id,
            case
                when node_id not in (select node_id from spans) then 'identifier no longer usable'
                when $other_rules then 'rules'
                when old_customer_id in (from deciding) or new_customer_id in (from deciding) then 'decision'
                when valid_from is not null or valid_to is not null then 'shared in time'
                else 'links'
            end,
            $seq
        from moved order by position, new_customer_id is not null, valid_from nulls first
        """,
        values | {"other_rules": other_rules},
    )
    connection.execute("delete from identity.assignments where node_id in (select node_id from moved)")
    connection.execute(
        """
        insert into identity.assignments
        select
            a.identifier_type, a.identifier_value, spans.valid_from, spans.valid_to, ids.customer_id, a.node_id,
            a.identifier_token, a.is_person, $seq
        from spans join ids using (cluster) join affected as a using (node_id)
        where a.node_id in (select node_id from moved)
        order by a.position, spans.valid_from nulls first
        """,
        {"seq": seq},
    )
    connection.execute(
        """
        create or replace temp table lost as
        select claims.customer_id, ids.customer_id as kept_id
        from claims join ids using (cluster) where claims.age_rank > 1
        """
    )
    connection.execute(
        "update identity._redirects set to_customer_id = lost.kept_id, _seq = $seq "
        "from lost where to_customer_id = lost.customer_id",
        {"seq": seq},
    )
    connection.execute("insert into identity._redirects select customer_id, kept_id, $as_of, $seq from lost", values)
    return connection.execute("select count(*) from moved").fetchone()[0]


def _write_refusals(connection, refusals: list[Refusal], seq: int, as_of: datetime, rules: Rules) -> None:
    """Replace the refusals of the affected components; one that stands keeps the moment it was first refused at."""
    columns = {
        "left_place": [r.left for r in refusals],
        "right_place": [r.right for r in refusals],
        "through_place": [-1 if r.through is None else r.through for r in refusals],
        "link": [-1 if r.link is None else r.link for r in refusals],
    }
    words = {"reason": [r.reason for r in refusals], "detail": [r.detail for r in refusals]}
    connection.register(
        "found",
        {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
        | {name: np.array(values, dtype=object) for name, values in words.items()},
    )
    connection.execute(
        """
        create or replace temp table refused as
        select
            a.identifier_type as left_type, a.identifier_value as left_value,
            b.identifier_type as right_type, b.identifier_value as right_value,
            through.identifier_type as through_type, through.identifier_value as through_value,
            coalesce(rules_of_links.rule, case when through.is_person then 'recycled' else 'shared_carrier' end) as rule,
            cast(found.reason as varchar) as reason, cast(found.detail as varchar) as detail,
            left_id.customer_id as left_customer_id, right_id.customer_id as right_customer_id,
            a.node_id as left_node_id, b.node_id as right_node_id
        from found
        join places as a on a.place = found.left_place
        join places as b on b.place = found.right_place
        join clusters as left_cluster on left_cluster.place = a.place
        join clusters as right_cluster on right_cluster.place = b.place
        join ids as left_id on left_id.cluster = left_cluster.cluster
        join ids as right_id on right_id.cluster = right_cluster.cluster
        left join places as through on through.place = found.through_place
        left join rules_of_links using (link)
        where left_cluster.cluster <> right_cluster.cluster  -- another way may have united them since
        """
    )
    connection.unregister("found")
    connection.execute(
        """
        create or replace temp table stood as
        select * from identity._refusals
        where left_node_id in (select node_id from affected) or right_node_id in (select node_id from affected)
        """
    )
    same = " and ".join(
        f"refused.{column} is not distinct from stood.{column}"
        for column in ("left_node_id", "right_node_id", "through_type", "through_value", "rule", "reason")
    )
    connection.execute(
        f"""
        delete from identity._refusals
        where left_node_id in (select node_id from affected) or right_node_id in (select node_id from affected);
        insert into identity._refusals by name
        select
            refused.*, coalesce(min(stood.refused_at), $as_of) as refused_at, $version as rules_version, $seq as _seq
        from refused left join stood on {same}
        group by all
        """,
        {"as_of": as_of.replace(tzinfo=None), "version": rules.version, "seq": seq},
    )
