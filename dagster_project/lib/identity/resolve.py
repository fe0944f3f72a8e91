"""Who is who: clusters of identifiers, and customer ids that stay the same.

Every customer with a changed identifier or link is solved again, whole; the rest is not touched. The rules by which ids
survive are DESIGN's: each previous id is claimed by the new cluster that holds most of its identifiers (tie: the one with
its oldest identifier); a cluster keeps its oldest claimed id and the others redirect to it; a cluster without a claim gets
a new id, a keyed hash of its oldest identifier.
"""

from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np

from dagster_project.lib.home import transaction
from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.keyed import tokens

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
-- Every id ever given, so that none is given twice; `oldest_seen_at` is that of its first cluster.
create table if not exists identity._customer_ids (customer_id varchar not null, seq bigint not null, oldest_seen_at timestamp);
create table if not exists identity._solved (seq bigint not null);
"""


@dataclass(frozen=True)
class Resolution:
    """What one run did, in identifiers."""

    examined: int
    moved: int


def resolve(connection: duckdb.DuckDBPyConnection, *, graph: str, seq: int, as_of: datetime, key: bytes) -> Resolution:
    """Bring `identity.assignments` and its ledger up to the candidate graph, in one transaction; idempotent.

    Args:
        graph: SELECT of left_node_id, right_node_id, is_active, _seq.
        seq: the number of this write.
        as_of: the moment the changes are dated with, UTC.
        key: secret of ids and tokens.
    """
    with transaction(connection):
        return _resolve(connection, graph, seq, as_of, key)


def _resolve(connection, graph: str, seq: int, as_of: datetime, key: bytes) -> Resolution:
    connection.execute(_TABLES)
    solved = connection.execute("select coalesce(max(seq), 0) from identity._solved").fetchone()[0]
    _affected_nodes(connection, graph, solved)
    count = connection.execute("select count(*) from affected").fetchone()[0]
    if count:
        _cluster(connection, graph, count)
        _claim_ids(connection, seq, key)
        _tokens_of_new_nodes(connection, key)
    moved = _write(connection, seq, as_of) if count else 0
    connection.execute("delete from identity._solved")
    connection.execute("insert into identity._solved values (?)", [seq])
    return Resolution(count, moved)


def _affected_nodes(connection, graph: str, solved: int) -> None:
    """Identifiers whose links or usability changed since the last solution, with all others of their customers.

    After a rebuild of nodes or edges that is every identifier: what is gone from them can no longer be seen there.
    """
    rebuilt = connection.execute(
        f"""
        select coalesce((select min(_seq) from identity.nodes) > {solved}, true)
            or coalesce((select min(_seq) from ({graph})) > {solved}, false)
        """
    ).fetchone()[0]
    everything = "union select node_id from identity.assignments union select node_id from identity.nodes" if rebuilt else ""
    connection.execute(
        f"""
        create or replace temp table touched as
        with turned as (
            select nodes.node_id from identity.nodes as nodes
            left join identity.assignments as kept using (node_id)
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
        {everything}
        """
    )
    connection.execute(
        """
        create or replace temp table affected as
        with reached as (
            select node_id from touched
            union
            select node_id from identity.assignments
            where customer_id in (select customer_id from identity.assignments semi join touched using (node_id))
        )
        select
            row_number() over (order by nodes.first_seen_at nulls last, reached.node_id) - 1 as position,
            reached.node_id,
            coalesce(nodes.identifier_type, kept.identifier_type) as identifier_type,
            coalesce(nodes.identifier_value, kept.identifier_value) as identifier_value,
            coalesce(nodes.is_person, kept.is_person) as is_person,
            coalesce(nodes.is_usable, false) as is_usable,
            nodes.first_seen_at, kept.customer_id as old_customer_id, kept.identifier_token
        from reached
        left join identity.nodes as nodes on nodes.node_id = reached.node_id
        left join identity.assignments as kept on kept.node_id = reached.node_id
        where nodes.node_id is not null or kept.node_id is not null
        """
    )


def _cluster(connection, graph: str, count: int) -> None:
    """Make the temporary table `clusters` (position, cluster) of the usable affected nodes.

    The seam of the rules: limits, refusals and spans replace plain components here, on the same two tables.
    """
    ends = connection.execute(
        f"""
        select a.position as "left", b.position as "right"
        from ({graph}) as g
        join affected as a on a.node_id = g.left_node_id
        join affected as b on b.node_id = g.right_node_id
        where g.is_active and a.is_usable and b.is_usable
        """
    ).fetchnumpy()
    labels = connected_components(count, np.asarray(ends["left"]), np.asarray(ends["right"]))
    found = {"position": np.arange(count, dtype=np.int64), "cluster": labels.astype(np.int64)}
    connection.register("found", found)
    connection.execute(
        """
        create or replace temp table clusters as
        select position, cluster from found semi join (select position from affected where is_usable) using (position)
        """
    )
    connection.unregister("found")


def _claim_ids(connection, seq: int, key: bytes) -> None:
    """Make the temporary table `ids` (cluster, customer_id) and `lost` (customer_id, cluster, kept_id)."""
    connection.execute(
        """
        create or replace temp table claims as
        with votes as (
            select a.old_customer_id as customer_id, c.cluster, count(*) as votes, min(a.position) as oldest
            from affected as a join clusters as c using (position)
            where a.old_customer_id is not null
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
        select c.cluster, arg_min(a.node_id, a.position) as oldest, min(a.first_seen_at) as oldest_seen_at, 0 as attempt
        from clusters as c join affected as a using (position)
        anti join ids using (cluster)
        group by c.cluster
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


def _write(connection, seq: int, as_of: datetime) -> int:
    """Move the identifiers whose customer changed; returns how many."""
    connection.execute(
        """
        create or replace temp table moved as
        select a.*, ids.customer_id as new_customer_id
        from affected as a
        left join clusters as c using (position)
        left join ids using (cluster)
        where a.old_customer_id is distinct from ids.customer_id
        """
    )
    values = {"seq": seq, "as_of": as_of.replace(tzinfo=None)}
    connection.execute(
        """
        insert into identity._changes
        select
            $as_of, identifier_type, identifier_value, null, null,
            case
                when old_customer_id is null then 'created'
                when new_customer_id is null then 'retired'
                when old_customer_id in (select customer_id from ids) then 'split'
                else 'merged'
            end,
            old_customer_id, new_customer_id,
            case when new_customer_id is null then 'identifier no longer usable' else 'links' end, $seq
        from moved order by position
        """,
        values,
    )
    connection.execute("delete from identity.assignments where node_id in (select node_id from moved)")
    connection.execute(
        """
        insert into identity.assignments
        select identifier_type, identifier_value, null, null, new_customer_id, node_id, identifier_token, is_person, $seq
        from moved where new_customer_id is not null order by position
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
