"""Records that share no identifier in the chain: matched, merged where sure, grouped and reviewed where likely, by batches."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from dagster_project.cli import main
from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.identity.steps import model_file
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.settings import Settings

FAMILIES = [
    "Baker",
    "Carter",
    "Dawson",
    "Fisher",
    "Garner",
    "Harlow",
    "Ingram",
    "Jarvis",
    "Keller",
    "Lawson",
    "Mercer",
    "Norton",
]
GIVENS = ["Anna", "Brian", "Clara", "David", "Ellen", "Frank", "Grace", "Henry", "Irene", "Jacob", "Karen", "Louis", "Megan"]
AS_OF = datetime(2026, 10, 31)


def _contact(n: int, **other: str) -> dict:
    given, family = GIVENS[n % 13], FAMILIES[n % 12]
    return {
        "contact_id": f"c{n}",
        "first_name": given,
        "last_name": family,
        "email": f"{given}.{family}{n}@example.com".lower(),
        "birth_date": f"19{50 + n % 45}-{1 + n % 12:02}-{1 + n % 28:02}",
        "address": f"{10 + n} Mill Lane",
        "city": "Leeds" if n % 2 else "York",
        "postal_code": f"LS{n % 30} 1AA",
        "updated_at": "2026-01-01T00:00:00",
    } | other


def _add(home: Home, name: str, contacts: list[dict]) -> None:
    file = home.landing / "crm" / "contacts" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(contact) + "\n" for contact in contacts))
    [load, *_] = [load for load in ingest_channel(home, load_channels(home)["crm"], Settings.of(home)) if load.accepted]
    assert load.accepted == len(contacts)
    _build(home)


def _build(home: Home, *arguments: str) -> None:
    selected = ["resource_type:seed", "path:models/cleaned", "path:models/identity"]
    done = dbt.run(
        home, ["build", "--select", *selected, "--exclude-resource-type", "test", "unit_test", *arguments], as_of=AS_OF
    )
    assert done.success, dbt.failures(done)


def _rows(home: Home, query: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(query).fetchall()


def _customer(home: Home, contact: str) -> str:
    return _rows(home, f"select customer_id from identity.records where record_id = '{contact}'")[0][0]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two hundred people: one came twice, with a slip and another address; one has a sister in the same house."""
    home = Home(tmp_path_factory.mktemp("city")).prepare()
    again = _contact(7, contact_id="again", email="henry.j@example.org", first_name="Henri")
    sister = _contact(8, contact_id="sister", email="sister@example.org", first_name="Phoebe", birth_date="1999-09-09")
    _add(home, "a", [*(_contact(n) for n in range(200)), again, sister])
    return home


def test_who_came_twice_under_another_address_is_one_customer_and_a_sister_is_not(city: Home) -> None:
    assert _customer(city, "again") == _customer(city, "c7")
    assert _customer(city, "sister") != _customer(city, "c8")
    assert len(set(_rows(city, "select customer_id from identity.records"))) == 201


def test_the_match_says_what_agrees_and_is_evidence_like_any_other(city: Home) -> None:
    ours = "'crm_contacts:again' in (left_record, right_record) and grade = 'transactional'"
    [(probability, evidence)] = _rows(city, f"select match_probability, evidence from identity.matches where {ours}")
    assert probability >= 0.999 and "birth_date: same birth date" in evidence
    assert _rows(city, "select count(*) from identity.evidence where rule = 'alike' and is_current") == [(1,)]
    assert _rows(city, "select rule, confidence from identity.edges where rule = 'alike'") == [("alike", probability)]


def test_a_second_file_is_matched_like_the_first_and_writes_only_what_it_brings(city: Home) -> None:
    before = model_file(city).read_text()
    untouched = _rows(city, "select * from identity.matches order by match_id")
    later = _contact(30, contact_id="later", email="ellen.ingram30@example.org")
    maybe = _contact(60, contact_id="maybe", email="new@example.org")
    _add(city, "b", [later, maybe, _contact(300)])
    assert _customer(city, "later") == _customer(city, "c30")
    assert model_file(city).read_text() == before
    assert set(untouched) <= set(_rows(city, "select * from identity.matches"))
    found = "select match_id, match_weight, grade, evidence from identity.matches where is_current order by match_id"
    kept = _rows(city, found)
    _build(city, "--full-refresh")
    assert _rows(city, found) == kept
    assert _customer(city, "later") == _customer(city, "c30")


def test_who_is_likely_the_same_is_in_a_group_and_in_the_queue_and_nothing_more(city: Home) -> None:
    pair = "(left_record, right_record) = ('crm_contacts:c60', 'crm_contacts:maybe')"
    found = _rows(city, f"select grade, match_probability from identity.matches where is_current and {pair}")
    [(grade, probability)] = found
    assert grade == "lifecycle" and 0.95 <= probability < 0.999
    two = {_customer(city, "maybe"), _customer(city, "c60")}
    assert len(two) == 2
    groups = dict(_rows(city, "select customer_id, group_id from identity.groups where grade = 'lifecycle'"))
    assert two <= set(groups) and len({groups[customer] for customer in two}) == 1
    queue = _rows(city, "select left_customer_id, right_customer_id, match_probability from identity.reviews")
    assert [shown for one, other, shown in queue if {one, other} == two] == [probability]


def test_a_correction_takes_the_match_back(city: Home) -> None:
    corrected = _contact(
        30, contact_id="later", email="ellen.ingram30@example.org", first_name="Walter", birth_date="1931-03-03",
        address="1 High Street", postal_code="BD1 1AA", updated_at="2026-02-01T00:00:00",
    )  # fmt: skip
    _add(city, "c", [corrected])
    assert _customer(city, "later") != _customer(city, "c30")
    ours = "is_current and 'crm_contacts:later' in (left_record, right_record) and grade = 'transactional'"
    assert _rows(city, f"select count(*) from identity.matches where {ours}") == [(0,)]


@pytest.fixture
def asked(city: Home) -> Callable[..., dict]:
    def command(*arguments: str) -> dict:
        done = CliRunner().invoke(main, ["--home", str(city.path), *arguments, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.output)

    return command


def test_a_model_is_trained_anew_on_request_and_weighs_everything_by_itself(city: Home, asked: Callable) -> None:
    made_by = _rows(city, "select distinct matched_by from identity.matches where is_current")
    found = asked("identity", "train")
    assert found["profiles"] == 205 and model_file(city).stat().st_mode & 0o777 == 0o600
    assert not made_by[0][0].startswith(found["version"])
    _build(city)
    [(now,)] = _rows(city, "select distinct matched_by from identity.matches where is_current")
    assert now.startswith(found["version"])
    assert _customer(city, "again") == _customer(city, "c7")


def test_another_threshold_acts_on_the_next_refresh_without_a_new_record(city: Home) -> None:
    sure = "select count(*) from identity.matches where is_current and grade = 'transactional'"
    (before,) = _rows(city, sure)[0]
    (city.path / "identity.yaml").write_text("matching: {transactional: 0.999999999999}\n")
    try:
        _build(city)
        assert _rows(city, sure)[0][0] < before
    finally:
        (city.path / "identity.yaml").unlink()
    _build(city)
    assert _rows(city, sure)[0][0] == before


def test_other_thresholds_are_tried_on_a_copy(city: Home, asked: Callable, tmp_path: Path) -> None:
    rules = tmp_path / "surer.yaml"
    rules.write_text("matching: {transactional: 0.999999999999}\n")
    found = asked("identity", "what-if", str(rules))
    assert found["moves"]["customers_split"] == 1 and found["moves"]["pairs_gained"] == 0 < found["moves"]["pairs_lost"]
    assert _customer(city, "again") == _customer(city, "c7")


def test_matching_that_is_switched_off_merges_nobody(city: Home) -> None:
    (city.path / "identity.yaml").write_text("matching: {enabled: false}\n")
    try:
        _build(city)
        assert _customer(city, "again") != _customer(city, "c7")
        assert _rows(city, "select count(*) from identity.matches where is_current") == [(0,)]
    finally:
        (city.path / "identity.yaml").unlink()


def test_too_few_profiles_are_left_alone_and_said_so_on_request(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    _add(home, "a", [_contact(n) for n in range(5)])
    assert _rows(home, "select count(*) from identity.matches") == [(0,)]
    done = CliRunner().invoke(main, ["--home", str(home.path), "identity", "train"])
    assert done.exit_code == 1 and "5 profiles are too few" in done.output
