"""What becomes one customer under the shipped rules: the hard cases one by one, and any batches against one go."""

import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta

import duckdb
import pytest
from test_identity import GRAPH, KEY, START, TABLES

from dagster_project.lib.home import Home
from dagster_project.lib.identity.resolve import resolve
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.state import Decision

SHIPPED = Rules.read(Home.from_environment().path / "there is no such file")
VISITS_OF_DAYS = Rules.model_validate(
    SHIPPED.model_dump()
    | {
        "types": {
            name: identifier.model_dump() | ({} if identifier.is_person else {"idle_minutes": 2 * 24 * 60})
            for name, identifier in SHIPPED.types.items()
        }
    }
)
TYPES = {"U": "user_id", "E": "email", "P": "phone", "C": "contact_id", "A": "anonymous_id", "D": "device_id"}


@dataclass
class Company:
    """Records as they come, resolved step by step; the tables of dbt's models are worked out anew at each."""

    rules: Rules = SHIPPED
    records: list[tuple[int | None, tuple[str, ...]]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; set threads = 1")
        self.connection.execute(TABLES)
        self.seq, self.known, self.first_seqs, self.solved_at = 0, {}, {}, []
        self.taken_back: dict[int, int] = {}  # position of a record: the step since which it counts no more

    def sees(self, *records: str) -> "Company":
        """Records such as '3 U1 A1': on day 3 a user_id and an anonymous_id; without a day the time is not known."""
        for record in records:
            first, *rest = record.split()
            day, names = (int(first), rest) if first.isdigit() else (None, [first, *rest])
            self.records.append((day, tuple(names)))
        return self

    def takes_back(self, position: int) -> "Company":
        """A record, by its position, says nothing any more."""
        self.taken_back.setdefault(position, self.seq + 1)
        return self

    def decides(self, kind: str, left: str, right: str | None = None, day: int | None = None) -> "Company":
        since = None if day is None else START + timedelta(days=day)
        when = START + timedelta(days=1000, minutes=len(self.decisions))
        self.decisions.append(Decision(kind, _node(left), right and _node(right), since, "lin@example.com", "asked", when))
        return self

    def solve(self) -> "Company":
        self.seq += 1
        nodes, edges, evidence, sightings = {}, {}, [], []
        self.solved_at += [self.seq] * (len(self.records) - len(self.solved_at))
        for position, ((day, names), seq) in enumerate(zip(self.records, self.solved_at, strict=True)):
            at = None if day is None else START + timedelta(days=day)
            is_current = position not in self.taken_back
            last_seq = self.taken_back.get(position, seq)
            by_trust = sorted(names, key=lambda name: (self.rules.of_type(TYPES[name[0]]).rank, name))
            for name in by_trust:
                nodes.setdefault(name, []).extend([at] * is_current)
                sightings.append((TYPES[name[0]], name, at, is_current, True, not is_current, last_seq))
            for other in by_trust[1:]:
                row = (TYPES[by_trust[0][0]], by_trust[0], TYPES[other[0]], other, "seen_together", 1.0, at, is_current)
                evidence.append(row)
                edges.setdefault((by_trust[0], other), []).extend([at] * is_current)
        for table, rows in (("evidence", evidence), ("sightings", sightings)):
            self.connection.execute(f"delete from identity.{table}")
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                self.connection.executemany(f"insert into identity.{table} values ({marks})", rows)
        for name, every in nodes.items():
            rule, times = self.rules.of_type(TYPES[name[0]]), [at for at in every if at]
            first, last = min(times, default=None), max(times, default=None)
            row = [_node(name), TYPES[name[0]], name, rule.rank, rule.is_person, bool(every), first, last]
            self._stamp("nodes", [*row, len(times)])
        for (left, right), every in edges.items():
            times = [at for at in every if at]
            row = [TYPES[left[0]], left, TYPES[right[0]], right, "seen_together", 1.0, min(times, default=None), bool(every)]
            self._stamp("edges", [*row, len(times)])
        self.resolution = resolve(
            self.connection,
            graph=GRAPH,
            seq=self.seq,
            as_of=START + timedelta(days=1000 + self.seq),
            key=KEY,
            rules=self.rules,
            decisions=self.decisions,
        )
        return self

    def _stamp(self, table: str, row: list) -> None:
        """As dbt's models do: what a row says changed, or more records say it; the last of it is how many."""
        key = (table, *row[:4])
        before = self.known.get(key)
        if before != row:
            self.known[key] = row
            values = [*row[:-1], self.seq]
            if table == "nodes":
                if before is None or before[6] != row[6]:
                    self.first_seqs[row[0]] = self.seq
                values.insert(-1, self.first_seqs[row[0]])
            self.connection.execute(f"insert or replace into identity.{table} values ({', '.join('?' * len(values))})", values)

    def rows(self, sql: str) -> list[tuple]:
        return self.connection.execute(sql).fetchall()

    def spans(self) -> dict[str, list[tuple[int | None, int | None, str]]]:
        """(from day, to day, customer) of each identifier, in time."""
        spans = defaultdict(list)
        for name, start, end, customer in self.rows(
            "select identifier_value, valid_from, valid_to, customer_id from identity.assignments "
            "order by identifier_value, valid_from nulls first"
        ):
            spans[name].append((*(at and (at - START).days for at in (start, end)), customer))
        return dict(spans)

    def customers(self) -> set[frozenset[str]]:
        """Identifiers of each customer; those shared in time stand with their span, such as 'A1[3:7]'."""
        members = defaultdict(set)
        for name, spans in self.spans().items():
            for start, end, customer in spans:
                bounds = f"[{'' if start is None else start}:{'' if end is None else end}]" if len(spans) > 1 else ""
                members[customer].add(name + bounds)
        return {frozenset(names) for names in members.values()}

    def refusals(self) -> set[tuple]:
        return set(self.rows("select left_value, right_value, through_value, reason from identity._refusals"))


def _node(name: str) -> str:
    return f"{TYPES[name[0]]}:{name}"


def customer_of(company: Company, name: str) -> str:
    return company.spans()[name][0][2]


def of(*records: str) -> Company:
    return Company().sees(*records).solve()


def customers(*groups: str) -> set[frozenset[str]]:
    return {frozenset(group.split()) for group in groups}


def test_family_members_with_one_phone_stay_apart_and_the_phone_goes_to_the_first():
    family = of("1 U1 P1", "2 U2 P1", "3 U2 E2", "4 U1 E1")
    assert family.customers() == customers("U1 P1 E1", "U2 E2")
    assert family.refusals() == {("U2", "P1", None, "limit")}


def test_a_tablet_with_two_log_ins_is_cut_into_spans():
    tablet = of("1 A1", "3 U1 A1", "5 U1 A1", "7 U2 A1", "9 U1 A1", "1 U1 E1", "1 U2 E2")
    assert tablet.customers() == customers("U1 E1 A1[:7] A1[9:]", "U2 E2 A1[7:9]")
    assert tablet.refusals() == {("U1", "U2", "A1", "conflict")}


def test_who_logs_in_on_a_shared_browser_had_it_from_the_beginning_of_that_visit():
    shared = Company(rules=VISITS_OF_DAYS).sees(
        "3 U1 A1", "5 A1", "20 A1", "22 A1", "24 U2 A1", "26 A1", "28 U1 A1", "40 A1", "43 U2 A1"
    )
    assert shared.solve().spans()["A1"] == [
        (None, 20, customer_of(shared, "U1")),  # three days of pause end a visit
        (20, 28, customer_of(shared, "U2")),  # not before U2 was seen: one visit
        (28, 43, customer_of(shared, "U1")),
        (43, None, customer_of(shared, "U2")),
    ]


def test_a_page_view_that_comes_late_moves_the_beginning_of_a_visit():
    company = Company(rules=VISITS_OF_DAYS).sees("3 U1 A1", "20 A1", "24 U2 A1").solve()
    assert company.spans()["A1"][0][1] == 24
    company.sees("22 A1").solve()
    assert company.spans()["A1"][0][1] == 20
    moved = company.resolution.moved
    company.sees("50 A1").solve()
    assert moved and company.resolution.examined == 0


def test_a_browser_that_shares_a_device_keeps_to_its_own_log_ins():
    device = of("1 A1 D1", "2 A2 D1", "3 U1 A1", "4 U2 A2")
    assert device.customers() == customers("U1 A1 D1[:4]", "U2 A2 D1[4:]")


def test_an_office_address_does_not_make_colleagues_one():
    office = of("1 U1 E0", "2 U2 E0", "3 U3 E0", "4 U1 E1", "4 U2 E2", "4 U3 E3")
    assert office.customers() == customers("U1 E0 E1", "U2 E2", "U3 E3")
    assert {reason for *_, reason in office.refusals()} == {"limit"}


def test_a_recycled_phone_is_cut_after_a_silence_between_different_people():
    phone = of("1 U1 P1", "30 P1", "400 U2 P1", "410 P1")
    assert phone.customers() == customers("U1 P1[:400]", "U2 P1[400:]")
    assert phone.refusals() == {("P1", "P1", "P1", "conflict")}


def test_a_phone_of_one_person_goes_on_after_any_silence():
    assert of("1 U1 P1", "400 U1 P1").customers() == customers("U1 P1")
    assert of("1 U1 P1", "400 P1").customers() == customers("U1 P1")


def test_a_phone_that_somebody_says_was_handed_on_is_cut_there():
    phone = of("1 U1 P1", "30 P1", "60 P1").decides("handed_over", "P1", day=50).solve()
    assert phone.customers() == customers("U1 P1[:50]", "P1[50:]")


def test_two_users_who_meet_over_one_cookie_stay_two():
    assert of("1 U1 A1", "2 U2 A1").customers() == customers("U1 A1[:2]", "U2 A1[2:]")


def test_cookies_that_were_one_and_then_two_users_log_in():
    cookies = of("1 A1 D1", "1 A2 D1")
    assert cookies.customers() == customers("A1 A2 D1")
    cookies.sees("5 U1 A1", "6 U2 A2").solve()
    assert cookies.customers() == customers("U1 A1 D1[:6]", "U2 A2 D1[6:]")


def test_a_late_log_in_joins_months_of_anonymous_events():
    visitor = of(*(f"{day} A1" for day in range(0, 90, 10)))
    [anonymous] = {customer for spans in visitor.spans().values() for *_, customer in spans}
    visitor.sees("95 U1 A1").solve()
    assert visitor.spans() == {"A1": [(None, None, anonymous)], "U1": [(None, None, anonymous)]}


def test_a_newsletter_address_and_a_later_log_in_on_one_cookie_are_one_person():
    assert of("1 E1 A1", "5 U1 A1").customers() == customers("E1 U1 A1")


def test_a_newsletter_address_of_somebody_else_is_not_joined():
    assert of("1 E1 A1", "5 U1 A1", "5 U1 E2").customers() == customers("E1 A1[:5]", "U1 E2 A1[5:]")


def test_a_person_with_two_addresses_and_two_phones_is_one():
    assert of("1 U1 E1", "2 U1 E2", "3 U1 P1", "4 U1 P2").customers() == customers("U1 E1 E2 P1 P2")


def test_addresses_are_limited_within_a_year_and_not_for_ever():
    within = of(*(f"{10 * n} U1 E{n}" for n in range(7)))
    assert within.customers() == customers("U1 E0 E1 E2 E3 E4", "E5", "E6")
    assert {reason for *_, reason in within.refusals()} == {"window"}
    assert len(of(*(f"{200 * n} U1 E{n}" for n in range(7))).customers()) == 1


def test_a_decision_that_two_are_different_splits_them_and_outlives_a_rebuild():
    pair = of("1 U1 E1", "2 C1 E1")
    assert pair.customers() == customers("U1 E1 C1")
    pair.decides("different", "U1", "C1").solve()
    assert pair.customers() == customers("U1 E1", "C1")
    assert pair.refusals() == {("E1", "C1", None, "decision")}
    pair.connection.execute(f"update identity.nodes set _seq = {pair.seq + 1}; update identity.edges set _seq = {pair.seq + 1}")
    assert pair.solve().customers() == customers("U1 E1", "C1")
    pair.decisions.clear()
    assert pair.solve().customers() == customers("U1 E1 C1")
    assert pair.refusals() == set()


def test_a_decision_that_two_are_the_same_goes_before_every_limit():
    pair = of("1 U1 E1", "2 U2 E2")
    pair.decides("same", "U1", "U2").solve()
    assert pair.customers() == customers("U1 E1 U2 E2")
    assert pair.refusals() == set()


def test_a_split_after_a_decision_gives_the_one_with_most_identifiers_the_id():
    pair = of("1 U1 E1", "1 U1 P1", "2 C1 E1")
    [before] = {customer for spans in pair.spans().values() for *_, customer in spans}
    pair.decides("different", "U1", "C1").solve()
    assert pair.spans()["U1"] == [(None, None, before)]
    assert pair.spans()["C1"][0][2] != before


def test_a_carrier_that_is_decided_not_to_be_somebodys_is_not_theirs_when_it_is_shared():
    tablet = of("1 A1 U1", "2 A1 E2", "3 A1 U1", "1 U1 E1").decides("different", "A1", "U1").solve()
    assert not any("A1" in name for group in tablet.customers() if "U1" in group for name in group)


def test_a_decision_about_an_identifier_that_is_not_known_yet_acts_when_it_is():
    pair = of("1 U1 E1").decides("same", "U1", "U2").solve()
    assert pair.customers() == customers("U1 E1")
    pair.sees("3 U2 E2").solve()
    assert pair.customers() == customers("U1 E1 U2 E2")


def test_of_decisions_that_contradict_each_other_the_earliest_gives_way():
    three = of("1 C7", "1 C8", "1 C9")
    three.decides("same", "C7", "C8").decides("different", "C7", "C9").decides("same", "C8", "C9").solve()
    assert three.customers() == customers("C7", "C8 C9")


def test_a_decision_about_a_recycled_phone_is_about_whoever_has_it_when_it_is_taken():
    phone = of("1 U1 P1", "400 U2 P1", "400 E2").decides("same", "P1", "E2").solve()
    assert phone.customers() == customers("U1 P1[:400]", "U2 P1[400:] E2")


def test_a_corrected_hand_over_keeps_the_new_holders_id():
    phone = of("1 U1 P1", "60 P1").decides("handed_over", "P1", day=50).solve()
    holder = phone.spans()["P1"][1][2]
    phone.decisions.clear()
    phone.decides("handed_over", "P1", day=55).solve()
    assert [span[:2] for span in phone.spans()["P1"]] == [(None, 55), (55, None)]
    assert phone.spans()["P1"][1][2] == holder


@pytest.mark.parametrize(
    ("before", "then"),
    [
        (("1 U1 P1", "300 U2 P1"), "150 P1"),  # there was no silence
        (tuple(f"{500 + 10 * n} U1 E{n}" for n in range(6)), "1 E5"),  # not all within a year
        (("10 A1 U1", "12 A2 U1", "20 A1 U2", "20 A2 U2", "1 U1 E1", "1 U2 E2"), "5 A2"),  # the other browser is older
    ],
)
def test_what_was_seen_earlier_or_in_between_counts_without_a_link(before: tuple[str, ...], then: str) -> None:
    step_by_step = of(*before).sees(then).solve()
    whole = of(*before, then)
    assert (step_by_step.customers(), step_by_step.refusals()) == (whole.customers(), whole.refusals())


def test_a_home_of_before_there_were_rules_is_solved_again_and_keeps_its_ids():
    pair = of("1 U1 E1", "2 U2 E2")
    before = pair.spans()
    pair.connection.execute("alter table identity._solved drop column rules_version")
    assert pair.solve().spans() == before


def test_other_rules_solve_everybody_again_and_keep_their_ids():
    family = of("1 U1 P1", "2 U2 P1")
    before = family.spans()
    family.rules = Rules.model_validate(
        {**SHIPPED.model_dump(), "types": {**SHIPPED.model_dump()["types"], "user_id": {"kind": "person", "priority": 1}}}
    )
    family.solve()
    assert family.customers() == customers("U1 P1 U2")
    assert family.spans()["U1"] == before["U1"] and family.refusals() == set()
    family.rules = SHIPPED
    family.solve()
    assert family.customers() == customers("U1 P1", "U2")
    assert family.spans()["U1"] == before["U1"]


# Any batches -----------------------------------------------------------------------------------------------------------


def random_records(chance: random.Random) -> list[str]:
    """Records that meet often, some long after each other, some without a time."""
    pools = {kind: [f"{kind}{n}" for n in range(chance.randint(1, 4))] for kind in "UEPCAD"}
    records = []
    for _ in range(chance.randint(1, 25)):
        kinds = chance.sample("UEPCAD", chance.choice([1, 2, 2, 2, 3]))
        day = chance.choice(["", f"{chance.randrange(9)} ", f"{chance.randrange(9)} ", f"{chance.randrange(700)} "])
        records.append(day + " ".join(chance.choice(pools[kind]) for kind in kinds))
    return records


def replayed(company: Company) -> dict[tuple, str]:
    """(identifier, span) → customer, by the ledger alone."""
    found: dict[tuple, str] = {}
    for *place, before, after in company.rows(
        "select identifier_value, valid_from, valid_to, from_customer_id, to_customer_id from identity._changes "
        "order by _seq, rowid"
    ):
        assert found.pop(tuple(place), None) == before, "a change starts where the one before it ended"
        if after:
            found[tuple(place)] = after
    return found


def random_decisions(chance: random.Random, records: list[str]) -> list[tuple]:
    """Mostly none; else some on identifiers of the records."""
    names = sorted({name for record in records for name in record.split() if not name.isdigit()})
    found = []
    for _ in range(chance.choice([0, 0, 1, 3])):
        kind = chance.choice(["same", "different", "different", "handed_over"])
        persons = [name for name in names if name[0] not in "AD"]
        if kind == "handed_over" and persons:
            found.append((kind, chance.choice(persons), None, chance.randrange(300)))
        elif kind != "handed_over" and len(names) > 1:
            found.append((kind, *chance.sample(names, 2)))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_any_batches_in_any_order_give_the_customers_spans_and_refusals_of_one_go(seed: int) -> None:
    chance = random.Random(seed)
    records = random_records(chance)
    decisions = random_decisions(chance, records)
    rules = VISITS_OF_DAYS if seed % 2 else SHIPPED
    whole, step_by_step = Company(rules).sees(*records), Company(rules)
    for decision in decisions:
        whole.decides(*decision)
        step_by_step.decides(*decision)
    whole.solve()
    shuffled = chance.sample(records, len(records))
    while shuffled:
        size = chance.randint(1, len(shuffled))
        step_by_step.sees(*shuffled[:size]).solve()
        del shuffled[:size]
        ledger = {(name, start, end): customer for name, start, end, customer in step_by_step.rows(
            "select identifier_value, valid_from, valid_to, customer_id from identity.assignments")}  # fmt: skip
        assert replayed(step_by_step) == ledger
    assert step_by_step.customers() == whole.customers()
    assert step_by_step.refusals() == whole.refusals()
    before = step_by_step.spans()
    rebuild = (
        f"update identity.nodes set _seq = {step_by_step.seq + 1}; update identity.edges set _seq = {step_by_step.seq + 1}"
    )
    step_by_step.connection.execute(rebuild)
    assert step_by_step.solve().spans() == before
    assert step_by_step.resolution.moved == 0
