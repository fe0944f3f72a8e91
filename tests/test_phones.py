"""Phones: what becomes E.164, and that SQL's short way for Chinese mobiles is libphonenumber's answer."""

import random
import re
from collections.abc import Iterator

import phonenumbers
import pytest

from dagster_project.lib import phones
from dagster_project.lib.home import PROJECT_ROOT, transaction
from dagster_project.lib.ingest import prepare_warehouse
from dagster_project.lib.phones import e164, learn_phones

# The numbers are examples of libphonenumber's metadata or ranges that regulators keep for drama and documentation.
CASES = [
    ("13800138000", "CN", "+8613800138000"),
    ("138 0013 8000", "CN", "+8613800138000"),
    ("138-0013-8000", "CN", "+8613800138000"),
    ("+86 138 0013 8000", "CN", "+8613800138000"),
    ("86 13800138000", "CN", "+8613800138000"),
    ("008613800138000", "CN", "+8613800138000"),
    ("０１０-12345678", "CN", "+861012345678"),
    ("(010) 1234 5678", "CN", "+861012345678"),
    ("  13800138000  ", "CN", "+8613800138000"),
    ("+86 138 0013 8000", "US", "+8613800138000"),
    ("51234567", "HK", "+85251234567"),
    ("+852 5123 4567", "CN", "+85251234567"),
    ("00852 5123 4567", "CN", "+85251234567"),
    ("(201) 555-0123", "US", "+12015550123"),
    ("1-201-555-0123", "US", "+12015550123"),
    ("07400 123456", "GB", "+447400123456"),
    ("+44 (0)20 7946 0958", "CN", "+442079460958"),
    ("020 7946 0958", "GB", "+442079460958"),
    ("0044 20 7946 0958", "GB", "+442079460958"),
    ("090-1234-5678", "JP", "+819012345678"),
    ("+81 90 1234 5678", "CN", "+819012345678"),
]
JUNK = [
    "", "   ", "n/a", "12", "0", "00000000000", "12345678901", "+", "138001380001", "1380013800", "a@b.example",
    "+999 1234 5678", "+86 138 0013 8000 ext. 5", "(201) 555-0123 x9", "13800138000/13900139000",
]  # fmt: skip


@pytest.mark.parametrize("given, region, expected", CASES)
def test_a_phone_becomes_e164(given, region, expected):
    assert e164(given, region) == expected


@pytest.mark.parametrize("given", JUNK)
def test_what_is_no_phone_of_one_person_becomes_nothing(given):
    assert e164(given, "CN") is None


def chinese_mobile() -> str:
    macros = (PROJECT_ROOT / "dbt" / "macros" / "formats.sql").read_text()
    return re.search(r"macro chinese_mobile\(\).*?return\('(.+?)'\)", macros, re.DOTALL)[1]


def random_numbers(count: int) -> Iterator[str]:
    """Eleven digits as mobiles begin, over all prefixes, half of them of ranges that are in use."""
    digits = random.Random(20261121)
    for _ in range(count):
        yield f"1{digits.randint(0, 999):03d}{digits.randint(0, 9_999_999):07d}"


def test_sql_and_python_take_the_same_numbers_for_chinese_mobiles():
    assert chinese_mobile() == phones._CHINESE_MOBILE


def test_every_number_that_sql_takes_for_a_chinese_mobile_is_the_same_to_libphonenumber():
    pattern, wrong, taken = re.compile(f"^{chinese_mobile()}$"), [], 0
    for number in random_numbers(20_000):
        if not pattern.match(number):
            continue
        taken += 1
        parsed = phonenumbers.parse(number, "CN")
        formatted = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
        if not phonenumbers.is_valid_number(parsed) or formatted != f"+86{number}":
            wrong.append(number)
    assert (wrong, taken > 5_000) == ([], True)


@pytest.mark.parametrize("prefix", ["86", "+86"])
def test_a_chinese_mobile_with_its_country_code_is_the_same_to_libphonenumber(prefix):
    pattern = re.compile(f"^{chinese_mobile()}$")
    mobiles = [number for number in random_numbers(3_000) if pattern.match(number)]
    assert [e164(prefix + number, "CN") for number in mobiles] == [f"+86{number}" for number in mobiles]


@pytest.fixture
def warehouse(home):
    with home.connect("test") as connection:
        prepare_warehouse(connection, {})
        yield connection


def learned(connection, *given: str, region: str = "CN") -> dict[str, str | None]:
    connection.execute("create or replace temp table seen as select unnest(?::varchar[]) as phone", [list(given)])
    learn_phones(connection, "seen", ["phone"], region)
    known = connection.execute("select given, e164 from staging._phones where region = ?", [region]).fetchall()
    assert len(known) == len({g for g, _ in known}), "a spelling is kept once"
    return dict(known)


def test_a_spelling_that_needs_the_numbering_plan_is_kept_with_its_answer(warehouse):
    assert learned(warehouse, "138 0013 8000", "(010) 1234 5678", "00000000000") == {
        "138 0013 8000": "+8613800138000", "(010) 1234 5678": "+861012345678", "00000000000": None,
    }  # fmt: skip


def test_full_width_digits_and_hard_spaces_are_looked_up_too(warehouse):
    assert learned(warehouse, "１３８００１３８０００", "138\u00a00013\u00a08000") == {
        "１３８００１３８０００": "+8613800138000", "138\u00a00013\u00a08000": "+8613800138000",
    }  # fmt: skip


def test_a_spelling_is_looked_up_once(warehouse):
    learned(warehouse, "138 0013 8000")
    assert learned(warehouse, "138 0013 8000", "138 0013 8000") == {"138 0013 8000": "+8613800138000"}


def test_what_sql_reads_by_itself_is_not_looked_up(warehouse):
    assert learned(warehouse, "13800138000", "8613800138000", "+8613800138000", "a@b.example") == {}


def test_each_region_has_its_own_answer_to_a_spelling(warehouse):
    assert learned(warehouse, "020 7946 0958", region="GB") == {"020 7946 0958": "+442079460958"}
    assert learned(warehouse, "020 7946 0958", region="US") == {"020 7946 0958": None}


def test_a_failed_transaction_learns_nothing(warehouse):
    with pytest.raises(ZeroDivisionError), transaction(warehouse):
        learned(warehouse, "138 0013 8000")
        raise ZeroDivisionError
    assert warehouse.execute("select count(*) from staging._phones").fetchone() == (0,)
