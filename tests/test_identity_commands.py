"""Identity as its users meet it: shared things in time, the queue, decisions, explanations, rules tried out, figures."""

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from dagster_project.cli import main
from dagster_project.jobs import problems, run_job
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home

START = datetime(2026, 9, 1)
AS_OF = {"onefold/as_of": "2026-10-31T00:00:00+00:00"}


def _load(home: Home) -> None:
    channels = load_channels(home)
    for name in ("web", "crm"):
        assert problems(run_job(home, "ingest", channel=channels[name])) == []
    assert problems(run_job(home, "refresh", tags=AS_OF)) == []


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Li and Wang share a tablet and a phone; twelve others gave the address of their shop."""
    home = Home(tmp_path_factory.mktemp("family")).prepare()
    visits = [(1, None), (2, "Li"), (3, None), (4, "Wang"), (5, None), (6, "Li")]
    seen = {"event_name": "page_viewed", "anonymous_id": "tablet"}
    events = [
        {"event_id": f"e{day}", "occurred_at": f"{START + timedelta(days=day)}", "user_id": user, **seen}
        for day, user in visits
    ]
    contacts = [
        {
            "contact_id": name,
            "user_id": name,
            "email": f"{name}@example.com",
            "phone": "+8613812345678",
            "updated_at": f"{START}",
        }
        for name in ("Li", "Wang")
    ]
    contacts += [
        {"contact_id": f"c{n}", "user_id": f"u{n}", "email": "shop@example.com", "phone": None, "updated_at": f"{START}"}
        for n in range(12)
    ]
    for place, rows in (("web/events/a.jsonl", events), ("crm/contacts/a.jsonl", contacts)):
        file = home.landing / place
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _load(home)
    return home


@pytest.fixture
def run(family: Home) -> Callable[..., str]:
    def command(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["--home", str(family.path), *arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return command


@pytest.fixture
def asked(run: Callable[..., str]) -> Callable:
    return lambda *arguments: json.loads(run(*arguments, "--json"))


def _customers(home: Home, query: str) -> dict[str, str]:
    with duckdb.connect(str(home.serving / "current" / "onefold_private.duckdb"), read_only=True) as connection:
        return dict(connection.execute(query).fetchall())


def test_events_before_between_and_after_log_ins_belong_to_who_was_logged_in(family: Home) -> None:
    owners = _customers(family, "select record_id, customer_id from unified.customer_events where channel = 'web'")
    names = _customers(
        family, "select customer_id, identifier_value from unified.customer_identifiers where identifier_type = 'user_id'"
    )
    assert [names[owners[f"e{day}"]] for day in range(1, 7)] == ["Li", "Li", "Li", "Wang", "Wang", "Li"]


def test_a_customer_is_found_by_what_they_share_and_shown_with_the_time_they_have_it(asked: Callable) -> None:
    found = asked("customer", "anonymous_id:tablet")
    spans = [(i["valid_from"], i["valid_to"]) for i in found["identifiers"] if i["identifier_type"] == "anonymous_id"]
    assert [(start and start[:10], end and end[:10]) for start, end in spans] == [(None, "2026-09-05"), ("2026-09-07", None)]
    assert found["profile"]["email"] == "li@example.com"


def test_why_two_are_not_one_names_the_thing_they_share(asked: Callable, run: Callable, tmp_path: Path) -> None:
    found = asked("explain", "user_id:Li", "user_id:Wang")
    assert found["verdict"].startswith("two customers: ")
    assert [hop for hop in found["hops"] if hop["refused"]]
    assert (found["hops"][0]["left"], found["hops"][-1]["right"]) == ("user_id:Li", "user_id:Wang")
    assert all(hop["source_table"] and hop["seen_at"] for hop in found["hops"])
    picture = tmp_path / "why.svg"
    run("explain", "user_id:Li", "user_id:Wang", "--svg", str(picture))
    texts = [node.text for node in ET.fromstring(picture.read_text()).iter() if node.tag.endswith("text")]
    assert {"user_id:Li", "user_id:Wang"} <= set(texts)


def test_a_thing_in_turns_is_of_each_of_those_who_have_it(asked: Callable) -> None:
    for person in ("user_id:Li", "user_id:Wang"):
        found = asked("explain", person, "anonymous_id:tablet")
        assert found["verdict"].startswith("one customer") and not any(hop["refused"] for hop in found["hops"])
    found = asked("explain", "email:li@example.com", "email:wang@example.com")
    [refused] = [hop["refused"] for hop in found["hops"] if hop["refused"]]
    assert refused.startswith("each has its own ")


def test_why_two_are_one_gives_the_records_and_the_weakest_link(asked: Callable) -> None:
    found = asked("explain", "email:li@example.com", "crm_contacts:Li")
    assert found["verdict"].startswith("one customer, c_")
    assert [(hop["source_table"], hop["record_id"]) for hop in found["hops"]] == [("crm_contacts", "Li")] * len(found["hops"])
    assert [hop["is_weakest"] for hop in found["hops"]].count(True) == 1


def test_what_nobody_knows_cannot_be_explained_or_decided(run: Callable) -> None:
    assert "is neither an identifier nor a record" in run("explain", "user_id:Li", "user_id:nobody", code=1)
    assert "no record names 'user_id:nobody'" in run(
        "identity", "decide", "same", "user_id:Li", "user_id:nobody", "--reason", "x", code=1
    )
    assert "give two identifiers" in run("identity", "decide", "same", "user_id:Li", "--reason", "x", code=1)
    assert "--since" in run("identity", "decide", "handed-over", "phone:+8613812345678", "--reason", "x", code=1)


def test_values_far_too_common_are_proposed_as_blocked(asked: Callable, tmp_path: Path, run: Callable) -> None:
    found = asked("identity", "rules", "--propose")
    assert [(row["identifier_type"], row["identifier_value"], row["values"], row["of_type"]) for row in found["values"]] == [
        ("email", "shop@example.com", 12, "user_id")
    ]
    rules = tmp_path / "blocked.yaml"
    rules.write_text(json.dumps(found["change"]))  # JSON is YAML
    tried = asked("identity", "what-if", str(rules))
    assert tried["moves"]["identifiers_no_longer_usable"] == 1
    assert tried["figures"]["refusals"][1] == tried["figures"]["refusals"][0] - 11


def test_rules_are_tried_on_a_copy_and_nothing_is_touched(asked: Callable, family: Home, tmp_path: Path) -> None:
    def content() -> list[tuple]:
        with family.connect("test") as connection:
            names = "select concat(schema_name, '.', table_name) from duckdb_tables() where schema_name = 'identity' order by 1"
            tables = [name for (name,) in connection.execute(names).fetchall()]
            return [connection.execute(f"select '{t}', count(*), bit_xor(hash(t)) from {t} as t").fetchone() for t in tables]

    before = content()
    rules = tmp_path / "loose.yaml"
    rules.write_text("types:\n  user_id: {limits: []}\n  contact_id: {limits: []}\n")
    found = asked("identity", "what-if", str(rules))
    now, then = found["figures"]["customers"]
    assert found["moves"]["customers_merged"] >= 2 and then < now
    assert found["moves"]["pairs_gained"] > 0 and found["moves"]["pairs_lost"] == 0
    assert found["merged"] and found["split"] == []
    assert content() == before
    assert not list(family.temporary.glob("scratch-*"))


def test_the_rules_in_force_tried_on_a_copy_change_nothing(asked: Callable, tmp_path: Path) -> None:
    """The copy works out by itself what dbt's models say is usable."""
    rules = tmp_path / "same.yaml"
    rules.write_text("")
    found = asked("identity", "what-if", str(rules))
    assert set(found["moves"].values()) == {0}
    assert all(now == then for now, then in found["figures"].values())


def test_wrong_rules_are_refused_with_the_key(run: Callable, tmp_path: Path) -> None:
    rules = tmp_path / "wrong.yaml"
    rules.write_text("types:\n  phone: {limit: [{most: 2}]}\n")
    assert "types.phone.limit" in run("identity", "what-if", str(rules), code=1)


def test_identity_is_measured_against_a_truth_and_against_a_run(
    asked: Callable, run: Callable, family: Home, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.csv"
    with truth.open("w", newline="") as handle:
        lines = csv.writer(handle)
        lines.writerow(["channel", "entity", "record_id", "person_id"])
        lines.writerows(["crm", "contacts", name, "the couple"] for name in ("Li", "Wang"))
        lines.writerows(["crm", "contacts", f"c{n}", f"p{n}"] for n in range(12))
        lines.writerow(["crm", "contacts", "unheard of", "somebody"])
    found = asked("identity", "evaluate", str(truth))
    assert (found["records"], found["unknown"], found["people"], found["customers"]) == (14, 1, 13, 14)
    assert (found["pairs_gained"], found["pairs_lost"], found["recall"], found["recall_of_linked"]) == (0, 1, 0.0, 0.0)
    assert found["identifier_precision"] == 1
    assert found["b3_precision"] == 1 and found["b3_recall"] == pytest.approx(13 / 14)
    assert [row["person_id"] for row in found["wrongly_parted"]] == ["the couple"]
    same = asked("identity", "evaluate", str((family.serving / "current").resolve()))
    assert (same["precision"], same["recall"], same["f1"], same["b3_f1"]) == (1, 1, 1, 1)
    truth.write_text("a,b\n1,2\n")
    assert "needed are channel, entity" in run("identity", "evaluate", str(truth), code=1)
    truth.write_text("channel,entity,record_id,person_id\ncrm,contacts,Li,a\ncrm,contacts,Li,b\n")
    assert "belongs to two people" in run("identity", "evaluate", str(truth), code=1)


def test_a_decision_leaves_the_queue_acts_on_the_next_refresh_and_can_be_taken_back(
    asked: Callable, run: Callable, family: Home
) -> None:
    queue = asked("identity", "review")
    assert ("user_id:Wang", "phone:+8613812345678") in {(row["one"], row["other"]) for row in queue}
    run("identity", "decide", "different", "user_id:Li", "user_id:Wang", "--reason", "a couple", "--by", "lin@example.com")
    run("identity", "decide", "same", "user_id:u0", "user_id:u1", "--reason", "he says so")
    assert problems(run_job(family, "refresh", tags=AS_OF)) == []
    left = asked("identity", "review")
    assert {"user_id:Li", "user_id:Wang"}.isdisjoint({row["one"] for row in left} | {row["other"] for row in left})
    assert asked("explain", "user_id:u0", "user_id:u1")["verdict"].startswith("one customer")
    causes = _customers(family, "select identifier_value, cause from identity.changes where kind in ('merged', 'split')")
    assert set(causes.values()) == {"decision"}
    run("identity", "decide", "undecided", "user_id:u0", "user_id:u1", "--reason", "he was wrong")
    assert problems(run_job(family, "refresh", tags=AS_OF)) == []
    assert asked("explain", "user_id:u0", "user_id:u1")["verdict"].startswith("two customers")
