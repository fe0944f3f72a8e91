"""HTTP webhook: signed JSON batches, by the Standard Webhooks specification (https://www.standardwebhooks.com)."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx

from dagster_project.lib.delivery.calls import TIMEOUT, retry_after
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

_MISCONFIGURED = {401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 426, 431, 501, 505}
_NOT_TAKEN = {425, 429, 503}  # what these answer was not worked on (RFC 6585, 8470, 9110)
_TEMPORARY = {408, 409, 423, 500, 502, 504}


class Webhook:
    """Posts each batch to one URL.

    Body: `{"operation", "audience", "key", "rows": [...]}`. Headers: `Idempotency-Key` and `webhook-id`, the batch's key;
    `webhook-timestamp`, seconds since 1970; `webhook-signature`, `v1,` and the base64 of the HMAC-SHA-256 of
    `<id>.<timestamp>.<body>` under the secret. An answer of 2xx takes all rows, unless its JSON has `results`: a list of
    `{"index", "status": "rejected" | "try again", "reason", "after"}` for those it did not take.

    Args:
        semantics: what the receiver does with a key that it has seen.
        secret: `whsec_` and base64 of the key, as the specification writes it; any other text is the key itself.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        audience: str,
        columns: tuple[str, ...],
        keyed_by: tuple[str, ...],
        semantics: Semantics,
        batch_size: int,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.url, self.audience, self.headers = url, audience, headers or {}
        self.columns, self.keyed_by, self.semantics, self.batch_size = columns, keyed_by, semantics, batch_size
        self._secret = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
        self._client = httpx.Client(timeout=TIMEOUT, follow_redirects=False)

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Post one batch."""
        body = json.dumps(
            {"operation": operation, "audience": self.audience, "key": key, "rows": list(rows)}, ensure_ascii=False
        ).encode()
        timestamp = str(int(time.time()))
        headers = {
            **self.headers,
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "webhook-id": key,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._secret, key, timestamp, body),
        }
        try:
            response = self._client.post(self.url, content=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unavailable(f"no connection ({type(error).__name__})", is_certain=True) from None
        except httpx.TransportError as error:  # its text could quote what was sent
            raise Unavailable(f"no answer ({type(error).__name__})") from None
        request_id = response.headers.get("x-request-id") or response.headers.get("request-id")
        status = response.status_code
        if response.is_success:
            return Outcome(request_id, _results(response, len(rows)))
        if status in _MISCONFIGURED or response.is_redirect:
            raise Refused(f"the webhook answers {status} {response.reason_phrase}; check its address, rights and batch_size")
        if status in _NOT_TAKEN or status in _TEMPORARY or status >= 500:
            reason = f"the webhook answers {status} {response.reason_phrase}"
            raise Unavailable(reason, retry_after(response), is_certain=status in _NOT_TAKEN)
        return Outcome(request_id, [rejected(f"HTTP {status} for the whole batch")] * len(rows))


def signature(secret: bytes, key: str, timestamp: str, body: bytes) -> str:
    """The signature of a message by Standard Webhooks."""
    digest = hmac.digest(secret, f"{key}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _results(response: httpx.Response, count: int) -> list[Result]:
    results = [ACCEPTED] * count
    try:
        answer = response.json() if response.content else None
    except ValueError:
        return results
    given = answer.get("results") if isinstance(answer, dict) else None
    for one in given if isinstance(given, list) else []:
        index = one.get("index") if isinstance(one, dict) else None
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            raise Unavailable("the webhook's results name a row that was not sent; `index` counts from 0")
        results[index] = _result(one)
    return results


def _result(one: dict[str, Any]) -> Result:
    reason, after = str(one.get("reason") or "no reason given"), one.get("after")
    if one.get("status") == "try again":
        return try_again(reason, float(after) if isinstance(after, int | float) else None)
    return ACCEPTED if one.get("status") == "accepted" else rejected(reason)
