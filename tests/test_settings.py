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
    "no window": ("campaign_window_days: 0", "campaign_window_days", "greater than or equal to 1"),
    "no address": (
        "staff_traffic: {ip_ranges: [8.8.8.300]}",
        "staff_traffic.ip_ranges",
        "'8.8.8.300' is not an address or range such as 203.0.113.0/24",
    ),
    "no network": ("staff_traffic: {ip_ranges: [8.8.8.8/24]}", "staff_traffic.ip_ranges", "has host bits set"),
    "everybody": ("test_traffic: {ip_ranges: ['::/0']}", "test_traffic.ip_ranges", "is every address there is"),
    "address for a domain": (
        "staff_traffic: {email_domains: [ann@onefold.dev]}",
        "staff_traffic.email_domains",
        "'ann@onefold.dev' is not a bare host or domain",
    ),
    "page for a host": ("test_traffic: {hosts: ['https://onefold.dev']}", "test_traffic.hosts", "is not a bare host or domain"),
    "unknown list": ("staff_traffic: {ips: [8.8.8.8]}", "staff_traffic.ips", "Extra inputs are not permitted"),
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


def test_lists_of_test_traffic_keep_the_private_ranges_unless_others_are_named(home):
    file = home.path / "onefold.yaml"
    file.write_text("test_traffic: {hosts: [Staging.Onefold.dev], user_ids: [7]}\n")
    given = Settings.of(home).test_traffic
    assert "10.0.0.0/8" in given.ip_ranges
    assert (given.hosts, given.user_ids) == (("staging.onefold.dev",), ("7",))
    file.write_text("test_traffic: {ip_ranges: []}\n")
    assert Settings.of(home).test_traffic.ip_ranges == ()
