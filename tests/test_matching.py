"""Probabilistic matching: who may be taken for one person, who must not, and that it does not depend on the batches."""

import os
import random
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from bench import accuracy
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.identity.backend import DuckDB
from dagster_project.lib.identity.comparable import COLUMNS, prepare
from dagster_project.lib.identity.groups import group
from dagster_project.lib.identity.match import Model, predict, train
from dagster_project.lib.identity.rules import Matching
from simulator.noise import Noise, mistype
from simulator.people import Person, populate
from simulator.vocabulary import NICKNAMES, STREETS, WESTERN_STREETS

MATCHING = Matching()
TRAINED_AT = datetime(2026, 6, 1, tzinfo=UTC)
REAL_DATA = os.environ.get("ONEFOLD_REAL_DATA")
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1000


def profile(profile_id: str, **values: object) -> dict[str, object]:
    return {"profile_id": profile_id, **values}


def described(person: Person) -> dict[str, object]:
    """The person as a careful clerk writes them down."""
    number, chinese = 1 + person.household * 7 % 300, person.is_chinese
    street = (STREETS if chinese else WESTERN_STREETS)[person.household % 7]
    return profile(
        person.person_id,
        first_name=person.given_name,
        last_name=person.family_name,
        gender=person.gender,
        birth_date=person.birth_date,
        address=f"{street}{number}号" if chinese else f"{number} {street}",
        postal_code=f"{person.city.postal_prefix}{person.household % 9}" if person.city.postal_prefix else None,
        city=person.city.local_name,
        country=person.city.country,
        email=person.email,
        phone=person.phone,
    )


def entered_again(person: Person, rng: random.Random, slips: float) -> dict[str, object]:
    """The same person typed in by somebody else: other contacts, another spelling of the name, now and then a slip."""
    row = described(person) | {"profile_id": f"{person.person_id}-again", "email": person.second_email, "phone": None}
    if person.is_chinese and rng.random() < 0.5:
        family, given = person.latin_name.title().split(".")
        names = {"first_name": given, "last_name": family}
        row |= names if rng.random() < 0.5 else {"first_name": None, "last_name": None, "full_name": f"{family} {given}"}
        row["city"] = person.city.name
    elif not person.is_chinese:
        row["first_name"] = NICKNAMES.get(person.given_name, person.given_name)
    if rng.random() < slips and row.get("last_name") and len(str(row["last_name"])) > 4:
        row["last_name"] = mistype("name", str(row["last_name"]), rng)
    if rng.random() < slips and person.birth_date.day <= 12:
        row["birth_date"] = person.birth_date.replace(month=person.birth_date.day, day=person.birth_date.month)
    for column in ("birth_date", "address", "postal_code", "gender", "city"):
        if rng.random() < slips / 2:
            row[column] = None
    return row


def company(people: int, seed: int, duplicates: float, slips: float) -> list[dict[str, object]]:
    """Profiles of one company, families among them; the id says whose each is."""
    rng = random.Random(seed)
    rows = []
    for person in populate(people, 180, seed, START, Noise(shared_device_rate=0.05)):
        rows.append(described(person))
        if rng.random() < duplicates:
            rows.append(entered_again(person, rng, slips))
    return rows


def store(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[dict[str, object]]) -> str:
    rows = list(rows)
    connection.execute(f"create or replace table {table} ({', '.join(f'{name} {type_}' for name, type_ in COLUMNS.items())})")
    columns = [[row.get(name) for row in rows] for name in COLUMNS]
    values = ", ".join(f"unnest(${number}::{type_}[])" for number, type_ in enumerate(COLUMNS.values(), 1))
    connection.execute(f"insert into {table} select {values}", columns)
    return table


def compared(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple]:
    return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def trained() -> tuple[list[dict[str, object]], Model]:
    """A company's profiles, and the model learnt from them."""
    rows = company(600, seed=3, duplicates=0.15, slips=0.1)
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", rows), "prepared")
    return rows, train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT)


def grades(trained: tuple, *added: dict[str, object], matching: Matching = MATCHING) -> dict[tuple[str, str], str]:
    """How pairs of `added` are graded in that company."""
    rows, model = trained
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", [*rows, *added]), "prepared")
    predict(DuckDB(connection), "prepared", model, matching, "pairs")
    ids = [row["profile_id"] for row in added]
    found = connection.execute(
        "select left_id, right_id, grade from pairs where left_id in (select unnest($1)) and right_id in (select unnest($1))",
        [ids],
    ).fetchall()
    return {(left, right): grade for left, right, grade in found}


# Names


@pytest.mark.parametrize(
    ("written", "given", "family"),
    [
        ({"first_name": "小明", "last_name": "王"}, "xiaoming", "wang"),
        ({"full_name": "王小明"}, "xiaoming", "wang"),
        ({"full_name": "王 小明"}, "xiaoming", "wang"),
        ({"full_name": "小明"}, "xiaoming", None),
        ({"full_name": "王先生"}, None, "wang"),
        ({"full_name": "欧阳娜娜"}, "nana", "ouyang"),
        ({"full_name": "曾国藩"}, "guofan", "zeng"),
        ({"full_name": "吕布"}, "bu", "lu"),
        ({"first_name": "Bu", "last_name": "Lü"}, "bu", "lu"),
        ({"first_name": "Xiao Ming", "last_name": "WANG"}, "xiaoming", "wang"),
        ({"full_name": "Xiaoming Wang"}, "xiaoming", "wang"),
        ({"full_name": "MÜLLER, Anna"}, "anna", "muller"),
        ({"full_name": "Dr. Jürgen von der Heide"}, "jurgen", "vonderheide"),
        ({"first_name": "Jean-Pierre", "last_name": "O'Connor"}, "jeanpierre", "oconnor"),
        ({"first_name": "Anna Weiß"}, "anna", "weiss"),
        ({"last_name": "Smith"}, None, "smith"),
        ({"full_name": " "}, None, None),
    ],
)
def test_a_name_is_read_in_one_way_however_it_is_written(
    written: dict[str, str], given: str | None, family: str | None
) -> None:
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", [profile("a", **written)]), "prepared")
    assert compared(connection, "select given, family from prepared") == [(given, family)]


def test_only_changed_profiles_are_prepared_again() -> None:
    connection = duckdb.connect()
    rows = [profile("a", first_name="Anna"), profile("b", first_name="Bea"), profile("c", first_name="Cleo")]
    prepare(connection, store(connection, "profiles", rows), "prepared")
    store(
        connection, "profiles", [profile("a", first_name="Ada"), profile("b", first_name="Bo"), profile("d", first_name="Dora")]
    )
    connection.execute("create table changed as select unnest(['a', 'c', 'd']) as profile_id")
    assert prepare(connection, "profiles", "prepared", changed="changed") == 2
    assert compared(connection, "select profile_id, given from prepared order by 1") == [
        ("a", "ada"),
        ("b", "bea"),
        ("d", "dora"),
    ]


# Who is one person

BORN = date(1988, 3, 5)
HOME = {"address": "长江路45号", "postal_code": "200003", "city": "上海", "country": "CN"}


def test_one_person_in_chinese_and_in_letters_is_accepted(trained: tuple) -> None:
    added = [
        profile("a", first_name="雅琴", last_name="欧阳", birth_date=BORN, gender="female", **HOME),
        profile("b", full_name="Ouyang Yaqin", birth_date=BORN, gender="female", **(HOME | {"city": "Shanghai"})),
    ]
    assert grades(trained, *added) == {("a", "b"): "transactional"}


def test_a_short_form_and_a_swapped_birth_date_are_accepted(trained: tuple) -> None:
    place = {"address": "31 Oak Avenue", "postal_code": "94105", "city": "San Francisco", "country": "US"}
    added = [
        profile(
            "a", first_name="Katherine", last_name="Moreau", birth_date=BORN, gender="female", phone="+14155550101", **place
        ),
        profile("b", first_name="Kate", last_name="Moreau", birth_date=date(1988, 5, 3), phone="+14155550101", **place),
    ]
    assert grades(trained, *added) == {("a", "b"): "transactional"}


def test_twins_at_one_address_are_not_accepted(trained: tuple) -> None:
    shared = {
        "last_name": "王",
        "birth_date": BORN,
        "gender": "male",
        "phone": "+8613812340000",
        "email": "wang.family@qq.com",
        **HOME,
    }
    found = grades(trained, profile("a", first_name="浩然", **shared), profile("b", first_name="子轩", **shared))
    assert found.get(("a", "b")) not in ("transactional", "lifecycle")


def test_father_and_son_of_one_name_at_one_address_are_not_accepted(trained: tuple) -> None:
    shared = {"first_name": "Robert", "last_name": "Moreau", "gender": "male", "phone": "+33612345678", **HOME}
    found = grades(
        trained, profile("a", birth_date=date(1961, 2, 28), **shared), profile("b", birth_date=date(1990, 11, 13), **shared)
    )
    assert found.get(("a", "b")) not in ("transactional", "lifecycle")


def test_a_family_on_one_phone_is_not_accepted(trained: tuple) -> None:
    shared = {"last_name": "陈", "phone": "+8613812340001", **HOME}
    family = [
        profile("a", first_name="伟", **shared),
        profile("b", first_name="秀英", **shared),
        profile("c", first_name="思思", **shared),
    ]
    assert not {"transactional", "lifecycle"} & set(grades(trained, *family).values())


@pytest.mark.parametrize("known", [{}, {"gender": "male"}, {"gender": "male", "postal_code": "100001"}])
def test_chinese_namesakes_in_one_city_are_not_accepted(trained: tuple, known: dict[str, str]) -> None:
    namesakes = [
        profile("a", full_name="张伟", city="北京", phone="+8613911110001", email="zhangwei@qq.com", **known),
        profile("b", full_name="张伟", city="北京", phone="+8613822220002", email="zhangwei@163.com", **known),
    ]
    assert "transactional" not in grades(trained, *namesakes).values()


def test_homophones_in_other_characters_weigh_less_than_the_same_name(trained: tuple) -> None:
    shared = {"birth_date": BORN, "city": "北京", "gender": "female", "last_name": "王"}
    rows = [profile("a", first_name="静怡", **shared), profile("b", first_name="静怡", **shared)]
    rows.append(profile("c", first_name="敬宜", **shared))
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", rows), "prepared")
    predict(DuckDB(connection), "prepared", trained[1], MATCHING, "pairs")
    weights = dict(compared(connection, "select left_id || right_id, match_weight from pairs"))
    assert weights["ab"] - 3 > weights["bc"] == weights["ac"]


def test_the_same_document_outweighs_a_married_name_and_a_wrong_birth_date(trained: tuple) -> None:
    rows = [row | {"document": f"D{number:07d}"} for number, row in enumerate(trained[0][:300])]
    connection = duckdb.connect()
    same = {"document": "X1234567", "gender": "female", **HOME}
    rows += [
        profile("a", first_name="Anna", last_name="Moreau", birth_date=BORN, **same),
        profile("b", first_name="Anna", last_name="Weiß", birth_date=date(1971, 1, 21), **same),
        profile("c", first_name="Otto", last_name="Weiß", birth_date=date(1971, 1, 21), **(same | {"document": "X1234568"})),
    ]
    prepare(connection, store(connection, "profiles", rows), "prepared")
    model = train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT)
    predict(DuckDB(connection), "prepared", model, MATCHING, "pairs")
    found = compared(connection, "select left_id, right_id from pairs where grade = 'transactional' and right_id in ('b', 'c')")
    assert found == [("a", "b")]


@pytest.mark.parametrize("slips", [0.0, 0.1, 0.3])
def test_accepted_pairs_of_a_company_are_right_and_nearly_all(slips: float) -> None:
    """Trained on the very profiles; at all three rates of slips."""
    connection = duckdb.connect()
    rows = company(500, seed=5, duplicates=0.1, slips=slips)
    prepare(connection, store(connection, "profiles", rows), "prepared")
    predict(DuckDB(connection), "prepared", train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT), MATCHING, "pairs")
    accepted = compared(connection, "select left_id, right_id from pairs where grade = 'transactional'")
    right = [pair for pair in accepted if pair[1] == f"{pair[0]}-again"]
    duplicates = sum(str(row["profile_id"]).endswith("-again") for row in rows)
    assert len(right) == len(accepted)
    assert len(right) >= (0.97 - slips / 4) * duplicates


# The model


def test_the_same_profiles_make_the_same_model_in_any_order(trained: tuple) -> None:
    rows, model = trained
    connection = duckdb.connect()
    shuffled = random.Random(1).sample(rows, len(rows))
    prepare(connection, store(connection, "profiles", shuffled), "prepared")
    assert train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT).version == model.version


def test_a_loaded_model_weighs_as_the_saved_one(trained: tuple, tmp_path: Path) -> None:
    rows, model = trained
    model.save(tmp_path / "model.json")
    loaded = Model.load(tmp_path / "model.json")
    assert loaded == model
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", rows), "prepared")
    for name, each in (("first", model), ("second", loaded)):
        predict(DuckDB(connection), "prepared", each, MATCHING, name)
    assert compared(connection, "(from first except from second) union all (from second except from first)") == []


def test_a_model_changed_by_hand_is_refused(trained: tuple, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    trained[1].save(file)
    file.write_text(file.read_text().replace('"profiles"', '"profile"', 1))
    with pytest.raises(OnefoldError, match=r"model\.json: not a matching model"):
        Model.load(file)
    trained[1].save(file)
    file.write_text(file.read_text().replace("same given name", "same name", 1))
    with pytest.raises(OnefoldError, match=f"not that of version {trained[1].version}"):
        Model.load(file)


def test_too_few_profiles_are_refused() -> None:
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", company(60, 1, 0.1, 0)), "prepared")
    with pytest.raises(OnefoldError, match="too few to learn from"):
        train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT)


def test_profiles_without_names_are_refused() -> None:
    connection = duckdb.connect()
    store(connection, "profiles", company(150, 1, 0.1, 0))
    prepare(connection, "select profile_id, email, phone, city from profiles", "prepared")
    with pytest.raises(OnefoldError, match="next to no profile has a name"):
        train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT)


def test_what_nobody_fills_in_is_left_out_and_said() -> None:
    connection = duckdb.connect()
    store(connection, "profiles", company(300, 1, 0.2, 0))
    prepare(connection, "select profile_id, first_name, last_name, birth_date, '' as address from profiles", "prepared")
    model = train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT)
    assert [comparison.name for comparison in model.comparisons] == ["given", "family", "birth_date"]
    assert "email is not compared: 0.0% of profiles have it" in model.notes


def test_thresholds_must_rise() -> None:
    with pytest.raises(ValueError, match="thresholds must rise"):
        Matching(lifecycle=0.4)


# Batches


def test_batches_lead_to_the_same_pairs_as_all_at_once(trained: tuple) -> None:
    """New, changed and gone profiles, with blocks so small that values become too common and uncommon again."""
    rows, model = trained
    matching = Matching(largest_block=8)
    rng = random.Random(7)
    order = rng.sample(rows, len(rows))
    current = {str(row["profile_id"]): row for row in order[:400]}
    waiting = order[400:]
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", current.values()), "prepared")
    predict(DuckDB(connection), "prepared", model, matching, "pairs")
    turned = 0
    for _ in range(4):
        changed = {str(row["profile_id"]): row for row in waiting[:50]}
        waiting = waiting[50:]
        for name in rng.sample(sorted(current), 25):
            changed[name] = current[name] | {"city": "成都", "email": None}
        gone = rng.sample(sorted(set(current) - set(changed)), 60)
        common = set(compared(connection, "select rule, unnest(common).key from pairs_blocking"))
        current = {name: row for name, row in (current | changed).items() if name not in gone}
        store(connection, "profiles", current.values())
        connection.execute("create or replace table changed as select unnest($1::varchar[]) as profile_id", [[*changed, *gone]])
        prepare(connection, "profiles", "prepared", changed="changed")
        predict(DuckDB(connection), "prepared", model, matching, "pairs", changed="changed")
        turned += len(common ^ set(compared(connection, "select rule, unnest(common).key from pairs_blocking")))
        prepare(connection, "profiles", "anew")
        predict(DuckDB(connection), "anew", model, matching, "all_at_once")
        assert compared(connection, "(from pairs except from all_at_once) union all (from all_at_once except from pairs)") == []
        assert compared(connection, "select count(*) from pairs") == compared(connection, "select count(*) from all_at_once")
    assert turned > 10
    assert compared(connection, "select count(*) > 30 from pairs") == [(True,)]


def test_weights_stay_when_a_value_becomes_common(trained: tuple) -> None:
    rows, model = trained
    pair = [
        profile("a", first_name="Zebulon", last_name="Quackenbush", birth_date=BORN, city="Berlin"),
        profile("b", first_name="Zebulon", last_name="Quackenbush", birth_date=BORN, city="Berlin"),
    ]
    others = [profile(f"o{n}", first_name="Zebulon", last_name=f"Other{n}", birth_date=date(1970, 1, 1)) for n in range(80)]
    weights = []
    for added in ([], others):
        connection = duckdb.connect()
        prepare(connection, store(connection, "profiles", [*rows, *pair, *added]), "prepared")
        predict(DuckDB(connection), "prepared", model, MATCHING, "pairs")
        weights += compared(connection, "select match_weight, evidence from pairs where left_id = 'a' and right_id = 'b'")
    assert len(weights) == 2
    assert weights[0] == weights[1]


def test_matching_leaves_nothing_behind_but_its_tables(trained: tuple) -> None:
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", trained[0][:250]), "prepared")
    connection.execute("begin")
    predict(DuckDB(connection), "prepared", train(DuckDB(connection), "prepared", MATCHING, TRAINED_AT), MATCHING, "pairs")
    connection.execute("commit")
    tables = compared(
        connection, "select table_name from duckdb_tables() union select view_name from duckdb_views() where not internal"
    )
    assert {name for (name,) in tables} == {"profiles", "prepared", "pairs", "pairs_blocking"}


def test_another_model_or_setting_makes_all_pairs_anew(trained: tuple) -> None:
    rows, model = trained
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", rows), "prepared")
    predict(DuckDB(connection), "prepared", model, MATCHING, "pairs")
    connection.execute("create table changed as select 'P0000001' as profile_id")
    predict(DuckDB(connection), "prepared", model, Matching(review=0.3), "pairs", changed="changed")
    assert compared(connection, "select min(match_probability) >= 0.3, count(*) > 50 from pairs") == [(True, True)]


def test_values_too_common_are_left_out_and_reported(trained: tuple) -> None:
    rows, model = trained
    names = [f"{one}{two}anna" for one in "BDFGKLMNPRSTVZ" for two in "aeioubdfgklmnprstz"] + ["Xaver"]
    crowd = [profile(f"x{n:03d}", first_name=names[n % len(names)], phone="+8610000000", city="Berlin") for n in range(250)]
    crowd += [profile("y1", first_name="Buanna", phone="+8610000000")]
    connection = duckdb.connect()
    prepare(connection, store(connection, "profiles", rows), "prepared")
    before = {each.rule: each for each in predict(DuckDB(connection), "prepared", model, MATCHING, "pairs")}
    prepare(connection, store(connection, "profiles", [*rows, *crowd]), "prepared")
    blocked = {each.rule: each for each in predict(DuckDB(connection), "prepared", model, MATCHING, "pairs")}
    most = (len(rows) + len(crowd)) * (MATCHING.largest_block - 1) / 2
    assert all(each.comparisons <= most for each in blocked.values())
    assert blocked["phone"].left_out == ()  # with the given name they are few enough
    assert blocked["phone"].comparisons == before["phone"].comparisons + 1
    nameless = [profile(f"z{n:03d}", phone="+8610000000") for n in range(230)]
    prepare(connection, store(connection, "profiles", [*rows, *nameless]), "prepared")
    blocked = {each.rule: each for each in predict(DuckDB(connection), "prepared", model, MATCHING, "pairs")}
    assert blocked["phone"].left_out == (("+8610000000", 230),)


# Public data with known truth


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA, reason="ONEFOLD_REAL_DATA names no folder with the public data sets")
@pytest.mark.parametrize(("name", "published"), [("fake_1000", 0.862), ("febrl3", 0.9954), ("febrl4", 0.9998)])
def test_public_data_are_matched_as_well_as_the_best_published_at_shipped_thresholds(name: str, published: float) -> None:
    """Published: the best F1 over pairs on the curve of Splink's own demonstration of the set, chosen knowing the truth."""
    connection = duckdb.connect()
    accuracy.load(connection, name, Path(str(REAL_DATA)))
    accuracy.match(connection)
    precision, recall, f1 = accuracy.score(connection, "select left_id, right_id from pairs where grade <> 'near_miss'")
    assert round(f1, 4) >= published, f"precision {precision:.4f}, recall {recall:.4f}"
    precision, _, _ = accuracy.score(connection, "select left_id, right_id from pairs where grade = 'transactional'")
    assert precision >= 0.999


# Groups


def pairs_table(connection: duckdb.DuckDBPyConnection, *rows: tuple) -> None:
    connection.execute(
        "create or replace table pairs "
        "(left_id varchar, right_id varchar, match_probability double, grade varchar, contradiction varchar)"
    )
    connection.executemany("insert into pairs values (?, ?, ?, ?, ?)", rows)


def grouped(connection: duckdb.DuckDBPyConnection, grade: str) -> set[frozenset[str]]:
    group(connection, "pairs", MATCHING, grade, "groups")
    return {frozenset(each) for (each,) in compared(connection, "select list(profile_id) from groups group by group_id")}


def test_groups_are_wider_at_looser_thresholds() -> None:
    connection = duckdb.connect()
    pairs_table(
        connection,
        ("a", "b", 0.9999, "transactional", None),
        ("c", "d", 0.97, "lifecycle", None),
        ("e", "f", 0.6, "advertising", None),
    )
    assert grouped(connection, "transactional") == {frozenset("ab")}
    assert grouped(connection, "lifecycle") == {frozenset("ab"), frozenset("cd")}
    assert grouped(connection, "advertising") == {frozenset("ab"), frozenset("cd"), frozenset("ef")}


def test_a_chain_is_cut_at_its_weakest_pair() -> None:
    connection = duckdb.connect()
    links = zip("abcde", "bcdef", [0.99, 0.96, 0.99, 0.96, 0.99], strict=True)
    pairs_table(connection, *((left, right, likely, "lifecycle", None) for left, right, likely in links))
    assert grouped(connection, "lifecycle") == {frozenset("ab"), frozenset("cd"), frozenset("ef")}


def test_a_group_whose_members_agree_stays_whole_although_one_pair_is_missing() -> None:
    connection = duckdb.connect()
    pairs = [(left, right) for left in "abcd" for right in "abcd" if left < right and (left, right) != ("a", "d")]
    pairs_table(connection, *((left, right, 0.98, "lifecycle", None) for left, right in pairs))
    assert grouped(connection, "lifecycle") == {frozenset("abcd")}


def test_a_contradiction_keeps_two_apart_below_advertising() -> None:
    connection = duckdb.connect()
    pairs_table(
        connection,
        ("a", "b", 0.99, "lifecycle", None),
        ("b", "c", 0.99, "lifecycle", None),
        ("a", "c", 0.99, "advertising", "other given name"),
    )
    assert frozenset("abc") not in grouped(connection, "lifecycle")
    assert grouped(connection, "advertising") == {frozenset("abc")}


def test_no_pairs_make_no_groups() -> None:
    connection = duckdb.connect()
    connection.execute(
        "create table pairs (left_id varchar, right_id varchar, match_probability double, grade varchar, contradiction varchar)"
    )
    assert group(connection, "pairs", MATCHING, "advertising", "groups") == 0
