"""Destinations of a home: one YAML file each in `$ONEFOLD_HOME/destinations/`, named as the destination."""

import os
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from dagster_project.lib.audiences.form import suggestion
from dagster_project.lib.consent import contact_channels
from dagster_project.lib.contracts import NAME, YAML_LOADER
from dagster_project.lib.delivery.destination import Destination, Semantics
from dagster_project.lib.delivery.sending import Retries, Work
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.settings import Settings

_HERE = ("localhost", "127.0.0.1", "::1")  # this machine: what is sent to it need not be encrypted


class FromEnvironment(BaseModel):
    """A secret, by the name of the environment variable that holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    def read(self, place: str) -> str:
        """The secret.

        Raises:
            OnefoldError: the variable is not set.
        """
        if value := os.environ.get(self.env):
            return value
        raise OnefoldError(f"{place}: the environment variable {self.env} is not set; set it where Onefold runs")


def _check_url(value: str) -> None:
    parts = urlsplit(value)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)):
        raise ValueError("is not an https:// address; http:// is for this machine only")
    if parts.password or parts.username:
        raise ValueError("has credentials in it; use `headers` with {env: NAME}")


def _check_headers(headers: dict[str, Any], remedy: str) -> None:
    for name, given in headers.items():
        if isinstance(given, str) and re.search(r"auth|key|token|secret|cookie|password", name, re.I):
            raise ValueError(f"'{name}' looks like a secret; {remedy}")


class Configured(BaseModel):
    """What every destination's file may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field("", description="For people.")
    audiences: tuple[str, ...] = Field(description="Names of the audiences that go there; none: nothing is sent.")
    columns: dict[str, str] = Field(
        min_length=1, description="column there: column of unified.customers, or audience. A list where the names are the same."
    )
    key: tuple[str, ...] = Field(("customer_id",), min_length=1, description="Columns there that name a row.")
    channel: str | None = Field(None, pattern=NAME, description="Channel that consent is asked for, where it is not the usual.")
    batch_size: int = Field(1_000, ge=1, le=100_000, description="Rows a request.")
    rate: float | None = Field(None, gt=0, description="Requests a second at most.")
    retries: Retries = Field(default_factory=Retries, description="How often and how patiently a batch is tried.")
    on_uncertain: Literal["resend", "hold"] = Field("hold", description="What to do where a batch may come twice.")

    shares_rows: ClassVar[bool] = False  # whether its audiences' rows lie in one place there
    is_advertising: ClassVar[bool] = False  # whether it shows its audiences advertisements: restricted tags may not

    @field_validator("columns", mode="before")
    @classmethod
    def _same_names_may_be_listed(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list) else value

    @field_validator("audiences", "key", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _keys_name_rows(self) -> "Configured":
        for name in self.key:
            if name not in self.columns:
                raise ValueError(f"key: '{name}' is none of the columns; there are {', '.join(self.columns)}")
        if self.shares_rows and len(self.audiences) > 1 and "audience" not in {self.columns[name] for name in self.key}:
            raise ValueError(
                "key: several audiences share this table, and leaving one would remove a customer from all; add a column with "
                "audience to the key, or give each a file and a table of its own"
            )
        return self

    def open(self, home: Home, name: str, audience: str) -> Destination:
        """The destination for one audience.

        Raises:
            OnefoldError: a secret is not in the environment.
        """
        raise NotImplementedError


class FilesConfigured(Configured):
    """Files in a folder, by default of the home, or behind an fsspec URL."""

    kind: Literal["files"]
    url: str | None = Field(None, description="Folder or fsspec URL; a folder for each audience is made in it.")
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    batch_size: int = Field(50_000, ge=1, le=100_000, description="Rows a file.")

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, value: str | None) -> str | None:
        if value and "://" in value and urlsplit(value).password:
            raise ValueError("has a password in it; give credentials by the environment, as the store's library reads them")
        return value

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.files import Files

        folder = self.url.rstrip("/") if self.url else str(home.deliveries / "_destinations" / name)
        if "://" not in folder:
            folder = str(home.path / folder)
        return Files(f"{folder}/{audience}", self.format, tuple(self.columns), self.key, self.batch_size)


class WebhookConfigured(Configured):
    """Signed JSON by HTTP."""

    kind: Literal["webhook"]
    url: str
    secret: FromEnvironment = Field(description="What requests are signed with.")
    headers: dict[str, str | FromEnvironment] = Field({}, description="Further headers, such as Authorization.")
    semantics: Semantics = Field("appends", description="What the receiver does with an Idempotency-Key it has seen.")

    @field_validator("url")
    @classmethod
    def _contact_data_go_encrypted(cls, value: str) -> str:
        _check_url(value)
        return value

    @field_validator("headers")
    @classmethod
    def _secrets_are_not_written_here(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_headers(value, "write {env: NAME} and set that environment variable")
        return value

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.webhook import Webhook

        place = f"destination {name}"
        headers = {key: given if isinstance(given, str) else given.read(place) for key, given in self.headers.items()}
        secret = self.secret.read(place)
        columns = tuple(self.columns)
        return Webhook(self.url, secret, audience, columns, self.key, self.semantics, self.batch_size, headers)


class PostgresConfigured(Configured):
    """A table of a PostgreSQL database."""

    kind: Literal["postgres"]
    dsn: FromEnvironment = Field(description="Connection string: postgresql://user:password@host/database?sslmode=require")
    table: str = Field(pattern=r"^[^.\s]+(\.[^.\s]+)?$", description="Table, with its schema if it has one.")
    shares_rows: ClassVar[bool] = True

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.postgres import PostgresTable

        dsn = self.dsn.read(f"destination {name}")
        return PostgresTable(dsn, self.table, tuple(self.columns), self.key, self.batch_size)


class WarehouseConfigured(Configured):
    """A table `delivered.<name>` of the warehouse."""

    kind: Literal["warehouse"]
    batch_size: int = Field(50_000, ge=1, le=100_000, description="Rows a transaction.")
    shares_rows: ClassVar[bool] = True

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.warehouse_table import WarehouseTable

        return WarehouseTable(home, name, tuple(self.columns), self.key, self.batch_size)


class AdvertisingConfigured(Configured):
    """A list of an advertising platform for each audience; what names a member there is all that was sent of them."""

    audiences: dict[str, str] = Field(description="The number of the platform's list, by audience: {audience: 7712345678}.")
    key: tuple[()] = Field((), description="None: the platform knows no keys.")
    channel: str | None = Field("ads", pattern=NAME, description="Channel that consent is asked for.")
    batch_size: int = Field(10_000, ge=1, le=10_000, description="Rows a request.")
    is_advertising: ClassVar[bool] = True

    @field_validator("audiences", mode="before")
    @classmethod
    def _numbers_are_text(cls, value: Any) -> Any:
        return {name: str(number) for name, number in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _lists_are_not_shared(self) -> "AdvertisingConfigured":
        if len(set(self.audiences.values())) < len(self.audiences):
            raise ValueError("audiences: two have the same list, and leaving one would remove a customer from both")
        return self


class GoogleConfigured(AdvertisingConfigured):
    """Google Customer Match."""

    kind: Literal["google"]
    api: Literal["data_manager", "google_ads"] = Field(
        "data_manager", description="The older one takes no new developer tokens."
    )
    account: str = Field(pattern=r"^[0-9-]+$", description="Google Ads account that has the lists.")
    login_account: str | None = Field(None, pattern=r"^[0-9-]+$", description="Manager account of the credentials.")
    ad_user_data: Literal["granted"] | None = Field(
        None, description="Say `granted` if members consent to Google having their data; told to Google."
    )
    ad_personalization: Literal["granted", "denied"] | None = Field(
        None, description="Say `granted` or `denied`: whether they consent to personalised advertising; told to Google."
    )
    terms_accepted: Literal[True] | None = Field(
        None, description="Say `true` if the company accepted Google's Customer Match policy; told to Google."
    )
    credentials: FromEnvironment = FromEnvironment(env="GOOGLE_APPLICATION_CREDENTIALS")
    developer_token: FromEnvironment = FromEnvironment(env="GOOGLE_ADS_DEVELOPER_TOKEN")
    version: str = Field("v26", pattern=r"^v[0-9]+$", description="Of the Google Ads API; Google ends some each year.")
    columns: dict[str, str] = Field(
        {name: name for name in ("email", "phone", "first_name", "last_name", "postal_code", "country")},
        min_length=1,
        description="What is sent, by Onefold's names.",
    )

    @model_validator(mode="after")
    def _the_company_declares_it(self) -> "GoogleConfigured":
        for name in ("ad_user_data", "ad_personalization", "terms_accepted"):
            if self.audiences and getattr(self, name) is None:
                raise ValueError(f"{name}: has to be declared; {type(self).model_fields[name].description}")
        return self

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery import google

        given: dict[str, Any] = {
            "account_id": self.account,
            "login_account_id": self.login_account,
            "audience_id": self.audiences[audience],
            "columns": tuple(self.columns),
            "region": Settings.of(home).default_region,
            "ad_user_data": self.ad_user_data,
            "ad_personalization": self.ad_personalization,
            "credentials_env": self.credentials.env,
        }
        if self.api == "google_ads":
            destination = google.GoogleAds(**given, developer_token_env=self.developer_token.env, version=self.version)
        else:
            destination = google.DataManager(**given, terms_accepted=self.terms_accepted)
        destination.batch_size = min(self.batch_size, destination.batch_size)
        return destination


class MetaConfigured(AdvertisingConfigured):
    """Meta Custom Audiences."""

    kind: Literal["meta"]
    token: FromEnvironment = FromEnvironment(env="META_ACCESS_TOKEN")
    version: str = Field("v25.0", pattern=r"^v[0-9]+\.[0-9]+$", description="Of the Marketing API; Meta ends some each year.")
    app_secret: FromEnvironment | None = Field(None, description="Where the app demands a proof of its secret.")
    limited_data_use: bool = Field(False, description="Whether Meta is told to limit the use of data of some American states.")
    columns: dict[str, str] = Field(
        {
            name: name
            for name in (
                *("customer_id", "email", "phone", "first_name", "last_name", "gender", "birth_date"),
                *("city", "region", "postal_code", "country"),
            )
        },
        min_length=1,
        description="What is sent, by Onefold's names.",
    )

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.meta import CustomAudience

        destination = CustomAudience(
            audience_id=self.audiences[audience],
            region=Settings.of(home).default_region,
            columns=tuple(self.columns),
            token_env=self.token.env,
            app_secret_env=self.app_secret.env if self.app_secret else None,
            limited_data_use=self.limited_data_use,
            version=self.version,
        )
        destination.batch_size = min(self.batch_size, destination.batch_size)
        return destination


class FromFile(BaseModel):
    """A text, by the name of a file beside the destination's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^[^/\\]+$")


class SmtpConfigured(Configured):
    """An e-mail to each member who is added."""

    kind: Literal["smtp"]
    host: str = Field(description="The mail server that takes messages.")
    port: int | None = Field(None, ge=1, le=65535, description="By default 587, with `tls` 465, with `none` 25.")
    security: Literal["starttls", "tls", "none"] = Field("starttls", description="`none` is for this machine only.")
    username: FromEnvironment | None = None
    password: FromEnvironment | None = None
    sender: str = Field(alias="from", description="Such as Shop <news@example.com>.")
    reply_to: str | None = None
    bounces: str | None = Field(None, description="Address that undeliverable messages go back to; else that of `from`.")
    to: str = Field("email", description="Column with the member's address.")
    subject: str = Field(description="Template of the subject.")
    text: str | FromFile | None = Field(None, description="Template of the plain text.")
    html: str | FromFile | None = Field(None, description="Template of the HTML.")
    unsubscribe: str | None = Field(None, description="Template of the URL that ends such messages, for List-Unsubscribe.")
    batch_size: Literal[1] = Field(1, description="A message is a batch of its own.")

    @model_validator(mode="after")
    def _can_be_sent(self) -> "SmtpConfigured":
        if self.security == "none" and self.host not in _HERE:
            raise ValueError("security: none is for a mail server on this machine only; write starttls or tls")
        if (self.username is None) != (self.password is None):
            raise ValueError("username: a log-in needs both, username and password")
        if self.to not in self.columns:
            raise ValueError(f"to: '{self.to}' is none of the columns; there are {', '.join(self.columns)}")
        if {self.columns[name] for name in self.key} != {"customer_id"}:
            raise ValueError("key: has to be the customer, as one whose key changes would get a second message")
        if not (self.text or self.html):
            raise ValueError("text: a message needs a text, html, or both")
        if self.unsubscribe and not re.match(r"https://|\{\{", self.unsubscribe):
            raise ValueError("unsubscribe: has to be an https:// address")
        self._letter(*("" if isinstance(given, FromFile) else given for given in (self.text, self.html)))
        return self

    def _letter(self, text: str | None, html: str | None) -> Any:
        from dagster_project.lib.delivery.mail import Letter

        return Letter(
            columns=tuple(self.columns),
            to=self.to,
            sender=self.sender,
            subject=self.subject,
            text=text,
            html=html,
            reply_to=self.reply_to,
            unsubscribe=self.unsubscribe,
        )

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.mail import PORTS, Mail, Server

        place = f"destination {name}"
        login = (self.username.read(place), self.password.read(place)) if self.username and self.password else None
        texts = []
        for given in (self.text, self.html):
            try:
                is_file = isinstance(given, FromFile)
                texts.append((home.path / "destinations" / given.file).read_text("utf-8") if is_file else given)
            except OSError as error:
                raise OnefoldError(f"{place}: {error.filename} cannot be read: {error.strerror}") from error
        try:
            letter = self._letter(*texts)
        except ValueError as error:
            raise OnefoldError(f"{place}: {error}") from error
        server = Server(self.host, self.port or PORTS[self.security], self.security, login)
        return Mail(server, letter, audience, tuple(self.columns), self.key, self.bounces)


class AppriseConfigured(Configured):
    """A message to a team that says how many entered and left."""

    kind: Literal["apprise"]
    url: FromEnvironment = Field(description="Apprise's URL of one service; it has the service's key in it.")
    title: str | None = Field(None, description="Template of the title; by default the audience's name.")
    message: str | None = Field(None, description="Template of the message; by default how many entered or left.")
    columns: dict[str, str] = Field({"customer_id": "customer_id"}, min_length=1, description="That `rows` have in templates.")
    batch_size: int = Field(100_000, ge=1, le=100_000, description="Customers a message counts.")
    on_uncertain: Literal["resend", "hold"] = Field("resend", description="A number that is told twice does no harm.")

    @model_validator(mode="after")
    def _can_be_written(self) -> "AppriseConfigured":
        from dagster_project.lib.delivery.chat import worded

        worded(self.title or "", self.message or "")
        return self

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.chat import MESSAGE, TITLE, Chat

        url = self.url.read(f"destination {name}")
        columns = tuple(self.columns)
        return Chat(url, audience, columns, self.key, self.batch_size, self.title or TITLE, self.message or MESSAGE)


class DrtConfigured(Configured):
    """A CRM, marketing or messaging tool, through drt-core."""

    kind: Literal["drt"]
    destination: dict[str, Any] = Field(description="The tool, in drt's own words: `type` and the keys of that type.")
    membership: str | None = Field(
        None, description="Field there that is true of members, false of who left; may have {audience}."
    )
    removes: Literal["ignore"] | None = Field(None, description="`ignore`: who leaves stays there as they are.")
    semantics: Semantics | None = Field(None, description="Of a REST API: what a row that is sent twice does there.")
    batch_size: int = Field(100, ge=1, le=1_000, description="Rows a batch; one where the tool appends.")

    @model_validator(mode="after")
    def _drt_understands(self) -> "DrtConfigured":
        if self.destination.get("type") == "rest_api":
            for key, check in (
                ("url", _check_url),
                ("headers", lambda given: _check_headers(given, "use `auth` with {env: NAME}")),
            ):
                try:
                    check(self.destination.get(key) or ("" if key == "url" else {}))
                except ValueError as error:
                    raise ValueError(f"destination.{key}: {error}") from error
        is_appending = "appends" in [self._setting(audience).semantics for audience in self.audiences or ("audience",)]
        if is_appending and self.membership:
            raise ValueError("membership: nothing can be changed there that was sent; leave it out")
        if not is_appending and not self.membership and not self.removes:
            raise ValueError(
                "membership: name a field that says who is a member, as drt deletes nobody who leaves; or write removes: ignore"
            )
        if self.membership in self.columns:
            raise ValueError(f"membership: '{self.membership}' is one of the columns; give it a name of its own")
        is_told_apart = not self.membership or "{audience}" in self.membership
        if len(self.audiences) > 1 and not is_told_apart and "audience" not in {self.columns[name] for name in self.key}:
            raise ValueError("membership: several audiences would share this field; put {audience} into its name")
        return self

    def _setting(self, audience: str) -> Any:
        from dagster_project.lib.delivery.tool import setting

        return setting(self.destination, self.semantics, self._membership(audience), self.key)

    def _membership(self, audience: str) -> str | None:
        return self.membership.replace("{audience}", audience) if self.membership else None

    def open(self, home: Home, name: str, audience: str) -> Destination:
        from dagster_project.lib.delivery.tool import Tool, unset

        given = self._setting(audience)
        if missing := unset(given.config):
            raise OnefoldError(f"destination {name}: the environment variable {missing} is not set; set it where Onefold runs")
        return Tool(given, tuple(self.columns), self.key, self.batch_size, self._membership(audience), self.rate)


# A new kind of destination is one class here and one that sends.
Kind = Annotated[
    FilesConfigured
    | WebhookConfigured
    | PostgresConfigured
    | WarehouseConfigured
    | GoogleConfigured
    | MetaConfigured
    | SmtpConfigured
    | AppriseConfigured
    | DrtConfigured,
    Field(discriminator="kind"),
]
_ANY = TypeAdapter(Kind)
KINDS: dict[str, type[Configured]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(Kind)[0])
}


def load_destinations(home: Home, audiences: Collection[str], columns: Collection[str]) -> dict[str, Configured]:
    """The destinations of a home, by name.

    Args:
        audiences: names of all that are published.
        columns: of unified.customers.

    Raises:
        OnefoldError: a file is wrong; names file, key and remedy.
    """
    found: dict[str, Configured] = {}
    for file in sorted((home.path / "destinations").glob("*.y*ml")):
        if not re.fullmatch(NAME, file.stem):
            raise OnefoldError(f"{file}: write names of destinations in lower case with underscores")
        if file.stem in found:
            raise OnefoldError(f"{file}: there are two files of this name; keep one")
        found[file.stem] = _read(file, audiences, columns)
    return found


def works(home: Home, destinations: dict[str, Configured]) -> list[Work]:
    """Each audience at each destination, for `send_all`; a destination is opened when it is sent to."""
    return [
        Work(audience, name, partial(each.open, home, name, audience), each.on_uncertain, each.retries, each.rate)
        for name, each in destinations.items()
        for audience in each.audiences
    ]


def _read(file: Path, audiences: Collection[str], columns: Collection[str]) -> Configured:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    except yaml.YAMLError as error:
        raise OnefoldError(f"{file}: not valid YAML: {error}") from error
    kinds = ", ".join(KINDS)
    if not isinstance(content, dict):
        raise OnefoldError(f"{file}: has no keys; onefold new destination NAME --kind KIND writes one (docs/destinations.md)")
    if (kind := content.get("kind")) not in KINDS:
        raise OnefoldError(f"{file}: kind: {f'there is no {kind!r}' if kind else 'is missing'}; there are {kinds}")
    try:
        configured = _ANY.validate_python(content)
    except ValidationError as error:
        problems = "; ".join(f"{_place(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise OnefoldError(f"{file}: {problems}. docs/destinations.md shows every key") from error
    for audience in configured.audiences:
        if audience not in audiences:
            raise OnefoldError(
                f"{file}: audiences: there is no audience '{audience}'; there are {', '.join(sorted(audiences))}"
            )
    if configured.channel and configured.channel not in contact_channels():
        raise OnefoldError(
            f"{file}: channel: there is no channel '{configured.channel}'; there are {', '.join(sorted(contact_channels()))} "
            "(dbt/seeds/contact_channels.csv)"
        )
    known = {"customer_id", "audience", *columns}
    for name, source in configured.columns.items():
        if source not in known or source.startswith("_"):
            raise OnefoldError(
                f"{file}: columns.{name}: unified.customers has no column '{source}': {suggestion(source, sorted(known))}"
            )
    return configured


def _place(loc: tuple) -> str:
    """Where an error is, without the kind that pydantic puts before it."""
    shown = ".".join(str(part) for part in loc[1:] if not str(part).endswith(("Environment", "FromFile")) and part != "str")
    return f"{shown}: " if shown else ""
