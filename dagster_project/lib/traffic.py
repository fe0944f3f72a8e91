"""Who sends a tracker's events beside customers: bots by their user agent, staff and tests by their address.

Like phones, each distinct value is judged once, when it is first ingested, and kept in a small table that SQL joins.
"""

import re
from functools import cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import duckdb

from dagster_project.lib.settings import Settings

# Browsers of people whose name the list takes for the search engine's crawler of the same maker.
_BROWSERS = re.compile(r"SogouMobileBrowser|SogouMSE|SogouSearch", re.IGNORECASE)
_TABLET = re.compile(r"iPad|Tablet|PlayBook|Silk/|Mozilla.*Android(?!.*Mobile)", re.IGNORECASE)
_MOBILE = re.compile(r"Mobi|iPhone|iPod|Android|Dalvik|okhttp|CFNetwork|MicroMessenger|HarmonyOS", re.IGNORECASE)
_DESKTOP = re.compile(r"Windows NT|Macintosh|X11|CrOS", re.IGNORECASE)

Network = IPv4Network | IPv6Network


def bot_pattern(user_agent: str) -> tuple[str, bool] | None:
    """The pattern of the list that a user agent fits, and whether it stands for a mere HTTP library; None for no bot.

    Source of the patterns: the package crawler-user-agents (github.com/monperrus/crawler-user-agents).
    """
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA, is_crawler

    if not is_crawler(user_agent) or _BROWSERS.search(user_agent):
        return None
    fitting = [known for known in CRAWLER_USER_AGENTS_DATA if re.search(known["pattern"], user_agent)]
    return fitting[0]["pattern"], all("http-library" in known.get("tags", []) for known in fitting)


def device_class(user_agent: str) -> str:
    """tablet, mobile, desktop or other, by the words that browsers put into their user agent (MDN's advice: `Mobi`)."""
    for name, words in (("tablet", _TABLET), ("mobile", _MOBILE), ("desktop", _DESKTOP)):
        if words.search(user_agent):
            return name
    return "other"


def listed_range(given: str, networks: tuple[Network, ...]) -> str | None:
    """The first range that holds an address; None where none does or the text is no address.

    Args:
        given: an address, or several as proxies write them, of which the first is the visitor's.
    """
    try:
        address = ip_address(given.split(",")[0].strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return next((str(network) for network in networks if address in network), None)


def learn_user_agents(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str]) -> int:
    """Add the user agents in a relation's columns that `staging._user_agents` does not know yet; returns how many."""
    unknown = _distinct(connection, relation, columns, "anti join staging._user_agents as known using (given)")
    rows = []
    for given in unknown:
        pattern, is_library = bot_pattern(given) or (None, False)
        rows.append((given, pattern, is_library, device_class(given)))
    if rows:
        connection.execute(
            """
            insert into staging._user_agents select unnest(cast($given as varchar[])), unnest(cast($pattern as varchar[])),
                unnest(cast($library as boolean[])), unnest(cast($device as varchar[]))
            """,
            dict(zip(("given", "pattern", "library", "device"), map(list, zip(*rows, strict=True)), strict=True)),
        )
    return len(rows)


def learn_ip_addresses(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str], settings: Settings) -> int:
    """Add the addresses in a relation's columns that lie in a listed range to `staging._ip_addresses`; returns how many.

    Others are not kept: they tell nothing, and an address is personal data. Staff goes before test, so that a
    company may call a private range its office.
    """
    staff, test = _networks(settings.staff_traffic.ip_ranges), _networks(settings.test_traffic.ip_ranges)
    unknown = _distinct(connection, relation, columns, "anti join staging._ip_addresses as known using (given)")
    rows = []
    for given in unknown:
        for traffic, networks in (("staff", staff), ("test", test)):
            if ip_range := listed_range(given, networks):
                rows.append((given, traffic, ip_range))
                break
    if rows:
        connection.execute(
            """
            insert into staging._ip_addresses select unnest(cast($given as varchar[])),
                unnest(cast($traffic as varchar[])), unnest(cast($ip_range as varchar[]))
            """,
            dict(zip(("given", "traffic", "ip_range"), map(list, zip(*rows, strict=True)), strict=True)),
        )
    return len(rows)


def forget_senders(connection: duckdb.DuckDBPyConnection) -> None:
    """Have everything judged again, by newer lists or other settings."""
    connection.execute("delete from staging._user_agents")
    connection.execute("delete from staging._ip_addresses")


def _distinct(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str], known: str) -> list[str]:
    values = " union ".join(f"select {column} as given from {relation}" for column in columns)
    return [g for (g,) in connection.execute(f"select distinct given from ({values}) {known} where given <> ''").fetchall()]


@cache
def _networks(ranges: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(given) for given in ranges)
