"""Why two identifiers are one customer, or why they are not: the shortest path of evidence between them."""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import Any

import duckdb
import networkx

from dagster_project.lib import answers
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home


@dataclass(frozen=True)
class Hop:
    """One link of a path; the record named is the first of `records` that make it. `refused` says why it does not unite."""

    left: str
    right: str
    rule: str
    confidence: float
    records: int
    channel: str | None
    source_table: str | None
    record_id: str | None
    seen_at: datetime | None
    refused: str | None = None
    alike: str | None = None  # what agrees, where two records match and none names both
    is_weakest: bool = False


@dataclass(frozen=True)
class Explanation:
    """The path from one identifier to the other; none where no chain of records links them."""

    one: str
    other: str
    customer_of_one: str
    customer_of_other: str
    hops: tuple[Hop, ...]

    @property
    def verdict(self) -> str:
        if self.customer_of_one == self.customer_of_other:
            return f"one customer, {self.customer_of_one}"
        if not self.hops:
            return "two customers: no chain of records links them"
        reasons = "; ".join(dict.fromkeys(hop.refused for hop in self.hops if hop.refused))
        return f"two customers: {reasons}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def explain(home: Home, one: str, other: str) -> Explanation:
    """Explain two identifiers (`<type>:<value>`) or records (`<channel>_<entity>:<record id>`) from what is served.

    The path has the fewest links; of equal ones the links that most records make. Its weakest link is the one with the
    least confidence, then the fewest records.

    Raises:
        OnefoldError: one of them is not known.
    """
    with answers.private(home) as connection:
        start, end = _identifier(connection, one), _identifier(connection, other)
        customers = _customers(connection, start, end)
        graph = _graph(connection, set(customers))
        if customers[0] == customers[1]:  # the way is through identifiers that are theirs
            theirs = [name for name in graph if customers[0] in _held(graph, name)]
            graph = graph.subgraph(theirs)
        path: list[str] = []
        if start in graph and end in graph and networkx.has_path(graph, start, end):
            path = networkx.shortest_path(graph, start, end, weight="weight")
        hops = [_hop(connection, graph, left, right) for left, right in pairwise(path)]
        for at, (before, thing, after) in enumerate(zip(path, path[1:], path[2:], strict=False), start=1):
            # Over a thing that two customers have in turns the path goes on, but not the person.
            if not hops[at].refused and not _held(graph, before) & _held(graph, after):
                hops[at] = replace(hops[at], refused=graph.nodes[thing].get("shared", "shared in time"))
        if customers[0] == customers[1]:  # refused at another time
            hops = [replace(hop, refused=None) for hop in hops]
    if hops:
        weakest = min(range(len(hops)), key=lambda at: (hops[at].refused is None, hops[at].confidence, hops[at].records))
        hops[weakest] = replace(hops[weakest], is_weakest=True)
    return Explanation(start, end, *customers, tuple(hops))


def known(home: Home, *identifiers: str, must_be_person: bool = False) -> None:
    """Check that identifiers (`<type>:<value>`) exist and may name somebody.

    Raises:
        OnefoldError: one of them does not, or is a carrier where a person identifier is needed.
    """
    with answers.private(home) as connection:
        for identifier in identifiers:
            kind, _, value = identifier.partition(":")
            found = connection.execute(
                "select is_usable, is_person from identity.nodes where identifier_type = ? and identifier_value = ?",
                [kind, value],
            ).fetchone()
            if not found:
                raise OnefoldError(
                    f"no record names '{identifier}'; give <type>:<value> in its normal form, such as email:li@example.com"
                )
            is_usable, is_person = found
            if not is_usable:
                raise OnefoldError(f"{identifier}: is invalid or blocked, and names nobody")
            if must_be_person and not is_person:
                raise OnefoldError(f"{identifier}: is a thing that people hold; it is cut at its log-ins, nobody has to say so")


def _identifier(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """An identifier as type:value; that of a record is the one it is attributed by."""
    kind, _, value = name.partition(":")
    if connection.execute(
        "select 1 from identity.nodes where identifier_type = ? and identifier_value = ?", [kind, value]
    ).fetchone():
        return name
    found = (
        connection.execute(
            "select concat(left_type, ':', left_value) from identity.matches "
            "where is_current and left_record = $1 and left_type is not null union all "
            "select concat(right_type, ':', right_value) from identity.matches "
            "where is_current and right_record = $1 and right_type is not null limit 1",
            [name],
        ).fetchone()
        or connection.execute(
            "select concat(left_type, ':', left_value) from identity.evidence "
            "where is_current and source_table = ? and record_id = ? order by left_type, left_value limit 1",
            [kind, value],
        ).fetchone()
    )
    if not found:
        raise OnefoldError(
            f"'{name}' is neither an identifier nor a record that links some; give <type>:<value> in its normal form, such as "
            "email:li@example.com or phone:+8613812345678, or <channel>_<entity>:<id>, such as crm_contacts:42"
        )
    return found[0]


def _customers(connection, *identifiers: str) -> tuple[str, str]:
    """The customers of two identifiers: one that both belong to, if at any time they do, else those they belong to now."""
    held = []
    for identifier in identifiers:
        kind, _, value = identifier.partition(":")
        rows = connection.execute(
            "select customer_id from identity.assignments where identifier_type = ? and identifier_value = ? "
            "order by valid_to desc nulls first",
            [kind, value],
        ).fetchall()
        if not rows:
            raise OnefoldError(f"{identifier}: is not usable and names nobody: it is invalid or blocked")
        held.append([customer for (customer,) in rows])
    common = next((customer for customer in held[0] if customer in held[1]), None)
    return (common, common) if common else (held[0][0], held[1][0])


def _graph(connection, customers: set[str]) -> networkx.Graph:
    """The links between the identifiers of these customers and of all whom refusals join to them."""
    connection.execute("create or replace temp table around (customer_id varchar)")
    connection.executemany("insert into around values (?)", [[customer] for customer in sorted(customers)])
    connection.execute(
        """
        create or replace temp table around as
        with recursive reached as (
            select customer_id from around
            union
            select case when refusals.left_customer_id = reached.customer_id
                then refusals.right_customer_id else refusals.left_customer_id end
            from reached
            join identity.refusals as refusals
                on reached.customer_id in (refusals.left_customer_id, refusals.right_customer_id)
        )
        from reached;
        create or replace temp table refused as
        select
            concat(left_type, ':', left_value) as one, concat(right_type, ':', right_value) as other,
            case when through_type is not null then concat(through_type, ':', through_value) end as through, detail
        from identity.refusals semi join around on around.customer_id = refusals.left_customer_id
        """
    )
    links = connection.execute(
        """
        with ids as (
            select distinct identifier_type, identifier_value from identity.assignments semi join around using (customer_id)
        )
        select
            concat(e.left_type, ':', e.left_value) as one, concat(e.right_type, ':', e.right_value) as other,
            e.rule, e.confidence, e.record_count, any_value(refused.detail)
        from identity.edges as e
        join ids as l on l.identifier_type = e.left_type and l.identifier_value = e.left_value
        join ids as r on r.identifier_type = e.right_type and r.identifier_value = e.right_value
        left join refused on refused.through is null
            and refused.one in (concat(e.left_type, ':', e.left_value), concat(e.right_type, ':', e.right_value))
            and refused.other in (concat(e.left_type, ':', e.left_value), concat(e.right_type, ':', e.right_value))
        where e.is_active
        group by all order by all
        """
    ).fetchall()
    graph = networkx.Graph()
    decisions = connection.execute("select left_id, right_id from identity.decisions where kind = 'same'").fetchall()
    for one, other in decisions:
        graph.add_edge(one, other, rule="decision", confidence=1.0, records=0, refused=None, weight=2)
    for one, other, rule, confidence, records, detail in links:
        # A refused link is taken only where there is no other way.
        weight = (1000 if detail else 1) + 1 / (1 + records)
        graph.add_edge(one, other, rule=rule, confidence=confidence, records=records, refused=detail, weight=weight)
    held = connection.execute(
        """
        select concat(identifier_type, ':', identifier_value), list(distinct customer_id)
        from identity.assignments semi join around using (customer_id) group by all
        """
    ).fetchall()
    reasons = dict(
        connection.execute("select through, min(detail) from refused where through is not null group by all").fetchall()
    )
    for name, customers in held:
        graph.add_node(name, customers=set(customers), shared=reasons.get(name, "shared in time"))
    return graph


def _held(graph: networkx.Graph, name: str) -> set[str]:
    """The customers whom an identifier names, at any time."""
    return graph.nodes[name].get("customers", set())


def _hop(connection, graph: networkx.Graph, left: str, right: str) -> Hop:
    link = graph.edges[left, right]
    (left_type, _, left_value), (right_type, _, right_value) = left.partition(":"), right.partition(":")
    first = connection.execute(
        """
        select channel, source_table, record_id, seen_at from identity.evidence
        where is_current and (
            (left_type = $1 and left_value = $2 and right_type = $3 and right_value = $4)
            or (left_type = $3 and left_value = $4 and right_type = $1 and right_value = $2))
        order by seen_at nulls last, source_table, record_id limit 1
        """,
        [left_type, left_value, right_type, right_value],
    ).fetchone() or (None, None, None, None)
    alike = None
    if link["rule"] == "alike" and first[2]:
        alike = connection.execute(
            "select concat(left_record, ' and ', right_record, ': ', evidence) from identity.matches where match_id = ?",
            [first[2]],
        ).fetchone()
    return Hop(
        left,
        right,
        link["rule"],
        link["confidence"],
        link["records"],
        *first,
        refused=link["refused"],
        alike=alike and alike[0],
    )


def picture(explanation: Explanation) -> str:
    """The path as a small SVG: identifiers as boxes, links with what makes them; refused ones broken and red."""
    names = [explanation.one] + [hop.right for hop in explanation.hops]
    if not explanation.hops:
        names.append(explanation.other)
    height, width = 34, 640
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {len(names) * 2 * height}" width="{width}" '
        'font-family="sans-serif" font-size="13">'
    ]
    for at, name in enumerate(names):
        y = at * 2 * height + 4
        if at:
            hop = explanation.hops[at - 1] if explanation.hops else None
            colour = "#b00020" if hop is None or hop.refused else "#b26a00" if hop.is_weakest else "#4a4a4a"
            dash = ' stroke-dasharray="5 4"' if hop is None or hop.refused else ""
            rows.append(f'<path d="M 40 {y - height - 4} V {y}" stroke="{colour}" stroke-width="2"{dash}/>')
            said = "no record links them"
            if hop:
                source = f"{hop.source_table} {hop.record_id}" if hop.source_table else hop.rule
                more = f" and {hop.records - 1} more" if hop.records > 1 else ""
                said = hop.refused or (hop.alike or f"{source}{more}") + (" (weakest link)" if hop.is_weakest else "")
            rows.append(f'<text x="52" y="{y - height / 2 + 2}" fill="{colour}">{escape(said)}</text>')
        rows.append(f'<rect x="4" y="{y}" width="{width - 8}" height="{height - 6}" rx="5" fill="#eef2f7" stroke="#9aa7b5"/>')
        rows.append(f'<text x="14" y="{y + 18}">{escape(name)}</text>')
    return "\n".join([*rows, "</svg>"])
