"""Meta Custom Audiences: members added and removed at an audience's users edge.

Sources: https://developers.facebook.com/documentation/ads-commerce/marketing-api/audiences/guides/custom-audiences,
https://developers.facebook.com/documentation/ads-commerce/marketing-api/reference/custom-audience/users,
https://developers.facebook.com/docs/graph-api/overview/rate-limiting (limits and their error codes).
"""

import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import httpx

from dagster_project.lib.delivery import hashing
from dagster_project.lib.delivery.calls import TIMEOUT, call, retry_after, secret
from dagster_project.lib.delivery.destination import (
    ACCEPTED,
    NO_IDENTIFIER,
    Operation,
    Outcome,
    Refused,
    Result,
    Row,
    Unavailable,
    rejected,
    try_again,
)
from dagster_project.lib.errors import OnefoldError

log = logging.getLogger("onefold")

_COLUMNS = {
    "EXTERN_ID": "customer_id",
    "EMAIL": "email",
    "PHONE": "phone",
    "FN": "first_name",
    "LN": "last_name",
    "GEN": "gender",
    "DOBY": "birth_date",
    "DOBM": "birth_date",
    "DOBD": "birth_date",
    "CT": "city",
    "ST": "region",
    "ZIP": "postal_code",
    "COUNTRY": "country",
    "MADID": "madid",
}
COLUMNS = tuple(dict.fromkeys(_COLUMNS.values()))
_USUAL = tuple(column for column in COLUMNS if column != "madid")  # no customer has one unless a model gives it

_BIRTH = ("DOBY", "DOBM", "DOBD")

_OWN = {"EXTERN_ID", "EMAIL", "PHONE", "MADID"}  # that few people share, as they do a country

_LIMIT = 10_000  # entries a request

_RATE_LIMITS = {4, 17, 32, 613, *range(80000, 80015)}
_BUSY = {1, 2, 2650}  # unknown, service down, an audience that is still being updated
_REMEDIES = {
    102: "get a new access token",
    190: "get a new access token; one of a system user does not expire",
    10: "give the token's user the ad account and the app the permission ads_management",
    200: "give the token's user the ad account and the app the permission ads_management",
    294: "give the app the permission ads_management",
    100: "look whether the audience is there and of the subtype CUSTOM",
    1870090: "accept the Custom Audience terms for the ad account's business",
    1713230: "resolve the restriction of the audience in Audience Manager",
    368: "look for a restriction of the account in Business Manager",
}


class CustomAudience:
    """One audience of Meta's, made from a customer file.

    Args:
        audience_id: Meta's number of the audience.
        region: ISO 3166-1 region of phones without a country code.
        columns: which of a customer's are sent; less is allowed, matching is worse then.
        token_env: the environment variable with the access token.
        app_secret_env: the one with the app's secret, where the app demands a proof of it with each call.
        limited_data_use: whether additions are marked so that Meta, which finds out who lives in such a state, limits the
            use of their data by the privacy laws of American states.
    """

    batch_size = _LIMIT
    semantics: Literal["set"] = "set"

    def __init__(
        self,
        *,
        audience_id: str,
        region: str,
        columns: Sequence[str] = _USUAL,
        token_env: str = "META_ACCESS_TOKEN",
        app_secret_env: str | None = None,
        limited_data_use: bool = False,
        version: str = "v25.0",
        endpoint: str = "https://graph.facebook.com",
    ) -> None:
        if unknown := sorted(set(columns) - set(COLUMNS)):
            raise OnefoldError(
                f"Meta audience {audience_id}: Meta takes no {', '.join(unknown)}; it takes {', '.join(COLUMNS)}"
            )
        self.columns = tuple(columns)
        self.keys = tuple(key for key, column in _COLUMNS.items() if column in columns)
        self._audience_id = audience_id
        self._region = region
        self._url = f"{endpoint}/{version}/{audience_id}/users"
        self._token_env, self._app_secret_env = token_env, app_secret_env
        self._limited_data_use = limited_data_use

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=TIMEOUT)

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Add or remove members; see Destination.send. Meta has no use for the key: an audience is a set.

        Meta says roughly how many entries are invalid and names up to 100: those are rejected, and all if it calls all invalid.
        Anybody else counts as added, so that they are removed again, should they have to be.
        """
        found = [(owner, entry) for owner, row in enumerate(rows) for entry in self.entries(row, operation)]
        results: list[list[Result]] = [[] for _ in rows]
        request_id = failure = None
        for start in range(0, len(found), _LIMIT):
            part = found[start : start + _LIMIT]
            try:
                answer = None if failure else self._post(operation, [entry for _, entry in part])
            except (Unavailable, Refused) as error:
                if start == 0:
                    raise
                answer, failure = None, try_again(str(error), getattr(error, "after", None))
            if answer is None:
                settled = [failure] * len(part)
            else:
                request_id = request_id or answer.get("session_id")
                settled = self._settled(answer, [entry for _, entry in part])
            for (owner, _), result in zip(part, settled, strict=True):
                results[owner].append(result)
        return Outcome(str(request_id) if request_id else None, tuple(map(_of_row, results)))

    def prepare(self, row: Row) -> Row | None:
        """What is sent of a row, hashed, or None if nothing identifies the member."""
        same, emails, phones = found = self._hashes(row)
        if not self._made(*found, "add"):
            return None
        values = {column: same[key] or None for key, column in _COLUMNS.items() if key in same}
        birth = [same[key] for key in _BIRTH]
        values |= {"email": emails or None, "phone": phones or None, "birth_date": birth if all(birth) else None}
        return {column: values[column] for column in self.columns}

    def entries(self, row: Row, operation: Operation = "add") -> list[list[str]]:
        """A customer's entries: one, or one for each address where there are several, or none if nothing identifies them."""
        return self._made(*self._hashes(row), operation)

    def _made(self, same: dict[str, str], emails: list[str], phones: list[str], operation: Operation) -> list[list[str]]:
        made = []
        for i in range(max(len(emails), len(phones), 1)):
            values = same | {"EMAIL": emails[i] if i < len(emails) else "", "PHONE": phones[i] if i < len(phones) else ""}
            values = {key: values[key] for key in self.keys}
            if _identifies(values, operation):
                made.append(list(values.values()))
        return made

    def _hashes(self, row: Row) -> tuple[dict[str, str], list[str], list[str]]:
        """What all entries of a customer have, blank where there is nothing; and the hashes of e-mails and of phones."""
        country, birth = hashing.meta_country(row.get("country")), row.get("birth_date")
        if not isinstance(birth, list):  # of a prepared row, the hashes of its parts
            birth = hashing.meta_birth_date(birth) or ("", "", "")
        same = {"EXTERN_ID": str(row.get("customer_id") or ""), "MADID": hashing.meta_mobile_id(row.get("madid")) or ""}
        forms: dict[str, Callable[[str], str | None]] = {
            "FN": hashing.meta_name,
            "LN": hashing.meta_name,
            "GEN": hashing.meta_gender,
            "CT": hashing.meta_city,
            "ST": lambda value: hashing.meta_state(value, country),
            "ZIP": lambda value: hashing.meta_zip(value, country),
            "COUNTRY": hashing.meta_country,
        }
        same |= {key: hashing.hashed(row.get(_COLUMNS[key]), form) or "" for key, form in forms.items()}
        same |= {key: hashing.hashed(part, str) or "" for key, part in zip(_BIRTH, birth, strict=True)}
        emails = hashing.all_hashed(row.get("email"), hashing.meta_email)
        phones = hashing.all_hashed(row.get("phone"), lambda value: hashing.meta_phone(value, self._region))
        return same, emails, phones

    def close(self) -> None:
        """Close the connections."""
        if "_client" in vars(self):
            self._client.close()

    def _settled(self, answer: dict[str, Any], data: list[list[str]]) -> list[Result]:
        """The result of each entry of one request."""
        received, invalid = _number(answer.get("num_received"), len(data)), _number(answer.get("num_invalid_entries"), 0)
        if received < len(data):
            return [try_again(f"Meta received {received} of {len(data)} entries")] * len(data)
        if invalid >= len(data):
            return [rejected("invalid entry")] * len(data)
        if invalid:
            log.warning("Meta calls about %d of %d entries for audience %s invalid", invalid, len(data), self._audience_id)
        named = _texts(answer.get("invalid_entry_samples")) if invalid else set()
        own = [place for place, key in enumerate(self.keys) if key in _OWN]
        return [rejected("invalid entry") if any(entry[i] in named for i in own) else ACCEPTED for entry in data]

    def _post(self, operation: Operation, data: list[list[str]]) -> dict[str, Any]:
        token = secret(self._token_env, "Meta's access token")
        schema: list[str] = list(self.keys)
        payload: list[list[Any]] = list(data)
        if self._limited_data_use and operation != "remove":
            schema, payload = [*schema, "DATA_PROCESSING_OPTIONS"], [[*entry, ["LDU"]] for entry in data]
        body: dict[str, Any] = {
            "payload": {"schema": schema, "is_raw": True, "data": payload},
            "session": {
                # Never one that was used: Meta takes nothing more for a session whose last batch it has.
                "session_id": secrets.randbelow(2**52) + 1,
                "batch_seq": 1,
                "last_batch_flag": True,
                "estimated_num_total": len(data),
            },
        }
        if self._app_secret_env:
            key = secret(self._app_secret_env, "the secret of Meta's app")
            body["appsecret_proof"] = hmac.new(key.encode(), token.encode(), hashlib.sha256).hexdigest()
        method = "DELETE" if operation == "remove" else "POST"
        response, answer = call(self._client, method, self._url, {"Authorization": f"Bearer {token}"}, body)
        if response.is_success:
            return answer
        error = answer["error"] if isinstance(answer.get("error"), dict) else {}
        code, subcode = _number(error.get("code"), 0), _number(error.get("error_subcode"), 0)
        name = f"HTTP {response.status_code}" + (f", code {code}" if code else "") + (f"/{subcode}" if subcode else "")
        if code in _RATE_LIMITS or response.status_code == 429:
            raise Unavailable(f"rate limit ({name})", _regained(response) or retry_after(response), is_certain=True)
        if code in _BUSY or error.get("is_transient") is True or response.status_code >= 500 or response.status_code == 408:
            raise Unavailable(name, retry_after(response))
        advice = (
            _REMEDIES.get(subcode)
            or _REMEDIES.get(code)
            or (_REMEDIES[200] if 200 <= code < 300 else "see Meta's list of error codes")
        )
        raise Refused(f"Meta refuses the audience {self._audience_id} ({name}): {advice}")


def _identifies(values: dict[str, str], operation: Operation) -> bool:
    """Whether Meta can find a person by what is there; to remove somebody, the id they were added with is enough."""
    given = {key for key, value in values.items() if value}
    if given & {"EMAIL", "PHONE", "MADID"} or (operation == "remove" and "EXTERN_ID" in given):
        return True
    return {"FN", "LN"} <= given and bool(given & {"ZIP", "CT", "DOBY"})


def _of_row(results: list[Result]) -> Result:
    """A row's result by those of its entries: it is in once one of them is, and unsettled while any of them is."""
    order = ("try again", "accepted", "rejected")
    return min(results, key=lambda result: order.index(result.status), default=rejected(NO_IDENTIFIER))


def _texts(given: Any) -> set[str]:
    """The texts of a JSON list or object, keys and values: Meta documents both shapes of its samples."""
    found = [*given, *given.values()] if isinstance(given, dict) else given if isinstance(given, list) else []
    return {text for text in found if isinstance(text, str) and text}


def _number(value: Any, default: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return default


def _regained(response: httpx.Response) -> float | None:
    """Seconds until Meta allows calls again, by the header that says how much of each limit is used up."""
    try:
        usage = json.loads(response.headers.get("x-business-use-case-usage", "{}"))
        minutes = [use["estimated_time_to_regain_access"] for uses in usage.values() for use in uses]
        return max(map(float, minutes), default=0) * 60 or None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
