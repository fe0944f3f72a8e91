"""A home's settings: defaults, and errors that name file and key."""

import re

import pytest

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.settings import Settings


def test_without_a_file_the_defaults_hold(home):
    given = Settings.of(home)
    assert (given.base_currency, given.default_region, given.default_time_zone) == ("CNY", "CN", "UTC")


def test_an_empty_file_changes_nothing(home):
    (home.path / "onefold.yaml").write_text("# nothing yet\n")
    assert Settings.of(home) == Settings()


def test_a_setting_overrides_only_itself(home):
    (home.path / "onefold.yaml").write_text("base_currency: EUR\n")
    assert Settings.of(home) == Settings(base_currency="EUR")


WRONG = {
    "unknown key": ("base_curency: EUR", "base_curency", "Known settings: base_currency, "),
    "no currency code": ("base_currency: euro", "base_currency", "Known settings"),
    "no region": ("default_region: XX", "default_region", "is not an ISO 3166-1 region such as CN, US or GB"),
    "no time zone": (
        "default_time_zone: Mars/Olympus",
        "default_time_zone",
        "is not an IANA time zone such as Asia/Shanghai",
    ),
    "wrong type": ("landing_settle_seconds: soon", "landing_settle_seconds", "Known settings"),
    "out of bounds": ("serving_keep_versions: 0", "serving_keep_versions", "greater than or equal to 1"),
    "no mapping": ("- base_currency", "onefold.yaml", "Known settings"),
    "bad syntax": ("base_currency: [", "onefold.yaml", "not valid YAML"),
}


@pytest.mark.parametrize("text, key, remedy", WRONG.values(), ids=WRONG)
def test_a_wrong_setting_names_file_key_and_remedy(home, text, key, remedy):
    file = home.path / "onefold.yaml"
    file.write_text(text)
    with pytest.raises(OnefoldError, match=re.escape(key)) as caught:
        Settings.of(home)
    assert str(file) in str(caught.value)
    assert remedy in str(caught.value)
