"""How long identity takes on a large candidate graph: with rules and without, whole and for a thousand links more.

Both solve the same graph of the same tables, write assignments, ledger and ids; without rules whatever is linked is one.
A hundredth of the browsers is shared by two people, as many phones are; so are single browsers by a few hundred.
"""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from bench.measure import in_own_process, timed
from dagster_project.lib.identity.resolve import resolve
from dagster_project.lib.identity.rules import Rules

MORE = 1000
_GRAPH = """
    select concat(left_type, ':', left_value) as left_node_id, concat(right_type, ':', right_value) as right_node_id,
        rule, confidence, first_seen_at, is_active, _seq
    from identity.edges
"""
_NO_RULES = {"types": {}, "undeclared": {"kind": "person", "priority": 99}, "blocked": [], "longest": 1024}
_RULES = {"shipped": lambda: Rules.read(Path("there is no such file")), "none": lambda: Rules.model_validate(_NO_RULES)}
_RANKS = {"user_id": 1, "email": 2, "phone": 3, "contact_id": 4, "anonymous_id": 101}


def run(folder: Path, edges: int, giant: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure a graph of `edges` links with and without rules, a thousand more, and one bad component of `giant` links.

    Args:
        folder: where to work; emptied before and after. Needs 1 GB a million links.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result: dict[str, Any] = {"edges": edges}
    for name in ("none", "shipped"):
        tell(f"{edges:,} links: rules {name}")
        result[name] = in_own_process("bench.identity:whole", folder, edges, name)
    tell(f"{MORE:,} more links")
    result["more"] = in_own_process("bench.identity:more", folder, edges)
    (folder / "graph.duckdb").unlink()
    if giant:
        tell(f"a component of {giant:,} links in which everything breaks")
        result["giant"] = in_own_process("bench.identity:whole", folder, giant, "shipped", "giant")
    shutil.rmtree(folder)
    result["rules_to_none"] = round(result["shipped"]["seconds"] / result["none"]["seconds"], 2)
    result["more_to_whole"] = round(result["more"]["seconds"] / result["shipped"]["seconds"], 4)
    return result


def whole(folder: str, edges: str, rules: str, shape: str = "company") -> dict[str, Any]:
    file = Path(folder) / "graph.duckdb"
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file), config={"memory_limit": "4GB"}) as connection:
        connection.execute("set TimeZone = 'UTC'; create schema identity")
        links = _company(int(edges)) if shape == "company" else _giant(int(edges))
        _write(connection, links, 1, ranks=_RANKS if rules == "shipped" else dict.fromkeys(_RANKS, 99))
        seconds, done = timed(lambda: _resolve(connection, 1, rules))
        customers = connection.execute("select count(distinct customer_id) from identity.assignments").fetchone()[0]
    return {"seconds": round(seconds, 2), "identifiers": done.examined, "customers": customers, "refusals": done.refused}


def more(folder: str, edges: str) -> dict[str, Any]:
    """A thousand links of known people to new browsers."""
    with duckdb.connect(str(Path(folder) / "graph.duckdb"), config={"memory_limit": "4GB"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        people = int(edges) // 4
        links = f"""
            select 'user_id' as left_type, 'u' || (i * 7919 % {people}) as left_value, 'anonymous_id' as right_type,
                'new' || i as right_value, timestamp '2026-06-01' as seen_at
            from range({MORE}) as t(i)
        """
        _write(connection, links, 2, _RANKS)
        seconds, done = timed(lambda: _resolve(connection, 2, "shipped"))
    return {"seconds": round(seconds, 2), "identifiers": done.examined, "refusals": done.refused}


def _company(edges: int) -> str:
    """People with a user_id, an e-mail, a phone and two browsers; of a hundred phones and browsers one has two holders."""
    people = edges // 4
    seen = f"timestamp '2025-01-01' + to_seconds(i * 31536000 // {people})"
    return f"""
        with people as (select i, {seen} as seen_at from range({people}) as t(i))
        select 'user_id' as left_type, 'u' || i as left_value, right_type, right_value, seen_at
        from people, lateral (
            select 'email' as right_type, 'e' || i || '@example.com' as right_value
            union all
            select 'phone', '+86' || (13000000000 + case when i % 100 = 1 then i - 1 else i end)
            union all
            select 'anonymous_id', 'a' || case when i % 100 = 3 then i - 1 else i end
            union all
            select 'anonymous_id', 'b' || case when i % 1000 < 3 then i - i % 300000 else i end
        )
    """


def _giant(edges: int) -> str:
    """One component: everybody is linked to the next by a phone, and nobody may be united with anybody."""
    return f"""
        select
            'user_id' as left_type, 'u' || (i // 2) as left_value, 'phone' as right_type, 'p' || ((i + 1) // 2) as right_value,
            timestamp '2025-01-01' + to_seconds(i) as seen_at
        from range({edges}) as t(i)
    """


def _write(connection: duckdb.DuckDBPyConnection, links: str, seq: int, ranks: dict[str, int]) -> None:
    """The tables that dbt's models keep, as far as the solver reads them, with one record for each link."""
    rank = "case identifier_type " + " ".join(f"when '{name}' then {rank}" for name, rank in ranks.items()) + " end"
    connection.execute(f"create or replace temp table links as {links}")
    created = connection.execute("select count(*) from duckdb_tables() where table_name = 'edges'").fetchone()[0]
    for table, query in {
        "edges": f"""
            select left_type, left_value, right_type, right_value, 'seen_together' as rule, 1.0::double as confidence,
                min(seen_at) as first_seen_at, true as is_active, {seq}::bigint as _seq from links group by all
        """,
        "evidence": "select *, 'seen_together' as rule, 1.0::double as confidence, true as is_current from links",
        "sightings": f"""
            select identifier_type, identifier_value, seen_at, true as is_current, true as is_usable,
                false as _is_revision, {seq}::bigint as _seq
            from (
                select left_type as identifier_type, left_value as identifier_value, seen_at from links
                union all select right_type, right_value, seen_at from links)
        """,
        "nodes": f"""
            select concat(identifier_type, ':', identifier_value) as node_id, identifier_type, identifier_value,
                {rank} as priority, {rank} < 100 as is_person, true as is_usable, min(seen_at) as first_seen_at,
                max(seen_at) as last_seen_at, {seq}::bigint as _first_seq, {seq}::bigint as _seq
            from (select left_type as identifier_type, left_value as identifier_value, seen_at from links
                union all select right_type, right_value, seen_at from links)
            group by all
        """,
    }.items():
        if created:
            known = " where node_id not in (select node_id from identity.nodes)" if table == "nodes" else ""
            connection.execute(f"insert into identity.{table} by name select * from ({query}){known}")
        else:
            connection.execute(f"create table identity.{table} as {query}")
    connection.execute("drop table links; checkpoint")


def _resolve(connection: duckdb.DuckDBPyConnection, seq: int, rules: str) -> Any:
    return resolve(
        connection, graph=_GRAPH, seq=seq, as_of=datetime(2026, 7, seq), key=b"a key of the benchmark", rules=_RULES[rules]()
    )
