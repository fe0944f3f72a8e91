"""Settings of one home: few, with defaults, overridden in `$ONEFOLD_HOME/onefold.yaml`."""

import re
from ipaddress import ip_network
from typing import Literal
from zoneinfo import available_timezones

import phonenumbers
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dagster_project.lib.contracts import YAML_LOADER
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.spark.settings import SparkSettings

# Addresses that no customer's browser shows to a public site: private, loopback, link-local (RFC 1918, 4193, 4291, 3927)
# and those kept for documentation (RFC 5737, 3849).
PRIVATE_IP_RANGES = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "2001:db8::/32",
)


_OF_MODELS = {
    "base_currency",
    "default_region",
    "default_time_zone",
    "session_idle_minutes",
    "session_cut_at_midnight",
    "attribution_lookback_days",
    "campaign_window_days",
    "test_traffic",
    "staff_traffic",
}


class TrafficList(BaseModel):
    """Who is behind events of one kind of traffic; an event that fits any of the lists is of that kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    ip_ranges: tuple[str, ...] = Field((), description="Addresses and ranges in CIDR form, IPv4 or IPv6.")
    email_domains: tuple[str, ...] = Field((), description="Domains of e-mail addresses, with all their subdomains.")
    hosts: tuple[str, ...] = Field((), description="Hosts of the page, with all their subdomains.")
    user_ids: tuple[str, ...] = Field((), description="Accounts.")

    @field_validator("ip_ranges")
    @classmethod
    def _ranges_are_ranges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for given in value:
            try:
                network = ip_network(given.strip())
            except ValueError as error:
                raise ValueError(f"'{given}' is not an address or range such as 203.0.113.0/24: {error}") from error
            if network.prefixlen == 0:
                raise ValueError(f"'{given}' is every address there is; name a smaller range")
        return tuple(given.strip() for given in value)

    @field_validator("email_domains", "hosts")
    @classmethod
    def _names_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(given.strip().lower() for given in value)
        for name in names:
            if not re.fullmatch(r"([a-z0-9_-]+\.)*[a-z0-9_-]+", name):
                raise ValueError(
                    f"'{name}' is not a bare host or domain such as staging.example.com (no @, scheme, port or path)"
                )
        return names


class Cap(BaseModel):
    """Contact pressure: whoever got so many messages in the last days gets no more for now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: int = Field(ge=1, strict=True, description="E-mails and text messages, those that came back not counted.")
    within_days: int = Field(ge=1, le=90, strict=True)


class Settings(BaseModel):
    """What differs from company to company."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_currency: str = Field("CNY", pattern="^[A-Z]{3}$", description="Amounts are converted to this currency (ISO 4217).")
    default_region: str = Field("CN", description="Phones without a country code belong to this region (ISO 3166-1).")
    default_time_zone: str = Field("UTC", description="Times without a zone are in this one, unless their source says.")
    session_idle_minutes: int = Field(30, ge=1, le=1440, description="A longer pause between two events ends the session.")
    session_cut_at_midnight: bool = Field(False, description="Whether midnight on the visitor's clock ends it, too.")
    attribution_lookback_days: int = Field(
        90,
        ge=1,
        le=365,
        description="A purchase is credited to touchpoints of so many days before it; Google Analytics has 90.",
    )
    campaign_window_days: int = Field(
        7, ge=1, le=90, description="A purchase within so many days after a campaign's message counts as its conversion."
    )
    test_traffic: TrafficList = Field(
        TrafficList(ip_ranges=PRIVATE_IP_RANGES),
        description="Events of the company's own tests; reserved names such as example.com and localhost always are.",
    )
    staff_traffic: TrafficList = Field(TrafficList(), description="Events of the company's own people.")
    legitimate_interest: tuple[str, ...] = Field(
        (), description="Purposes for which who said nothing may be contacted; who objected may not."
    )
    caps: dict[str, Cap] = Field({}, description="By purpose: who got so many messages is in none of its audiences for now.")
    landing_settle_seconds: float = Field(2, ge=0, description="A landed file is read once it is unchanged for so long.")
    serving_keep_versions: int = Field(3, ge=1, description="Older serving versions kept for those who still read them.")
    serving_keep_minutes: float = Field(60, ge=0, description="…and for at least so long after they were replaced.")
    target: Literal["duckdb", "spark"] | None = Field(
        None,
        description="The engine that refreshes build on; by default the one that they were built on before, at first DuckDB.",
    )
    spark: SparkSettings = SparkSettings()

    @field_validator("test_traffic", mode="before")
    @classmethod
    def _private_addresses_unless_others_are_named(cls, value: object) -> object:
        return {"ip_ranges": PRIVATE_IP_RANGES, **value} if isinstance(value, dict) else value

    @field_validator("legitimate_interest")
    @classmethod
    def _purposes_are_named_one_by_one(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for purpose in value:
            if purpose == "any" or not re.fullmatch("[a-z][a-z0-9_]*", purpose):
                raise ValueError(f"'{purpose}' is not a purpose such as service; name each, in lower case")
        return value

    @field_validator("caps")
    @classmethod
    def _purposes_are_names(cls, value: dict[str, Cap]) -> dict[str, Cap]:
        for purpose in value:
            if not re.fullmatch("[a-z][a-z0-9_]*", purpose):
                raise ValueError(f"'{purpose}' is no purpose of an audience, such as marketing")
        return value

    @field_validator("default_region")
    @classmethod
    def _region_exists(cls, value: str) -> str:
        if value not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError("is not an ISO 3166-1 region such as CN, US or GB")
        return value

    @field_validator("default_time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("is not an IANA time zone such as Asia/Shanghai")
        return value

    @property
    def of_models(self) -> dict:
        """Those that tables are built with, dbt's variables of the same names: a change asks for a full refresh."""
        return self.model_dump(mode="json", include=_OF_MODELS)

    @classmethod
    def of(cls, home: Home) -> "Settings":
        """Read a home's settings.

        Raises:
            OnefoldError: a key is unknown or a value wrong; names file, key and remedy.
        """
        file = home.path / "onefold.yaml"
        try:
            given = yaml.load(file.read_text(), YAML_LOADER) if file.exists() else {}
            return cls.model_validate(given or {})
        except yaml.YAMLError as error:
            raise OnefoldError(f"{file}: not valid YAML: {error}") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise OnefoldError(f"{file}: {problems}. Known settings: {', '.join(cls.model_fields)}") from error
