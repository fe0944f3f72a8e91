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

from dagster_project.lib.home import transaction
from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.identity.ledger import TABLES, claim_ids, make_tokens, write_moves, write_refusals
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.shape import shapes
from dagster_project.lib.identity.solve import NEVER, SHARED, Graph, Limit, Refusal, solve
from dagster_project.lib.identity.spans import AT_THAT_TIME, EVIDENCE, by_type, cut_eras, cut_spans
from dagster_project.lib.keyed import tokens
from dagster_project.lib.state import Decision


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
        connection.execute(TABLES)
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
        cut_eras(connection, rules)
        refusals = _cluster(connection, graph, key, rules)
        cut_spans(connection, rules)
        claim_ids(connection, seq, key)
        make_tokens(connection, key)
        moved = write_moves(connection, seq, as_of, other_rules=version not in (None, rules.version))
        write_refusals(connection, refusals, seq, as_of, rules)
    connection.execute("delete from identity._solved")
    connection.execute("insert into identity._solved values (?, ?)", [seq, rules.version])
    refused = connection.execute("select count(*) from identity._refusals").fetchone()[0]
    if count or version != rules.version:
        run = [seq, as_of.replace(tzinfo=None), rules.version, count, moved, refused]
        connection.execute("insert into identity._runs values (?, ?, ?, ?, ?, ?)", run)
    return Resolution(count, moved, refused)


# The identifiers that were reached, with all that is known of them.
_DESCRIBED = """
select
    row_number() over (order by nodes.first_seen_at nulls last, reached.node_id) - 1 as position,
    reached.node_id,
    coalesce(nodes.identifier_type, kept.identifier_type) as identifier_type,
    coalesce(nodes.identifier_value, kept.identifier_value) as identifier_value,
    coalesce(nodes.is_person, kept.is_person) as is_person,
    coalesce(nodes.is_usable, false) as is_usable,
    nodes.priority, nodes.first_seen_at, nodes.last_seen_at, kept.identifier_token
from reached
left join {nodes} as nodes on nodes.node_id = reached.node_id
left join {assignments} as kept on kept.node_id = reached.node_id and kept.valid_from is null
where nodes.node_id is not null or kept.node_id is not null
"""


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
    if rebuilt or not rules_are_the_same:
        connection.execute(
            f"""
            create or replace temp table reached as
            select node_id from identity.nodes union select node_id from identity.assignments;
            create or replace temp table affected as
            {_DESCRIBED.format(nodes="identity.nodes", assignments="identity.assignments")}
            """
        )
        return
    _find_touched(connection, graph, solved, rules)
    # Few of many: the other way round the join would hash the large tables.
    of_reached = [f"(from identity.{table} semi join reached using (node_id))" for table in ("nodes", "assignments")]
    connection.execute(
        f"""
        -- What joins customers into one component, as pairs of customers or of a customer and an identifier: a refused union,
        -- what would have united them, an identifier in turns.
        create or replace temp table ties as
        with through as (
            select left_customer_id, right_customer_id, concat(through_type, ':', through_value) as node_id
            from identity._refusals where through_type is not null
        ),
        pairs as (
            select left_customer_id as one, right_customer_id as other from identity._refusals
            union all
            select left_customer_id, node_id from through
            union all
            select right_customer_id, node_id from through
            union all
            select customer_id, node_id from identity.assignments semi join through using (node_id)
            union all
            select customer_id, node_id from identity.assignments where valid_from is not null or valid_to is not null
        )
        select one, other from pairs where one <> other
        union
        select other, one from pairs where one <> other;
        create or replace temp table reached as
        with recursive tied as (
            select customer_id as name from identity.assignments semi join touched using (node_id)
            union
            select ties.other from tied join ties on ties.one = tied.name
        )
        select node_id from touched
        union
        select node_id from identity.assignments where customer_id in (select name from tied);
        create or replace temp table affected as {_DESCRIBED.format(nodes=of_reached[0], assignments=of_reached[1])}
        """
    )


def _find_touched(connection, graph: str, solved: int, rules: Rules) -> None:
    """Make the temporary table `touched` (node_id): identifiers about which something changed since the last solution."""
    silence = by_type(rules, "recycled_after_days", "nodes.identifier_type")
    connection.execute(
        f"""
        create or replace temp table turned as
        with fresh as (select node_id, is_usable from identity.nodes where _seq > {solved}),
        kept as (select distinct node_id from identity.assignments semi join fresh using (node_id))
        select node_id from fresh left join kept using (node_id) where is_usable <> (kept.node_id is not null)
        """
    )
    usable_anew = "union select node_id from turned"
    if connection.execute("select count(*) from turned").fetchone()[0]:
        usable_anew += f"""  -- an identifier that becomes usable links what older edges tie to it
        union
        select left_node_id from ({graph}) semi join turned on turned.node_id = right_node_id
        union
        select right_node_id from ({graph}) semi join turned on turned.node_id = left_node_id
        union
        select right_node_id from identity._decisions semi join turned on turned.node_id = left_node_id
        where right_node_id is not null
        union
        select left_node_id from identity._decisions semi join turned on turned.node_id = right_node_id"""
    connection.execute(
        f"""
        create or replace temp table touched as
        select left_node_id as node_id from ({graph}) where _seq > {solved}
        union
        select right_node_id from ({graph}) where _seq > {solved}
        {usable_anew}
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
        """
    )


def _cluster(connection, graph: str, key: bytes, rules: Rules) -> list[Refusal]:
    """Make the temporary tables `clusters` (place, cluster), `shaped` (cluster and its shape) and `shared` (place, company):
    carriers that are cut, with a number for those that are linked to each other. Returns the refusals, in places."""
    kind_names = [name for (name,) in connection.execute("select distinct identifier_type from places order by 1").fetchall()]
    found = connection.execute(
        f"""
        select
            list_position($kinds, identifier_type) - 1 as kind, is_person, node,
            coalesce(epoch_us(coalesce(begins, first_seen_at)), {NEVER}) as since
        from places order by place
        """,
        {"kinds": kind_names},
    ).fetchnumpy()
    links = _links(connection, graph)
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
        kinds=np.asarray(found["kind"], dtype=np.int64),
        is_person=np.asarray(found["is_person"], dtype=bool),
        values=np.asarray(found["node"], dtype=np.int64),
        first_seen=np.asarray(found["since"], dtype=np.int64),
        left=np.asarray(links["left"], dtype=np.int64),
        right=np.asarray(links["right"], dtype=np.int64),
        rank=np.asarray(links["rank"], dtype=np.int64),
        confidence=np.asarray(links["confidence"], dtype=np.float64),
        linked_at=np.asarray(links["linked_at"], dtype=np.int64),
        name=lambda places: _names(connection, places),
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
    # Another way may have united them since.
    return [refusal for refusal in solution.refusals if solution.clusters[refusal.left] != solution.clusters[refusal.right]]


def _names(connection, places: np.ndarray) -> np.ndarray:
    """Names of places, in the order of the places."""
    connection.register("asked", {"number": np.arange(len(places)), "place": np.asarray(places, dtype=np.int64)})
    try:
        return connection.execute("select name from asked join places using (place) order by number").fetchnumpy()["name"]
    finally:
        connection.unregister("asked")


def _links(connection, graph: str) -> dict[str, np.ndarray]:
    """Make the temporary table `links` (link and its rule), numbered as they stand in the arrays that are returned: left, right
    (places), rank, confidence and linked_at (microseconds).

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
            and {AT_THAT_TIME.format(place="a", time="e.seen_at")} and {AT_THAT_TIME.format(place="b", time="e.seen_at")}
        group by a.place, b.place, a.priority, b.priority, e.rule"""
    connection.execute(
        f"""
        create or replace temp table links as
        select row_number() over (order by "left", "right", rank) - 1 as link, *
        from (
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
        join places as a on a.node_id = decisions.left_node_id and {AT_THAT_TIME.format(place="a", time="decided_at")}
        join places as b on b.node_id = decisions.right_node_id and {AT_THAT_TIME.format(place="b", time="decided_at")}
        where decisions.kind = 'same'
        )
        """
    )
    return connection.execute('select "left", "right", rank, confidence, linked_at from links order by link').fetchnumpy()
