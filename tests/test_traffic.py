"""Who sends a tracker's events: bots by the maintained list, staff and tests by the company's, each value judged once."""

import json
from datetime import datetime
from ipaddress import ip_network

import pytest

from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel, prepare_warehouse
from dagster_project.lib.settings import PRIVATE_IP_RANGES, Settings, TrafficList
from dagster_project.lib.traffic import bot_pattern, device_class, learn_ip_addresses, learn_user_agents, listed_range

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Safari/605.1.15"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
# As the makers of the crawlers and browsers publish them.
BOTS = {
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": False,
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)": False,
    "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)": False,
    "Sogou web spider/4.0(+http://www.sogou.com/docs/help/webmasters.htm#07)": False,
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)": False,
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)": False,
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36": False,
    "python-requests/2.32.3": True,
    "curl/8.5.0": True,
    "okhttp/4.12.0": True,
}
PEOPLE = {
    CHROME: "desktop",
    IPHONE: "mobile",
    f"{IPHONE} MicroMessenger/8.0.42(0x18002a2f) NetType/WIFI Language/zh_CN": "mobile",
    f"{IPHONE} Instagram 308.0.0.11.112": "mobile",
    f"Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) {SAFARI}": "tablet",
    "Mozilla/5.0 (Linux; Android 13; SM-X706B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36": "tablet",
    "Mozilla/5.0 (Linux; Android 13; Pixel 7) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36": "mobile",
    "Mozilla/5.0 (Linux; U; Android 9) AppleWebKit/533.1 Mobile Safari/533.1 SogouMSE,SogouMobileBrowser/5.4.5": "mobile",
    "Mozilla/5.0 (Linux; Android 12) AppleWebKit/537.36 Mobile Safari/537.36 baiduboxapp/13.0": "mobile",
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {SAFARI}": "desktop",
    "Shop/5.1 (Android 15; Mate 70)": "mobile",
    "Shop/3.2 CFNetwork/1410.0.3 Darwin/22.6.0": "mobile",
    "something else": "other",
}


@pytest.mark.parametrize("user_agent, is_library", BOTS.items())
def test_a_bot_is_known_by_the_list(user_agent, is_library):
    pattern, library = bot_pattern(user_agent)
    assert pattern and library == is_library


@pytest.mark.parametrize("user_agent, device", PEOPLE.items())
def test_a_browser_or_app_of_people_is_no_bot_and_has_a_device(user_agent, device):
    assert bot_pattern(user_agent) is None
    assert device_class(user_agent) == device


ADDRESSES = [
    ("203.0.113.7", "203.0.113.0/24"),
    (" 203.0.113.7 ", "203.0.113.0/24"),
    ("203.0.113.7, 10.0.0.1", "203.0.113.0/24"),  # X-Forwarded-For: the first is the visitor's
    ("10.0.0.1, 203.0.113.7", None),
    ("::ffff:203.0.113.7", "203.0.113.0/24"),
    ("2001:DB8:0:0::1", "2001:db8::/32"),
    ("203.0.114.7", None),
    ("2001:db9::1", None),
    ("not an address", None),
    ("203.0.113", None),
]


@pytest.mark.parametrize("given, expected", ADDRESSES)
def test_an_address_lies_in_the_range_that_holds_it(given, expected):
    assert listed_range(given, (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))) == expected


@pytest.fixture
def warehouse(home):
    with home.connect("test") as connection:
        prepare_warehouse(connection, {})
        connection.execute(
            "create temp table seen as select unnest(['curl/8', 'curl/8', $1, '', null]) as user_agent, "
            "unnest(['198.18.7.1', '10.0.0.1', '10.1.0.1', '8.8.8.8', null]) as ip",
            [CHROME],
        )
        yield connection


def test_a_user_agent_is_judged_once(warehouse):
    assert learn_user_agents(warehouse, "seen", ["user_agent"]) == 2
    assert learn_user_agents(warehouse, "seen", ["user_agent"]) == 0
    known = "select given, bot_pattern is not null, device_class from staging._user_agents order by all"
    assert warehouse.execute(known).fetchall() == [(CHROME, False, "desktop"), ("curl/8", True, "other")]


def test_only_listed_addresses_are_kept_and_staff_goes_before_test(warehouse):
    settings = Settings(
        staff_traffic=TrafficList(ip_ranges=["198.18.7.0/24", "10.1.0.0/16"]),
        test_traffic=TrafficList(ip_ranges=PRIVATE_IP_RANGES),
    )
    assert learn_ip_addresses(warehouse, "seen", ["ip"], settings) == 3
    assert learn_ip_addresses(warehouse, "seen", ["ip"], settings) == 0
    assert warehouse.execute("select * from staging._ip_addresses order by all").fetchall() == [
        ("10.0.0.1", "test", "10.0.0.0/8"),
        ("10.1.0.1", "staff", "10.1.0.0/16"),
        ("198.18.7.1", "staff", "198.18.7.0/24"),
    ]


def _build(home: Home, *arguments: str) -> dict[str, str]:
    """Load and build; the traffic of each web event."""
    for channel in load_channels(home).values():
        ingest_channel(home, channel, Settings.of(home))
    select = ["--select", "+cleaned_web_events"] if not arguments else []
    result = dbt.run(
        home, ["build", *select, "--exclude-resource-type", "unit_test", "test", *arguments], as_of=datetime(2026, 1, 1)
    )
    assert result.success, dbt.failures(result)
    with home.connect("test") as connection:
        return dict(connection.execute("select event_id, traffic from cleaned.web_events").fetchall())


def test_other_lists_ask_for_a_full_refresh_which_judges_history_again(home: Home) -> None:
    file = home.landing / "web/events/a.jsonl"
    file.parent.mkdir(parents=True)
    event = {"event_name": "page_viewed", "occurred_at": "2025-03-01T00:00:00Z", "anonymous_id": "a"}
    rows = [
        {"event_id": "crawler", "user_agent": "Googlebot/2.1"},
        {"event_id": "home office", "user_agent": CHROME, "ip": "198.18.7.9"},
        {"event_id": "intranet", "user_agent": CHROME, "ip": "10.0.0.9"},
        {"event_id": "colleague", "user_agent": CHROME, "user_id": "42"},
    ]
    file.write_text("".join(json.dumps({**event, **row}) + "\n" for row in rows))
    before = {"crawler": "bot", "home office": "customer", "intranet": "test", "colleague": "customer"}
    assert _build(home) == before

    (home.path / "onefold.yaml").write_text("staff_traffic: {ip_ranges: [198.18.7.0/24, 10.0.0.0/24], user_ids: [42]}\n")
    with home.connect("test") as connection:  # as an older list would have it
        connection.execute("update staging._user_agents set bot_pattern = null")
    with pytest.raises(OnefoldError, match="onefold refresh --full"):
        _build(home)
    assert _build(home, "--full-refresh") == {
        "crawler": "bot",
        "home office": "staff",
        "intranet": "staff",
        "colleague": "staff",
    }
