"""Who is who: components, and customer ids that are stable, whatever the steps by which the graph came about."""

import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, pairwise

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.identity.resolve import resolve
from dagster_project.lib.identity.rules import Rules

# Whatever is linked is one: these tests are about components and ids.
RULES = Rules.model_validate({"types": {}, "undeclared": {"kind": "person", "priority": 99}, "blocked": [], "longest": 1024})
KEY = b"a key that only tests use"
STATE = ["assignments", "_changes", "_redirects", "_customer_ids", "_solved"]
START = datetime(2026, 1, 1)
GRAPH = """
    select concat(left_type, ':', left_value) as left_node_id, concat(right_type, ':', right_value) as right_node_id,
        rule, confidence, first_seen_at, is_active, _seq
    from identity.edges
"""
# The columns of identity_nodes and identity_edges (dbt/models/identity/) that the solver reads.
TABLES = """
    create schema identity;
    create table identity.nodes (
        node_id varchar primary key, identifier_type varchar, identifier_value varchar, priority integer, is_person boolean,
        is_usable boolean, first_seen_at timestamp, last_seen_at timestamp, _first_seq bigint, _seq bigint
    );
    create table identity.edges (
        left_type varchar, left_value varchar, right_type varchar, right_value varchar, rule varchar, confidence double,
        first_seen_at timestamp, is_active boolean, _seq bigint, primary key (left_type, left_value, right_type, right_value)
    );
    create table identity.evidence (
        left_type varchar, left_value varchar, right_type varchar, right_value varchar, rule varchar, confidence double,
        seen_at timestamp, is_current boolean
    );
    create table identity.sightings (
        identifier_type varchar, identifier_value varchar, seen_at timestamp, is_current boolean, is_usable boolean,
        _is_revision boolean, _seq bigint
    );
"""


def partition(nodes, edges) -> set[frozenset]:
    """The connected components, by merging sets until nothing changes: slow and obviously right."""
    groups = {node: {node} for node in nodes}
    for left, right in edges:
        union = groups[left] | groups[right]
        for node in union:
            groups[node] = union
    return {frozenset(group) for group in groups.values()}


class Graph:
    """Identity tables in memory, changed as dbt changes them, and solved step by step."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'")
        self.connection.execute("set threads = 1")  # small tables: threads only cost
        self.connection.execute(TABLES)
        self.seq = 1

    def see(self, *nodes: str, day: int | None = None, is_usable: bool = True) -> "Graph":
        """Nodes are type:value; the first seen is the older one unless a day says otherwise."""
        for node in nodes:
            kind, value = node.split(":")
            known = self.connection.execute("select first_seen_at from identity.nodes where node_id = ?", [node]).fetchone()
            count = self.connection.execute("select count(*) from identity.nodes").fetchone()[0]
            first = known[0] if known and day is None else START + timedelta(days=count if day is None else day)
            rule = RULES.of_type(kind)
            self.connection.execute(
                "insert or replace into identity.nodes values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [node, kind, value, rule.rank, rule.is_person, is_usable, first, first, self.seq, self.seq],
            )
        return self

    def link(self, *pairs: str, is_active: bool = True) -> "Graph":
        """Pairs are two nodes with a blank between; nodes that were not seen yet are."""
        for pair in pairs:
            left, right = pair.split()
            for node in (left, right):
                if not self.connection.execute("from identity.nodes where node_id = ?", [node]).fetchone():
                    self.see(node)
            self.connection.execute(
                "insert or replace into identity.edges values (?, ?, ?, ?, 'seen_together', 1.0, null, ?, ?)",
                [*left.split(":"), *right.split(":"), is_active, self.seq],
            )
        return self

    def unlink(self, *pairs: str) -> "Graph":
        return self.link(*pairs, is_active=False)

    def solve(self) -> dict[str, str]:
        """Take the next step; returns the customer of each identifier."""
        with_key = {"graph": GRAPH, "seq": self.seq, "as_of": START + timedelta(days=self.seq), "key": KEY, "rules": RULES}
        self.resolution = resolve(self.connection, **with_key)
        self.seq += 1
        return self.assignments()

    def rows(self, sql: str) -> list[tuple]:
        return self.connection.execute(sql).fetchall()

    def assignments(self) -> dict[str, str]:
        rows = self.rows("select node_id, customer_id from identity.assignments")
        assert len(rows) == len(dict(rows)), "an identifier belongs to one customer"
        return dict(rows)

    def redirects(self) -> dict[str, str]:
        rows = self.rows("select from_customer_id, to_customer_id from identity._redirects")
        assert len(rows) == len(dict(rows)), "an id redirects to one other"
        return dict(rows)

    def changes(self, seq: int | None = None) -> set[tuple]:
        """(kind, identifier, from, to) of one step, by default of the last one."""
        return set(
            self.rows(
                f"""
                select kind, concat(identifier_type, ':', identifier_value), from_customer_id, to_customer_id
                from identity._changes where _seq = {self.seq - 1 if seq is None else seq}
                """
            )
        )

    def replayed(self) -> dict[str, str]:
        """Assignments by the ledger alone, from its start."""
        customers: dict[str, str] = {}
        for node, before, after in self.rows(
            """
            select concat(identifier_type, ':', identifier_value), from_customer_id, to_customer_id
            from identity._changes order by _seq, rowid
            """
        ):
            assert customers.get(node) == before, "a change starts where the one before it ended"
            customers[node] = after
        return {node: customer for node, customer in customers.items() if customer is not None}


def clusters(assignments: dict[str, str]) -> set[frozenset]:
    groups = defaultdict(set)
    for node, customer in assignments.items():
        groups[customer].add(node)
    return {frozenset(group) for group in groups.values()}


# Components


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 30))
    node = st.integers(0, count - 1)
    return count, draw(st.lists(st.tuples(node, node), max_size=50))


@given(graphs())
@settings(max_examples=200)
def test_components_are_those_of_merging_sets(graph):
    count, edges = graph
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    labels = connected_components(count, ends[:, 0], ends[:, 1])
    found = defaultdict(set)
    for node, label in enumerate(labels):
        found[label].add(node)
    assert {frozenset(group) for group in found.values()} == partition(range(count), edges)


def test_an_edge_given_many_times_still_links():
    # 256 ones sum to nothing in eight bits.
    labels = connected_components(3, np.zeros(256, dtype=np.int64), np.ones(256, dtype=np.int64))
    assert (labels[0] == labels[1], labels[0] == labels[2]) == (True, False)


def test_no_nodes_have_no_components():
    assert len(connected_components(0, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))) == 0


# Ids from an empty state


EDGES = ["email:a phone:1", "phone:1 device_id:x", "email:b phone:2", "email:c phone:3", "email:b device_id:y"]


def test_linked_identifiers_are_one_customer_and_others_are_not():
    assert clusters(Graph().link(*EDGES).see("email:alone").solve()) == {
        frozenset({"email:a", "phone:1", "device_id:x"}),
        frozenset({"email:b", "phone:2", "device_id:y"}),
        frozenset({"email:c", "phone:3"}),
        frozenset({"email:alone"}),
    }


def test_from_an_empty_state_ids_depend_on_the_data_alone():
    nodes = sorted({node for pair in EDGES for node in pair.split()})
    days = {node: day for day, node in enumerate(nodes)}
    found = []
    for seed in range(5):
        graph, edges, order = Graph(), list(EDGES), list(nodes)
        random.Random(seed).shuffle(edges)
        random.Random(seed).shuffle(order)
        graph.seq = 1 + 10 * seed
        for node in order:
            graph.see(node, day=days[node])
        found.append(graph.link(*edges).solve())
    assert all(other == found[0] for other in found)


def test_equally_old_identifiers_give_the_same_id_in_any_order():
    one = Graph().see("email:a", "phone:1", day=0).link("email:a phone:1").solve()
    other = Graph().see("phone:1", "email:a", day=0).link("email:a phone:1").solve()
    assert one == other


def test_another_key_gives_other_ids_and_tokens():
    one, other = Graph().link(*EDGES), Graph().link(*EDGES)
    resolve(one.connection, graph=GRAPH, seq=1, as_of=START, key=b"one", rules=RULES)
    resolve(other.connection, graph=GRAPH, seq=1, as_of=START, key=b"other", rules=RULES)
    secrets = "select customer_id from identity.assignments union select identifier_token from identity.assignments"
    assert set(one.rows(secrets)).isdisjoint(other.rows(secrets))


def test_ids_do_not_contain_identifiers():
    assignments = Graph().link("email:ann@example.com phone:+8613800138000").solve()
    assert not any("ann" in customer or "138001" in customer for customer in assignments.values())


def test_every_new_identifier_is_in_the_ledger_as_created():
    graph = Graph().link("email:a phone:1")
    customer = graph.solve()["email:a"]
    assert graph.changes() == {("created", "email:a", None, customer), ("created", "phone:1", None, customer)}


# Nothing changes


def test_a_second_call_moves_nothing():
    graph = Graph().link(*EDGES)
    before = graph.solve()
    assert graph.solve() == before
    assert (graph.resolution.examined, graph.changes()) == (0, set())


def test_a_rebuild_moves_nothing_and_writes_no_ledger():
    graph = Graph().link(*EDGES).see("email:alone")
    graph.solve()
    graph.link("email:a email:b").solve()
    graph.unlink("email:a email:b").solve()
    before = graph.rows("from identity.assignments order by node_id"), graph.redirects()
    graph.connection.execute(f"update identity.nodes set _seq = {graph.seq}; update identity.edges set _seq = {graph.seq}")
    graph.solve()
    assert (graph.rows("from identity.assignments order by node_id"), graph.redirects()) == before
    assert graph.changes() == set()


def test_only_customers_with_a_changed_link_are_solved_again():
    graph = Graph().link(*EDGES)
    graph.solve()
    graph.link("email:c device_id:z").solve()
    assert graph.resolution.examined == 3  # email:c, phone:3 and the new device


# Merges


def test_a_merge_keeps_the_oldest_id_and_redirects_the_other():
    graph = Graph().link("email:a phone:1")
    old = graph.solve()["email:a"]
    new = graph.link("email:b phone:2", "email:b device_id:y").solve()["email:b"]
    assert set(graph.link("email:a email:b").solve().values()) == {old}
    assert graph.redirects() == {new: old}
    assert graph.changes() == {("merged", node, new, old) for node in ("email:b", "phone:2", "device_id:y")}


def test_of_two_ids_of_one_step_the_one_with_the_oldest_identifier_stays():
    graph = Graph().see("email:younger", day=9).see("email:older", day=3)
    before = graph.solve()
    assert set(graph.link("email:younger email:older").solve().values()) == {before["email:older"]}


def test_a_merge_of_merges_redirects_every_id_in_one_step():
    graph, ids = Graph(), []
    for node in ("email:a", "email:b", "email:c", "email:d"):
        ids.append(graph.see(node).solve()[node])
    graph.link("email:c email:d").solve()
    graph.link("email:b email:c").solve()
    graph.link("email:a email:b").solve()
    assert graph.redirects() == dict.fromkeys(ids[1:], ids[0])


def test_a_bridge_merges_many_at_once():
    graph = Graph().see("email:a", "email:b", "email:c")
    before = graph.solve()
    after = graph.link("email:a phone:1", "email:b phone:1", "email:c phone:1").solve()
    assert set(after.values()) == {before["email:a"]}
    assert graph.redirects() == {before["email:b"]: before["email:a"], before["email:c"]: before["email:a"]}


# Splits


def test_after_a_split_the_bigger_part_keeps_the_id_and_the_other_gets_a_new_one():
    graph = Graph().link("email:a phone:1", "phone:1 email:b", "email:b phone:2", "phone:2 device_id:x")
    old = graph.solve()["email:a"]
    after = graph.unlink("phone:1 email:b").solve()
    new = after["email:a"]
    assert after == {"email:a": new, "phone:1": new, "email:b": old, "phone:2": old, "device_id:x": old}
    assert new != old
    assert graph.changes() == {("split", "email:a", old, new), ("split", "phone:1", old, new)}


def test_after_an_even_split_the_part_with_the_oldest_identifier_keeps_the_id():
    graph = Graph().see("email:oldest", "email:b", "phone:b", "phone:youngest")
    graph.link("email:oldest phone:youngest", "email:b phone:b", "phone:youngest phone:b")
    old = graph.solve()["email:oldest"]
    after = graph.unlink("phone:youngest phone:b").solve()
    assert (after["email:oldest"] == old, after["email:b"] == old) == (True, False)


def test_a_split_after_a_merge_gives_an_id_that_was_never_used():
    graph = Graph().see("email:a")
    used = set(graph.solve().values()) | set(graph.see("email:b").solve().values())
    graph.link("email:a email:b").solve()
    after = graph.unlink("email:a email:b").solve()
    assert after["email:b"] not in used
    used |= set(after.values())
    graph.link("email:a email:b").solve()
    assert graph.unlink("email:a email:b").solve()["email:b"] not in used


def test_a_redirected_id_never_comes_back_to_life():
    graph = Graph().see("email:a", "email:b")
    graph.solve()
    graph.link("email:a email:b").solve()
    assert set(graph.unlink("email:a email:b").solve().values()).isdisjoint(graph.redirects())


# Identifiers that stop naming anybody


def test_an_identifier_that_becomes_unusable_is_retired():
    graph = Graph().link("email:a phone:1")
    old = graph.solve()["email:a"]
    assert graph.unlink("email:a phone:1").see("phone:1", is_usable=False).solve() == {"email:a": old}
    assert graph.changes() == {("retired", "phone:1", old, None)}


def test_an_unusable_identifier_does_not_link():
    assert clusters(Graph().see("phone:0", is_usable=False).link("email:a phone:0", "email:b phone:0").solve()) == {
        frozenset({"email:a"}), frozenset({"email:b"}),
    }  # fmt: skip


def test_an_identifier_that_becomes_usable_links_those_who_have_it():
    graph = Graph().see("phone:0", is_usable=False).link("email:a phone:0", "email:b phone:0")
    graph.solve()
    assert clusters(graph.see("phone:0").solve()) == {frozenset({"email:a", "email:b", "phone:0"})}


def test_a_customer_whose_only_identifier_is_retired_returns_under_a_new_id():
    graph = Graph().see("email:a")
    old = graph.solve()["email:a"]
    assert graph.see("email:a", is_usable=False).solve() == {}
    assert graph.see("email:a").solve()["email:a"] != old


# Any history

NODES = [f"{kind}:{number}" for kind in ("email", "phone", "device_id") for number in range(3)]
LINKS = st.tuples(st.sampled_from(NODES), st.sampled_from(NODES), st.booleans()).filter(lambda link: link[0] < link[1])
USES = st.tuples(st.sampled_from(NODES), st.sampled_from([True, True, False]))
# Each step: links made or taken back, and identifiers that become usable or unusable.
STEPS = st.lists(st.tuples(st.lists(LINKS, max_size=4), st.lists(USES, max_size=2)), min_size=1, max_size=6)


@dataclass
class Step:
    """What stood after one step."""

    expected: set[frozenset]  # clusters, by merging sets
    assignments: dict[str, str]
    redirects: dict[str, str]
    replayed: dict[str, str]
    gone: dict[str, str]  # id: kind of the last change that took an identifier from it


def play(steps) -> tuple[Graph, list[Step]]:
    graph, links, usable, recorded = Graph(), {}, {}, []
    for made, seen in steps:
        for node, is_usable in [*((n, True) for link in made for n in link[:2] if n not in usable), *seen]:
            graph.see(node, day=NODES.index(node), is_usable=is_usable)
            usable[node] = is_usable
        for left, right, is_active in made:
            graph.link(f"{left} {right}", is_active=is_active)
            links[left, right] = is_active
        assignments = graph.solve()
        live = [node for node, is_usable in usable.items() if is_usable]
        kept = [pair for pair, is_active in links.items() if is_active and all(usable[node] for node in pair)]
        gone = """
            select from_customer_id, kind from identity._changes
            where from_customer_id is not null order by _seq, rowid
        """
        recorded.append(Step(partition(live, kept), assignments, graph.redirects(), graph.replayed(), dict(graph.rows(gone))))
    return graph, recorded


@given(STEPS)
@settings(max_examples=30)
def test_every_step_gives_the_clusters_of_the_graph_as_it_then_is(steps):
    for step in play(steps)[1]:
        assert clusters(step.assignments) == step.expected


@pytest.fixture(scope="module")
def histories() -> list[list[Step]]:
    """Fixed random histories, played once for all promises about the ledger."""
    chance, found = random.Random(7), []
    for _ in range(25):
        steps = []
        for _ in range(chance.randint(3, 7)):
            pairs = [sorted(chance.sample(NODES, 2)) for _ in range(chance.randint(0, 5))]
            uses = [(chance.choice(NODES), chance.random() < 0.6) for _ in range(chance.randint(0, 2))]
            steps.append(([(*pair, chance.random() < 0.6) for pair in pairs], uses))
        found.append(play(steps)[1])
    return found


def test_fixed_histories_give_the_clusters_of_merging_sets(histories):
    for history in histories:
        assert [clusters(step.assignments) for step in history] == [step.expected for step in history]


def test_the_ledger_from_its_start_gives_the_assignments_of_every_step(histories):
    for history in histories:
        assert [step.replayed for step in history] == [step.assignments for step in history]


def test_a_live_id_never_redirects(histories):
    for step in chain(*histories):
        assert set(step.redirects).isdisjoint(step.assignments.values())


def test_a_redirect_takes_one_step(histories):
    for step in chain(*histories):
        assert set(step.redirects).isdisjoint(step.redirects.values())


def test_a_redirect_leads_to_a_living_customer_or_to_one_of_whom_all_was_retired(histories):
    for step in chain(*histories):
        dead = set(step.redirects.values()) - set(step.assignments.values())
        assert {step.gone[customer] for customer in dead} <= {"retired"}


def test_a_redirect_is_never_taken_back(histories):
    for history in histories:
        for before, after in pairwise(history):
            assert set(before.redirects) <= set(after.redirects)


def test_an_id_that_is_gone_is_never_given_again(histories):
    for history in histories:
        gone = set()
        for before, after in pairwise(history):
            gone |= set(before.assignments.values()) - set(after.assignments.values())
            assert gone.isdisjoint(after.assignments.values())


@given(STEPS)
@settings(max_examples=12)
def test_steps_give_the_clusters_of_one_go(steps):
    graph, (*_, last) = play(steps)
    in_one_go = Graph()
    for table in ("nodes", "edges"):
        rows = graph.rows(f"select * replace (1 as _seq) from identity.{table}")
        if rows:
            in_one_go.connection.executemany(f"insert into identity.{table} values ({', '.join('?' * len(rows[0]))})", rows)
    assert clusters(in_one_go.solve()) == clusters(last.assignments)


@given(STEPS)
@settings(max_examples=12)
def test_a_rebuild_after_any_history_moves_nothing(steps):
    graph, (*_, last) = play(steps)
    graph.connection.execute(f"update identity.nodes set _seq = {graph.seq}; update identity.edges set _seq = {graph.seq}")
    assert graph.solve() == last.assignments
    assert graph.changes() == set()


@pytest.mark.parametrize("seed", range(2))
def test_a_bigger_history_gives_the_clusters_of_merging_sets(seed):
    chance, graph, links = random.Random(seed), Graph(), {}
    nodes = [f"email:{n}" for n in range(150)]
    graph.see(*nodes)
    for _ in range(4):
        for _ in range(60):
            pair = tuple(sorted(chance.sample(nodes, 2)))
            links[pair] = chance.random() < 0.7
            graph.link(" ".join(pair), is_active=links[pair])
        assert clusters(graph.solve()) == partition(nodes, [pair for pair, is_active in links.items() if is_active])
    assert graph.replayed() == graph.assignments()


# A failure ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", STATE)
def test_a_failure_at_any_write_leaves_everything_as_it_was(table):
    """Half a merge would lose an id for ever: the next step would find neither the old customer nor the reason."""
    graph = Graph().link("user_id:u1 email:a", "user_id:u2 email:b")
    before = graph.solve()
    state = {name: graph.connection.execute(f"from identity.{name} order by all").fetchall() for name in STATE}
    graph.link("user_id:u1 email:b").see("email:c")
    graph.connection.execute(f"alter table identity.{table} rename to {table}_kept")
    graph.connection.execute(f"create view identity.{table} as from identity.{table}_kept")  # reads, but takes no writes
    with pytest.raises(duckdb.Error):
        graph.solve()
    graph.connection.execute(f"drop view identity.{table}")
    graph.connection.execute(f"alter table identity.{table}_kept rename to {table}")
    assert {name: graph.connection.execute(f"from identity.{name} order by all").fetchall() for name in STATE} == state
    after = graph.solve()
    assert after["email:a"] == after["email:b"] == before["email:a"]
    assert graph.connection.execute("select from_customer_id, to_customer_id from identity._redirects").fetchall() == [
        (before["email:b"], before["email:a"])
    ]


def test_identifiers_and_links_that_a_rebuild_does_not_bring_back_are_gone():
    graph = Graph().link("user_id:u1 email:a", "user_id:u1 user_id:u2").see("email:lost")
    before = graph.solve()
    graph.connection.execute("delete from identity.edges where right_value = 'u2'")
    graph.connection.execute("delete from identity.nodes where node_id = 'email:lost'")
    graph.connection.execute(f"update identity.nodes set _seq = {graph.seq}")
    graph.connection.execute(f"update identity.edges set _seq = {graph.seq}")
    after = graph.solve()
    assert "email:lost" not in after
    assert after["user_id:u1"] == after["email:a"] == before["user_id:u1"]
    assert after["user_id:u2"] != after["user_id:u1"]
