"""CRM, marketing and messaging tools, through drt-core's destinations (https://github.com/drt-hub/drt)."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import jinja2
from drt.config.base import RateLimitConfig, RetryConfig
from drt.config.sync_options import SyncOptions
from drt.connectors.registry import destination_config_class, get_destination
from drt.templates.renderer import render_template
from jinja2 import nodes
from pydantic import PrivateAttr

from dagster_project.lib.delivery.destination import (
    ACCEPTED,
    Operation,
    Outcome,
    Refused,
    Result,
    Row,
    Semantics,
    Unavailable,
    rejected,
    try_again,
)

# What a row that is sent twice does there, by drt's type and its settings; None: what the file says. Left out are those that
# Onefold has a kind of its own for, conversions for advertising, and Salesforce's, as drt does not say there which row failed.
_SEMANTICS: dict[str, Callable[[Any], Semantics | None]] = {
    "hubspot": lambda config: "set",
    "intercom": lambda config: "set",
    "zendesk": lambda config: "set",
    "klaviyo": lambda config: "set" if config.endpoint == "profile" else "deduplicates",
    "amplitude": lambda config: "set" if config.endpoint == "identify" else "deduplicates",
    "mixpanel": lambda config: "set" if config.endpoint == "people_set" else "deduplicates",
    "airtable": lambda config: "set" if config.primary_key else "appends",
    "rest_api": lambda config: None,
    **dict.fromkeys(("sendgrid", "twilio", "slack", "teams", "discord", "notion", "jira", "linear"), lambda config: "appends"),
}
TYPES = tuple(sorted(_SEMANTICS))

_TOGETHER = {"zendesk", "airtable", "amplitude", "mixpanel", "rest_api"}  # may put several rows into one request
_AT_ONCE = 10  # rows between two looks at whether the tool still answers
_TRUTH: dict[str, tuple[Any, Any]] = {"hubspot": ("false", "true")}  # its API has text for all properties; else JSON's own

_NOT_TAKEN = {425, 429, 503}  # what these answer was not worked on (RFC 6585, 8470, 9110)
_UNCONNECTED = re.compile(
    r"connection refused|name or service not known|name resolution|no route to host|network is unreach", re.I
)


@dataclass(frozen=True)
class Setting:
    """What a file says of a tool, as drt has understood it."""

    config: Any
    semantics: Semantics


def setting(given: Mapping[str, Any], semantics: Semantics | None, membership: str | None, key: Sequence[str]) -> Setting:
    """Check a tool's part of a destination's file.

    Args:
        given: in drt's own schema; `{env: NAME}` for a secret is drt's `<key>_env: NAME`.
        semantics: what a row sent twice does, for a REST API.
        membership: the column that says whether somebody is a member.
        key: columns that a removal has besides it.

    Raises:
        ValueError: says which key is wrong.
    """
    kind = given.get("type")
    if kind not in _SEMANTICS:
        raise ValueError(f"destination.type: Onefold sends through drt's {', '.join(TYPES)}, not '{kind}'")
    for name in ("retry", "rate_limit"):
        if name in given:
            raise ValueError(f"destination.{name}: is Onefold's to keep; use `retries` and `rate`")
    model = destination_config_class(kind)
    found = _with_environment(given)
    try:
        config = model.model_validate(found)
    except ValueError as error:
        raise ValueError(f"destination: {_problems(error)}") from None
    _check_known("destination", found, model)
    _check_secrets("destination", found, model)
    if isinstance(found.get("auth"), dict):
        _check_known("destination.auth", found["auth"], type(config.auth))
        _check_secrets("destination.auth", found["auth"], type(config.auth))
    known = _SEMANTICS[kind](config)
    if known is not None and semantics not in (None, known):
        raise ValueError(f"semantics: {kind} {_says(known)}, whatever is written here")
    semantics = known or semantics or "appends"
    if kind == "rest_api" and semantics == "deduplicates" and not config.native_idempotency_key:
        named = "-".join(f"{{{{ row['{name}'] }}}}" for name in key)
        config = config.model_copy(update={"native_idempotency_key": f"{{{{ sync_name }}}}-{named}"})
    for name, text in _templates(config):
        _check_template(f"destination.{name}", name, text)
        if membership and not re.search(rf"\b{re.escape(membership)}\b", text) and name in _JSON:
            raise ValueError(f"destination.{name}: does not say '{membership}', so that nobody would learn who left")
    if membership:
        leaving = {**dict.fromkeys(key, "x"), membership: False}
        if fault := _unfit(config, leaving):
            raise ValueError(
                f"destination: {fault} for somebody who leaves, of whom only {', '.join(leaving)} are known; put what is for "
                f"members only between {{% if row.{membership} %}} and {{% endif %}}"
            )
    return Setting(config, semantics)


class Tool:
    """A tool of drt's. Who leaves is updated there with `membership` false, or nothing is sent; nobody is deleted.

    One that appends gets each member as a batch of one row, since what was sent cannot be taken back, and nothing of who
    changes.

    Args:
        membership: the column, which no row has, that is true of members and false of who left.
        rate: rows a second at most; by default drt's 10, or the tool's own limit if that is lower.
    """

    def __init__(
        self,
        given: Setting,
        columns: tuple[str, ...],
        keyed_by: tuple[str, ...],
        batch_size: int,
        membership: str | None = None,
        rate: float | None = None,
    ) -> None:
        self.columns, self.keyed_by, self.semantics = columns, keyed_by, given.semantics
        self.batch_size = 1 if given.semantics == "appends" else batch_size
        self._config, self._membership = given.config, membership
        has_template = any(name in _JSON for name, _ in _templates(given.config))
        self._false, self._true = _TRUTH.get(given.config.type, (False, True)) if not has_template else (False, True)
        self._destination = get_destination(given.config)
        # A row whose fate is unknown is not sent again by drt where it would be there twice.
        self._requests = _Requests(max_attempts=1 if given.semantics == "appends" else 2)
        self._options = SyncOptions(
            on_error="skip",
            retry=self._requests,
            rate_limit=RateLimitConfig(requests_per_second=rate or 10),
        )

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Send one batch; see Destination.send."""
        is_silent = self._membership is None if operation == "remove" else operation == "update" and self.semantics == "appends"
        if is_silent:
            return Outcome(None, [ACCEPTED] * len(rows))
        told = {self._membership: self._false if operation == "remove" else self._true} if self._membership else {}
        records = [{**row, **told} for row in rows]
        self._options._sync_name = key  # what drt offers templates of idempotency keys
        results: list[Result | None] = [
            rejected(fault) if (fault := _unfit(self._config, record)) else None for record in records
        ]
        fit = [place for place, result in enumerate(results) if result is None]
        at_once = 1 if self.semantics == "appends" else 100 if self._config.type in _TOGETHER else _AT_ONCE
        # One row first: where nobody answers, it alone waits for that.
        for start, end in [(0, 1), *((start, start + at_once) for start in range(1, len(fit), at_once))]:
            places = fit[start:end]
            faults = self._load([records[place] for place in places])
            for number, place in enumerate(places):
                results[place] = faults[number].result if number in faults else ACCEPTED
            last = faults.get(len(places) - 1)
            if last and last.is_general:
                is_doubtful = self.semantics == "appends" and not last.is_certain
                if ACCEPTED not in results or is_doubtful:
                    raise last.error
                rest = try_again(last.words)
                return Outcome(None, [result or rest for result in results])
        return Outcome(None, [result or ACCEPTED for result in results])

    def _load(self, records: list[dict[str, Any]]) -> dict[int, "_Fault"]:
        """What went wrong, by the place of the record."""
        if not records:
            return {}
        begun = self._requests.begun
        try:
            answer = self._destination.load(records, self._config, self._options)
        except ValueError as error:  # drt's for what is not configured
            raise Refused(f"{self._config.type}: {error}") from None
        except httpx.HTTPStatusError as error:  # of the request for a token, before any row
            raise _Fault(error.response.status_code, "").error from None
        except httpx.TransportError as error:
            raise Unavailable(f"no access token ({type(error).__name__})", is_certain=True) from None
        faults = {error.batch_index: _Fault(error.http_status, error.error_message) for error in answer.row_errors}
        if len(faults) != answer.failed or answer.success + answer.failed != len(records):
            raise Unavailable(f"drt answered for {answer.success + len(faults)} of {len(records)} rows")
        if len(records) == 1:
            is_unsent = self._requests.begun == begun
            return {place: replace(fault, is_of_row=is_unsent) for place, fault in faults.items()}
        # Of several rows nobody knows whether one without an answer was sent at all, nor who failed a request of many.
        for place, fault in sorted(faults.items()):
            if fault.status is None or (self._config.type in _TOGETHER and not fault.is_general):
                again = self._load([records[place]]).get(0)
                faults.pop(place)
                if again:
                    faults[place] = again
                    if again.is_general:
                        break
        return faults


class _Requests(RetryConfig):
    """drt's settings of retries, which it reads at the beginning of each request; counts how many were begun."""

    _begun: int = PrivateAttr(0)

    @property
    def begun(self) -> int:
        """How many requests were begun."""
        return self._begun

    def __getattribute__(self, name: str) -> Any:
        if name == "initial_backoff":
            self._begun += 1
        return super().__getattribute__(name)


@dataclass(frozen=True)
class _Fault:
    """Why drt could not send a row: the HTTP status if there was an answer, and its text or the error's."""

    status: int | None
    text: str
    is_of_row: bool = False  # no request was made, as the row is not what the tool needs

    @property
    def words(self) -> str:
        """The status, and a code word of the tool's; not its text, which may quote what was sent."""
        if self.is_of_row:
            return re.sub(r"'[^']*'|\"[^\"]*\"", "…", self.text)[:100]
        if self.status is None:
            return "no answer"
        word = re.search(r'"(?:category|code|errorCode|error_code|error|type)"\s*:\s*"?([A-Za-z][\w.-]{2,60})"', self.text)
        return f"HTTP {self.status}" + (f" {word[1]}" if word else "")

    @property
    def is_general(self) -> bool:
        """Whether other rows would fare no better now."""
        if self.is_of_row:
            return False
        return self.status is None or self.status in (401, 403, 408, *_NOT_TAKEN) or self.status >= 500

    @property
    def is_certain(self) -> bool:
        """Whether the row is certainly not there."""
        return self.status in _NOT_TAKEN or (self.status is None and bool(_UNCONNECTED.search(self.text)))

    @property
    def result(self) -> Result:
        return try_again(self.words) if self.is_general else rejected(self.words)

    @property
    def error(self) -> Exception:
        if self.status is not None and 400 <= self.status < 500 and self.status not in (408, *_NOT_TAKEN):
            return Refused(f"the tool answers {self.words}: check its secret, its rights and what `destination` says")
        return Unavailable(self.words, is_certain=self.is_certain)


_JSON = ("properties_template", "custom_fields_template")  # what fills these has to be JSON


def _templates(config: Any) -> Iterator[tuple[str, str]]:
    for name in type(config).model_fields:
        text = getattr(config, name)
        if name.endswith("_template") and isinstance(text, str) and name != "batch_template":
            yield name, text


def _unfit(config: Any, record: Mapping[str, Any]) -> str | None:
    """Why a record does not fill the templates, or None."""
    for name, text in _templates(config):
        try:
            filled = render_template(text, dict(record))
            if name in _JSON and not isinstance(json.loads(filled), dict):
                return f"{name} does not give a JSON object"
        except Exception as error:  # whatever a template raises
            return f"{name} cannot be filled ({type(error.__cause__ or error).__name__})"
    return None


def _check_template(place: str, name: str, text: str) -> None:
    try:
        parsed = jinja2.Environment().parse(text)
    except jinja2.TemplateError as error:
        raise ValueError(f"{place} is no template that Jinja understands: {error}") from None
    if name not in _JSON:
        return
    for output in parsed.find_all(nodes.Output):
        for part in output.nodes:
            is_quoted = isinstance(part, nodes.Filter) and part.name in ("tojson", "tojson_safe")
            if not isinstance(part, nodes.TemplateData | nodes.Const) and not is_quoted:
                raise ValueError(
                    f"{place}: a name with a quotation mark in it would break the JSON or add to it; write "
                    "{{ row.first_name | tojson_safe }} without quotation marks around"
                )


def _with_environment(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with drt's `token_env: NAME` for `token: {env: NAME}`."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and set(value) == {"env"}:
            found[f"{name}_env"] = value["env"]
        else:
            found[name] = _with_environment(value) if isinstance(value, Mapping) else value
    return found


def _check_known(place: str, given: Mapping[str, Any], model: Any) -> None:
    if unknown := sorted(set(given) - set(model.model_fields)):
        raise ValueError(f"{place}.{unknown[0]}: drt knows no such key; it has {', '.join(sorted(model.model_fields))}")


def _check_secrets(place: str, given: Mapping[str, Any], model: Any) -> None:
    for name, value in given.items():
        is_secret = f"{name}_env" in model.model_fields and re.search(r"token|key|secret|password|webhook|^value$", name)
        if value is not None and is_secret:
            raise ValueError(f"{place}.{name}: write {{env: NAME}} and set that environment variable")


def unset(config: Any) -> str | None:
    """The first environment variable that a tool's settings name and that is not set."""
    for name in config.model_fields_set:
        value = getattr(config, name)
        if name.endswith("_env") and isinstance(value, str) and not os.environ.get(value):
            return value
        if name == "auth" and value is not None and (found := unset(value)):
            return found
    return None


def _problems(error: Exception) -> str:
    errors = getattr(error, "errors", list)()
    told = [
        f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}".removeprefix(": ") for one in errors
    ]
    return "; ".join(told) or str(error)


def _says(semantics: Semantics) -> str:
    return {"set": "holds each once", "deduplicates": "knows each again", "appends": "has what is sent twice twice"}[semantics]
