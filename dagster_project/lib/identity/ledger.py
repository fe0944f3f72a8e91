"""The state of identity: assignments, ids that survive, and the ledger of what moved and what was refused.

All but `TABLES` work on the temporary tables of a run of `resolve`: `affected`, `places`, `clusters` and `spans`.
"""

from datetime import datetime

import duckdb
import numpy as np

from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.identity.solve import Refusal
from dagster_project.lib.keyed import tokens

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


def claim_ids(connection: duckdb.DuckDBPyConnection, seq: int, key: bytes) -> None:
    """Make the temporary tables `claims` (customer_id, cluster, age_rank) and `ids` (cluster, customer_id)."""
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


def make_tokens(connection: duckdb.DuckDBPyConnection, key: bytes) -> None:
    """Give the identifiers of `affected` that have none the token that stands for them where they must not be read."""
    new = connection.execute("select node_id from affected where is_usable and identifier_token is null").fetchnumpy()[
        "node_id"
    ]
    if len(new):
        connection.register("made", {"node_id": new, "token": np.array(tokens(key, new), dtype=object)})
        connection.execute("update affected set identifier_token = made.token from made where made.node_id = affected.node_id")
        connection.unregister("made")


def write_moves(connection: duckdb.DuckDBPyConnection, seq: int, as_of: datetime, other_rules: bool) -> int:
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
                when node_id not in (select node_id from identity.assignments semi join moved using (node_id)) then 'created'
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


def write_refusals(
    connection: duckdb.DuckDBPyConnection, refusals: list[Refusal], seq: int, as_of: datetime, rules: Rules
) -> None:
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
        create or replace temp table mentioned as  -- few of many: what follows joins no large tables with each other
        select place, identifier_type, identifier_value, node_id, is_person, customer_id
        from places join clusters using (place) left join ids using (cluster)
        where place in (select left_place from found union select right_place from found union select through_place from found);
        create or replace temp table refused as
        select
            a.identifier_type as left_type, a.identifier_value as left_value,
            b.identifier_type as right_type, b.identifier_value as right_value,
            through.identifier_type as through_type, through.identifier_value as through_value,
            coalesce(links.rule, case when through.is_person then 'recycled' else 'shared_carrier' end) as rule,
            cast(found.reason as varchar) as reason, cast(found.detail as varchar) as detail,
            a.customer_id as left_customer_id, b.customer_id as right_customer_id,
            a.node_id as left_node_id, b.node_id as right_node_id
        from found
        join mentioned as a on a.place = found.left_place and a.customer_id is not null
        join mentioned as b on b.place = found.right_place and b.customer_id is not null
        left join mentioned as through on through.place = found.through_place
        left join links on links.link = found.link
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
