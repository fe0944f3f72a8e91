"""Who is who: clusters of identifiers under the rules, and customer ids that stay the same.

Every candidate component (customers whom links join, refused ones too) with a changed identifier, link, rule or decision is
solved again, whole; the rest is not touched. The rules by which ids survive are DESIGN's: each previous id is claimed by the
new cluster that holds most of its identifiers (tie: the one with its oldest identifier); a cluster keeps its oldest claimed
id and the others redirect to it; a cluster without a claim gets a new id, a keyed hash of its oldest identifier. An
identifier that several customers share in time counts for the one of its first span.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from dagster_project.lib.home import transaction
from dagster_project.lib.identity.arrays import Arrays
from dagster_project.lib.identity.engine import Engine, moment
from dagster_project.lib.identity.ledger import TABLES, claim_ids, write_moves, write_refusals
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.solve import DAY, NEVER
from dagster_project.lib.identity.spans import AT_THAT_TIME, EVIDENCE, by_type, cut_eras, cut_spans
from dagster_project.lib.state import Decision


@dataclass(frozen=True)
class Resolution:
    """What one run did: identifiers that were solved again, spans of identifiers that moved, refusals that stand, and rounds
    of SQL that solving took, where it is done in rounds."""

    examined: int
    moved: int
    refused: int
    rounds: int = 0


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
    with Arrays.on(connection, key) as engine, transaction(engine.connection):
        engine.connection.execute(TABLES)
        return bring_up(engine, graph=graph, seq=seq, as_of=as_of, rules=rules, decisions=decisions)


def bring_up(
    engine: Engine, *, graph: str, seq: int, as_of: datetime, rules: Rules, decisions: Sequence[Decision]
) -> Resolution:
    """As `resolve`, on any engine whose tables of the state (`ledger.TABLES`) are there."""
    engine.decisions(decisions)
    engine.view("decided", _DECIDED)
    [(solved, version, decided, is_rebuilt)] = engine.rows(
        f"""
        select
            solved.seq, solved.rules_version, (select count(*) from decided),
            coalesce((select min(_seq) from identity.nodes) > coalesce(solved.seq, 0), true)
                or coalesce((select min(_seq) from ({graph}) as graph) > coalesce(solved.seq, 0), false)
        from (select max(seq) as seq, max(rules_version) as rules_version from identity._solved) as solved
        """
    )
    if decided:
        engine.replace("_decisions", "select * from given")
    if is_rebuilt or version != rules.version:
        # What is gone from nodes and edges that were built anew can no longer be seen there.
        engine.view("reached", "select node_id from identity.nodes union select node_id from identity.assignments")
        count = _describe(engine, nodes="identity.nodes", assignments="identity.assignments")
    else:
        count = _reach(engine, graph, solved, rules)
    moved, rounds = 0, 0
    is_first = solved is None
    if count:
        has_eras = cut_eras(engine, rules)
        _link(engine, graph, has_eras)
        clustered = engine.cluster(rules, has_eras)
        cut_spans(engine, rules, has_eras, has_shared=clustered.shared > 0)
        lost = claim_ids(engine, seq, is_first)
        moved = write_moves(engine, seq, as_of, lost, has_decided=decided > 0, other_rules=version not in (None, rules.version))
        write_refusals(engine, clustered.refusals, seq, as_of, rules, is_first)
        rounds = clustered.rounds
    refused = engine.standing("_refusals")
    engine.replace("_solved", f"select {seq} as seq, '{rules.version}' as rules_version")
    if count or version != rules.version:
        engine.append(
            "_runs",
            f"""
            select
                {seq} as run, {moment(as_of)} as solved_at, '{rules.version}' as rules_version,
                {count} as identifiers_examined, {moved} as identifiers_moved, {refused} as refusals
            """,
        )
    return Resolution(count, moved, refused, rounds)


# The identifiers about which somebody decided something else.
_DECIDED = """
with changed as (
    (select * from given except select * from identity._decisions)
    union all
    (select * from identity._decisions except select * from given)
)

select left_node_id as node_id from changed
union
select right_node_id from changed where right_node_id is not null
"""


def _describe(engine: Engine, nodes: str, assignments: str) -> int:
    """Make `affected`: the identifiers of `reached`, with all that is known of them; returns how many."""
    engine.make(
        "affected",
        f"""
        select
            {engine.number("nodes.first_seen_at nulls last, reached.node_id")} as position,
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
        """,
    )
    return engine.count("select count(*) from affected")


def _reach(engine: Engine, graph: str, solved: int, rules: Rules) -> int:
    """Make `affected` of the identifiers whose links, age, silences, usability or decisions changed since the last solution,
    with all others of their components; returns how many."""
    _find_touched(engine, graph, solved, rules)
    if not engine.count("select count(*) from touched"):
        return 0
    # What joins customers into one component, as pairs of customers or of a customer and an identifier: a refused union, what
    # would have united them, an identifier in turns.
    engine.make(
        "ties",
        """
        with through as (
            select left_customer_id, right_customer_id, through_type || ':' || through_value as node_id
            from identity._refusals where through_type is not null
        ),

        pairs as (
            select left_customer_id as one, right_customer_id as other from identity._refusals
            union all
            select left_customer_id, node_id from through
            union all
            select right_customer_id, node_id from through
            union all
            select customer_id, node_id from identity.assignments where node_id in (select node_id from through)
            union all
            select customer_id, node_id from identity.assignments where valid_from is not null or valid_to is not null
        )

        select one, other from pairs where one <> other
        union
        select other, one from pairs where one <> other
        """,
    )
    engine.reach(
        "tied",
        start="select customer_id as name from identity.assignments where node_id in (select node_id from touched)",
        pairs="ties",
    )
    engine.make(
        "reached",
        """
        select node_id from touched
        union
        select node_id from identity.assignments where customer_id in (select name from tied)
        """,
    )
    # Few of many: the other way round the join would hash the large tables.
    nodes, assignments = (
        f"(select * from identity.{table} where node_id in (select node_id from reached))" for table in ("nodes", "assignments")
    )
    return _describe(engine, nodes, assignments)


def _find_touched(engine: Engine, graph: str, solved: int, rules: Rules) -> None:
    """Make `touched` (node_id): identifiers about which something changed since the last solution."""
    silence = by_type(rules, "recycled_after_days", "nodes.identifier_type")
    engine.make(
        "turned",
        f"""
        with fresh as (select node_id, is_usable from identity.nodes where _seq > {solved}),

        kept as (select distinct node_id from identity.assignments where node_id in (select node_id from fresh))

        select fresh.node_id
        from fresh left join kept on kept.node_id = fresh.node_id
        where fresh.is_usable <> (kept.node_id is not null)
        """,
    )
    usable_anew = "union select node_id from turned"
    if engine.count("select count(*) from turned"):
        usable_anew += f"""  -- an identifier that becomes usable links what older edges tie to it
        union
        select left_node_id from ({graph}) as graph where right_node_id in (select node_id from turned)
        union
        select right_node_id from ({graph}) as graph where left_node_id in (select node_id from turned)
        union
        select right_node_id from given where left_node_id in (select node_id from turned) and right_node_id is not null
        union
        select left_node_id from given where right_node_id in (select node_id from turned)"""
    engine.make(
        "touched",
        f"""
        with shared_in_time as (
            select node_id, identifier_type, identifier_value, max(valid_from) as last_cut
            from identity.assignments where valid_from is not null and not is_person group by all
        )

        select left_node_id as node_id from ({graph}) as graph where _seq > {solved}
        union
        select right_node_id from ({graph}) as graph where _seq > {solved}
        {usable_anew}
        union
        select node_id from decided
        union  -- seen earlier than was known: limits within days, and the order of carriers, go by that
        select node_id from identity.nodes where _first_seq > {solved}
        union  -- seen again: a silence may have begun, or not have been one
        select node_id from identity.nodes as nodes
        where _seq > {solved} and is_person
            and {engine.micros("last_seen_at")} - {engine.micros("first_seen_at")} >= {silence} * {DAY}
        union  -- seen on a shared carrier before somebody logged in: the visit may have begun there
        select shared_in_time.node_id
        from shared_in_time
        join identity.sightings as sightings
            on sightings.identifier_type = shared_in_time.identifier_type
            and sightings.identifier_value = shared_in_time.identifier_value
        where sightings._seq > {solved} and (sightings.seen_at < shared_in_time.last_cut or sightings._is_revision)
        """,
    )


def _link(engine: Engine, graph: str, has_eras: bool) -> None:
    """Make `links` of places: link (a number), left_place, right_place, rank, confidence, linked_at (microseconds), rule.

    What people decided has rank 0; the others rank by how far the less trusted of the two identifiers is trusted, and records
    that are only alike come after all that name the same.
    """
    rank = (
        "1 + 1000 * greatest(a.priority, b.priority) + least(a.priority, b.priority) "
        "+ case when {}.rule = 'alike' then 1000000 else 0 end"
    )
    of_eras = ""
    if has_eras:
        of_eras = f"""
        union all  -- a value with several eras is linked by each record to the one of that time
        select
            a.place, b.place, {rank.format("e")}, max(e.confidence),
            coalesce({engine.micros("min(e.seen_at)")}, {NEVER}), min(e.rule)
        from ({EVIDENCE}) as e
        join places as a on a.identifier_type = e.left_type and a.identifier_value = e.left_value
        join places as b on b.identifier_type = e.right_type and b.identifier_value = e.right_value
        where (a.begins is not null or a.ends is not null or b.begins is not null or b.ends is not null)
            and {AT_THAT_TIME.format(place="a", time="e.seen_at")} and {AT_THAT_TIME.format(place="b", time="e.seen_at")}
        group by a.place, b.place, a.priority, b.priority, e.rule"""
    engine.make(
        "links",
        f"""
        select {engine.number("left_place, right_place, rank")} as link, linked.*
        from (
            select
                a.place as left_place, b.place as right_place, {rank.format("g")} as rank, g.confidence,
                coalesce({engine.micros("g.first_seen_at")}, {NEVER}) as linked_at, g.rule
            from ({graph}) as g
            join places as a on a.node_id = g.left_node_id
            join places as b on b.node_id = g.right_node_id
            where g.is_active and a.begins is null and a.ends is null and b.begins is null and b.ends is null
            {of_eras}
            union all  -- the later goes before the earlier
            select a.place, b.place, 0, cast(1.0 as double), {NEVER} - {engine.micros("decided_at")}, 'decision'
            from given as decisions
            join places as a on a.node_id = decisions.left_node_id and {AT_THAT_TIME.format(place="a", time="decided_at")}
            join places as b on b.node_id = decisions.right_node_id and {AT_THAT_TIME.format(place="b", time="decided_at")}
            where decisions.kind = 'same'
        ) as linked
        """,
    )
