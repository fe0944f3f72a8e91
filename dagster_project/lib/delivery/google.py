"""Google Customer Match, through the Data Manager API or, for developer tokens that still may, the older Google Ads API.

Sources: https://developers.google.com/data-manager/api/reference/rest/v1/audienceMembers/ingest,
https://developers.google.com/data-manager/api/devguides/concepts/understand-errors, …/devguides/limits;
https://developers.google.com/google-ads/api/reference/rpc/latest/OfflineUserDataJobService.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import google.auth.credentials
import google.auth.exceptions
import google.oauth2.credentials
import google.oauth2.service_account
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

COLUMNS = ("email", "phone", "first_name", "last_name", "postal_code", "country")

Consent = Literal["granted", "denied"]

_ROUNDS = 10  # requests that one send may spend on leaving out the rows that Google names


class DataManager:
    """An audience of Google's, fed through the Data Manager API.

    A request with one bad row fails as a whole there, without effect, and names the row: it is rejected and the others are sent
    again. An accepted row is one that Google took; what matching made of it comes later, by `status`.

    Args:
        account_id: the Google Ads account that has the audience (its dashes do not matter).
        audience_id: the user list's number.
        region: ISO 3166-1 region of phones without a country code.
        ad_user_data, ad_personalization: what the members of this audience consented to, as it is told to Google.
        columns: which of a customer's are sent; less is allowed, matching is worse then.
        terms_accepted: whether the company accepted Google's Customer Match policy.
        login_account_id: the manager account that the credentials belong to, where it is another.
        credentials_env: the environment variable with the path or the text of Google credentials in JSON.
    """

    batch_size = 10_000
    semantics: Literal["set"] = "set"
    identifiers = 10  # the most of one member

    def __init__(
        self,
        *,
        account_id: str,
        audience_id: str,
        region: str,
        ad_user_data: Consent,
        ad_personalization: Consent,
        terms_accepted: bool,
        columns: Sequence[str] = COLUMNS,
        login_account_id: str | None = None,
        credentials_env: str = "GOOGLE_APPLICATION_CREDENTIALS",
        endpoint: str = "https://datamanager.googleapis.com",
    ) -> None:
        _require_consent(audience_id, ad_user_data, ad_personalization)
        self.columns = _known(audience_id, columns)
        if not terms_accepted:
            raise OnefoldError(f"Google audience {audience_id}: accept Google's Customer Match policy and set terms_accepted")
        self._audience_id, self._region, self._endpoint = audience_id, region, endpoint
        self._destination = {"operatingAccount": _account(account_id), "productDestinationId": str(audience_id)}
        if login_account_id:
            self._destination["loginAccount"] = _account(login_account_id)
        self._consent = {
            "adUserData": f"CONSENT_{ad_user_data.upper()}",
            "adPersonalization": f"CONSENT_{ad_personalization.upper()}",
        }
        self._google = _Google(credentials_env, "https://www.googleapis.com/auth/datamanager")

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Add or remove members; see Destination.send. Google has no use for the key: an audience is a set."""
        members = [self.member(row) for row in rows]
        results: list[Result | None] = [None if member else rejected(NO_IDENTIFIER) for member in members]
        request_id = None
        verb = "remove" if operation == "remove" else "ingest"
        for _ in range(_ROUNDS):
            pending = [i for i, result in enumerate(results) if result is None]
            if not pending:
                break
            body = self._body(operation, [members[i] for i in pending])
            response, answer = self._google.call("POST", f"{self._endpoint}/v1/audienceMembers:{verb}", body)
            request_id = _request_id(answer) or request_id
            if response.is_success:
                for i in pending:
                    results[i] = ACCEPTED
                break
            at_fault = _rows_at_fault(answer, len(pending))
            if not at_fault:
                raise _refusal(f"the audience {self._audience_id}", response, answer)
            for place, reason in at_fault.items():
                results[pending[place]] = rejected(reason)
        rest = try_again("more rows at fault than Google named in ten answers", 0)
        return Outcome(request_id, tuple(result or rest for result in results))

    def prepare(self, row: Row) -> Row | None:
        """What is sent of a row, hashed, or None if nothing identifies the member."""
        return _prepared(row, self.columns, self._region)

    def member(self, row: Row) -> dict[str, Any] | None:
        """A customer as Google's AudienceMember, or None if nothing identifies them."""
        found = [
            {{"email": "emailAddress", "phone": "phoneNumber", "address": "address"}[kind]: value}
            for kind, value in _identifiers(row, self._region)
        ]
        return {"userData": {"userIdentifiers": found[: self.identifiers]}} if found else None

    def status(self, request_id: str) -> dict[str, Any]:
        """What became of an accepted request: `status` (PROCESSING, SUCCESS, PARTIAL_SUCCESS, FAILURE), how many records were
        received, errors and warnings by Google's reason, and the range of the match rate, once it is known.

        Raises:
            Unavailable: Google does not answer now.
        """
        url = f"{self._endpoint}/v1/requestStatus:retrieve?requestId={quote(request_id)}"
        response, answer = self._google.call("GET", url)
        if not response.is_success:
            raise _refusal(f"the status of request {request_id}", response, answer)
        found = next(iter(answer.get("requestStatusPerDestination") or []), {})
        counts = {
            name: {one["reason"]: int(one["recordCount"]) for one in (found.get(f"{kind}Info") or {}).get(f"{kind}Counts", [])}
            for name, kind in (("errors", "error"), ("warnings", "warning"))
        }
        ingested = (found.get("audienceMembersIngestionStatus") or {}).get("userDataIngestionStatus") or {}
        removed = (found.get("audienceMembersRemovalStatus") or {}).get("userDataRemovalStatus") or {}
        return {
            "status": found.get("requestStatus", "PROCESSING"),
            "records": int((ingested or removed).get("recordCount", 0)),
            "match_rate": ingested.get("uploadMatchRateRange"),
            **counts,
        }

    def close(self) -> None:
        """Close the connections."""
        self._google.close()

    def _body(self, operation: Operation, members: list[dict[str, Any] | None]) -> dict[str, Any]:
        body: dict[str, Any] = {"destinations": [self._destination], "audienceMembers": members, "encoding": "HEX"}
        if operation != "remove":
            body["consent"] = self._consent
            body["termsOfService"] = {"customerMatchTermsOfServiceStatus": "ACCEPTED"}
        return body


class GoogleAds:
    """The same audience through the Google Ads API: each `send` is an OfflineUserDataJob, made, filled and started.

    Since April 2026 Google takes this only from developer tokens that used it before. Arguments as for DataManager;
    developer_token_env names the environment variable with the developer token.
    """

    batch_size = 5_000  # Google takes 100,000 identifiers a request
    semantics: Literal["set"] = "set"
    identifiers = 20  # the most of one operation

    def __init__(
        self,
        *,
        account_id: str,
        audience_id: str,
        region: str,
        ad_user_data: Consent,
        ad_personalization: Consent,
        columns: Sequence[str] = COLUMNS,
        login_account_id: str | None = None,
        credentials_env: str = "GOOGLE_APPLICATION_CREDENTIALS",
        developer_token_env: str = "GOOGLE_ADS_DEVELOPER_TOKEN",
        version: str = "v26",
        endpoint: str = "https://googleads.googleapis.com",
    ) -> None:
        _require_consent(audience_id, ad_user_data, ad_personalization)
        self.columns = _known(audience_id, columns)
        self._audience_id, self._region, self._developer_token_env = audience_id, region, developer_token_env
        self._base = f"{endpoint}/{version}"
        self._customer = f"customers/{_digits(account_id)}"
        self._login_account_id = _digits(login_account_id) if login_account_id else None
        self._consent = {"adUserData": ad_user_data.upper(), "adPersonalization": ad_personalization.upper()}
        self._google = _Google(credentials_env, "https://www.googleapis.com/auth/adwords")

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Add or remove members; see Destination.send. A job that was not started has no effect; a retry makes a new one."""
        members = [self.member(row) for row in rows]
        pending = [i for i, member in enumerate(members) if member]
        results: list[Result] = [ACCEPTED if member else rejected(NO_IDENTIFIER) for member in members]
        if not pending:
            return Outcome(None, tuple(results))
        job = self._create_job(operation, key)
        verb = "remove" if operation == "remove" else "create"
        body = {"enablePartialFailure": True, "operations": [{verb: members[i]} for i in pending]}
        answer = self._post(f"{job}:addOperations", body)
        at_fault = _failed_operations(answer.get("partialFailureError"), len(pending))
        for place, reason in at_fault.items():
            results[pending[place]] = rejected(reason)
        if len(at_fault) < len(pending):
            self._post(f"{job}:run", {})
        return Outcome(job, tuple(results))

    def prepare(self, row: Row) -> Row | None:
        """What is sent of a row, hashed, or None if nothing identifies the member."""
        return _prepared(row, self.columns, self._region)

    def member(self, row: Row) -> dict[str, Any] | None:
        """A customer as the API's UserData, or None if nothing identifies them."""
        found: list[dict[str, Any]] = []
        for kind, value in _identifiers(row, self._region):
            if kind == "address":
                address = {
                    "hashedFirstName": value["givenName"],
                    "hashedLastName": value["familyName"],
                    "countryCode": value["regionCode"],
                    "postalCode": value["postalCode"],
                }
                found.append({"addressInfo": address})
            else:
                found.append({"hashedEmail" if kind == "email" else "hashedPhoneNumber": value})
        return {"userIdentifiers": found[: self.identifiers]} if found else None

    def close(self) -> None:
        """Close the connections."""
        self._google.close()

    def _create_job(self, operation: Operation, key: str) -> str:
        metadata: dict[str, Any] = {"userList": f"{self._customer}/userLists/{self._audience_id}"}
        if operation != "remove":
            metadata["consent"] = self._consent
        job = {
            "type": "CUSTOMER_MATCH_USER_LIST",
            "externalId": str(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)),
            "customerMatchUserListMetadata": metadata,
        }
        answer = self._post(f"{self._customer}/offlineUserDataJobs:create", {"job": job})
        name = answer.get("resourceName")
        if not isinstance(name, str) or not re.fullmatch(r"customers/\d+/offlineUserDataJobs/\d+", name):
            raise Unavailable("an answer without the name of the job")
        return name

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"developer-token": secret(self._developer_token_env, "the developer token of the Google Ads API")}
        if self._login_account_id:
            headers["login-customer-id"] = self._login_account_id
        response, answer = self._google.call("POST", f"{self._base}/{path}", body, headers)
        if not response.is_success:
            raise _refusal(f"the audience {self._audience_id}", response, answer)
        return answer


class _Google:
    """Calls with a Google account's credentials; raises Unavailable for every answer that says later."""

    def __init__(self, credentials_env: str, scope: str) -> None:
        self._credentials_env, self._scope = credentials_env, scope
        self._credentials: google.auth.credentials.Credentials | None = None

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=TIMEOUT)

    def call(
        self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[httpx.Response, dict[str, Any]]:
        headers = dict(headers or {})
        try:
            self._credentials = self._credentials or self._load()
            self._credentials.before_request(self._fetch, method, url, headers)
        except google.auth.exceptions.TransportError:
            raise Unavailable("no answer to the request for an access token", is_certain=True) from None
        except google.auth.exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise Unavailable("no access token now", is_certain=True) from None
            raise Refused(
                f"Google gives no access token ({type(error).__name__}): make new credentials for what "
                f"{self._credentials_env} names, with the scope {self._scope}"
            ) from None
        response, answer = call(self._client, method, url, headers, body)
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            raise Unavailable(_name(response, answer), _pause(response, answer), is_certain=response.status_code == 429)
        return response, answer

    def close(self) -> None:
        if "_client" in vars(self):
            self._client.close()

    def _load(self) -> google.auth.credentials.Credentials:
        given = secret(self._credentials_env, "the path or the text of Google credentials in JSON")
        try:
            info = json.loads(given if given.startswith("{") else Path(given).read_text())
            if info["type"] == "service_account":
                return google.oauth2.service_account.Credentials.from_service_account_info(info, scopes=[self._scope])
            return google.oauth2.credentials.Credentials(
                token=None,
                refresh_token=info["refresh_token"],
                client_id=info["client_id"],
                client_secret=info["client_secret"],
                token_uri=info.get("token_uri", "https://oauth2.googleapis.com/token"),
                scopes=[self._scope],
                quota_project_id=info.get("quota_project_id"),
            )
        except (google.auth.exceptions.GoogleAuthError, ValueError, TypeError, KeyError, OSError) as error:
            raise Refused(
                f"{self._credentials_env} names no Google credentials ({type(error).__name__}): it has to be the path or the "
                "text of a service account's key or of an authorised user's file, in JSON"
            ) from None  # the error's text may quote the key

    def _fetch(
        self, url: str, method: str = "GET", body: Any = None, headers: Any = None, timeout: Any = None, **_: Any
    ) -> Any:
        """How google-auth asks for tokens: through the same client."""
        try:
            response = self._client.request(method, url, content=body, headers=headers)
        except httpx.RequestError as error:
            raise google.auth.exceptions.TransportError(type(error).__name__) from None
        return _TokenAnswer(response)


class _TokenAnswer:
    """An answer as google-auth reads it."""

    def __init__(self, response: httpx.Response) -> None:
        self.status, self.headers, self.data = response.status_code, response.headers, response.content


def _identifiers(row: Row, region: str) -> list[tuple[str, Any]]:
    """Kind and value of everything that identifies a customer; an address only if it is whole."""
    found: list[tuple[str, Any]] = [("email", digest) for digest in hashing.all_hashed(row.get("email"), hashing.google_email)]
    phones = hashing.all_hashed(row.get("phone"), lambda value: hashing.google_phone(value, region))
    found += [("phone", digest) for digest in phones]
    address = {
        "givenName": hashing.hashed(row.get("first_name"), hashing.google_name),
        "familyName": hashing.hashed(row.get("last_name"), hashing.google_name),
        "regionCode": hashing.google_country(row.get("country")),
        "postalCode": hashing.google_postal_code(row.get("postal_code")),
    }
    return [*found, ("address", address)] if all(address.values()) else found


def _prepared(row: Row, columns: Sequence[str], region: str) -> Row | None:
    """A row with its hashes in place of its values, and an address only if it is whole."""
    found = _identifiers(row, region)
    if not found:
        return None
    address = next((value for kind, value in found if kind == "address"), {})
    values = {
        "email": [value for kind, value in found if kind == "email"] or None,
        "phone": [value for kind, value in found if kind == "phone"] or None,
        "first_name": address.get("givenName"),
        "last_name": address.get("familyName"),
        "postal_code": address.get("postalCode"),
        "country": address.get("regionCode"),
    }
    return {column: values[column] for column in columns}


def _known(audience_id: str, columns: Sequence[str]) -> tuple[str, ...]:
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise OnefoldError(
            f"Google audience {audience_id}: Google takes no {', '.join(unknown)}; it takes {', '.join(COLUMNS)}"
        )
    return tuple(columns)


def _require_consent(audience_id: str, ad_user_data: Consent, ad_personalization: Consent) -> None:
    for name, given in (("ad_user_data", ad_user_data), ("ad_personalization", ad_personalization)):
        if given not in ("granted", "denied"):
            raise OnefoldError(f"Google audience {audience_id}: {name} is '{given}'; it has to be granted or denied")
    if ad_user_data == "denied":
        raise OnefoldError(
            f"Google audience {audience_id}: ad_user_data is denied, which forbids sending its members to Google; publish only "
            "who consents, and set it to granted"
        )


def _account(given: str) -> dict[str, str]:
    return {"accountType": "GOOGLE_ADS", "accountId": _digits(given)}


def _digits(given: str) -> str:
    digits = str(given).replace("-", "").strip()
    if not digits.isdigit():
        raise OnefoldError(f"'{given}' is not the number of a Google Ads account, such as 123-456-7890")
    return digits


def _details(answer: dict[str, Any]) -> list[dict[str, Any]]:
    error = answer.get("error")
    found = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in found or [] if isinstance(detail, dict)]


def _detail(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((detail for detail in _details(answer) if str(detail.get("@type", "")).endswith(f".{kind}")), {})


def _request_id(answer: dict[str, Any]) -> str | None:
    metadata = _detail(answer, "ErrorInfo").get("metadata") or {}
    return answer.get("requestId") or _detail(answer, "RequestInfo").get("requestId") or metadata.get("requestId")


def _rows_at_fault(answer: dict[str, Any], count: int) -> dict[int, str]:
    """Google's reason by the place of the row in the request, of a request that failed for single rows."""
    found: dict[int, str] = {}
    for violation in _detail(answer, "BadRequest").get("fieldViolations") or []:
        place = re.search(r"audience_?members\[(\d+)\]", str(violation.get("field", "")), re.I)
        if place and int(place[1]) < count:
            found.setdefault(int(place[1]), _word(violation.get("reason")) or "INVALID_ARGUMENT")
    return found


def _failures(details: Any) -> list[dict[str, Any]]:
    """The single errors of a GoogleAdsFailure."""
    return [
        error
        for detail in details or []
        if str(detail.get("@type", "")).endswith(".GoogleAdsFailure")
        for error in detail.get("errors", [])
    ]


def _failed_operations(status: Any, count: int) -> dict[int, str]:
    """The API's reason by the place of the operation, of a partial failure.

    Raises:
        Unavailable: the failure names no operation, so that nobody knows what was taken.
    """
    if not status:
        return {}
    found: dict[int, str] = {}
    for error in _failures(status.get("details")):
        path = (error.get("location") or {}).get("fieldPathElements") or []
        place = next((int(e.get("index", 0)) for e in path if e.get("fieldName") == "operations"), None)
        if place is not None and place < count:
            found.setdefault(place, _code(error))
    if not found:
        raise Unavailable("a partial failure that names no row")
    return found


def _code(error: dict[str, Any]) -> str:
    kind, value = next(iter((error.get("errorCode") or {}).items()), ("", ""))
    return f"{kind}.{_word(value)}" if _word(value) and re.fullmatch(r"[A-Za-z]+", kind) else "INVALID_ARGUMENT"


def _word(value: Any) -> str | None:
    """A code word of Google's; its texts are not repeated, as they may quote what was sent."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", value) else None


def _name(response: httpx.Response, answer: dict[str, Any]) -> str:
    """An error in Google's code words: HTTP 400, INVALID_ARGUMENT, …"""
    error = answer.get("error") if isinstance(answer.get("error"), dict) else {}
    words = [_word(error.get("status")), _word(_detail(answer, "ErrorInfo").get("reason"))]
    words += [_word(v.get("reason")) for v in _detail(answer, "BadRequest").get("fieldViolations") or []]
    words += [_code(failure) for failure in _failures(_details(answer))]
    return ", ".join([f"HTTP {response.status_code}", *dict.fromkeys(word for word in words if word)])


def _pause(response: httpx.Response, answer: dict[str, Any]) -> float | None:
    """Seconds to wait: by Google's details, else by Retry-After; an hour where the quota of the day is used up."""
    delays = [_detail(answer, "RetryInfo").get("retryDelay")]
    for failure in _failures(_details(answer)):
        delays.append(((failure.get("details") or {}).get("quotaErrorDetails") or {}).get("retryDelay"))
    seconds = [float(d.removesuffix("s")) for d in delays if isinstance(d, str) and re.fullmatch(r"\d+(\.\d+)?s", d)]
    if "PerDay" in str((_detail(answer, "ErrorInfo").get("metadata") or {}).get("quota_limit")):
        seconds.append(3600)
    return max(seconds) if seconds else retry_after(response)


def _refusal(what: str, response: httpx.Response, answer: dict[str, Any]) -> Refused:
    """The error for an answer that no row is to blame for."""
    name = _name(response, answer)
    if "NOT_ALLOWLISTED" in name:
        advice = "this developer token may not use Customer Match in the Google Ads API; use the Data Manager API"
    elif "TERMS" in name:
        advice = "accept the Customer Match terms in the Google Ads account"
    elif response.status_code in (401, 403):
        advice = "give the credentials access to the account and turn the API on in their Google Cloud project"
    else:
        advice = "look whether account and audience are right, and the audience is a Customer Match list of contact data"
    return Refused(f"Google refuses {what} ({name}): {advice}")
