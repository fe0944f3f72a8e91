"""Calls to a platform's HTTP interface, told apart by what may be done next."""

import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dagster_project.lib.delivery.destination import Refused, Unavailable

TIMEOUT = httpx.Timeout(60, connect=10)


def call(client: httpx.Client, method: str, url: str, headers: dict[str, str], body: Any = None) -> tuple[httpx.Response, Any]:
    """One call with a JSON body; returns the response and its body, which is {} where it is no JSON object.

    Raises:
        Unavailable: the connection failed, or a success came without a readable body.
    """
    try:
        response = client.request(method, url, headers=headers, json=body)
    except httpx.RequestError as error:
        is_unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        raise Unavailable(f"no answer ({type(error).__name__})", is_certain=is_unsent) from None
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.is_success and not isinstance(answer, dict):
        raise Unavailable(f"HTTP {response.status_code} without a readable answer")
    return response, answer if isinstance(answer, dict) else {}


def retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait by the header Retry-After, which has seconds or a date (RFC 9110, 10.2.3)."""
    given = response.headers.get("retry-after", "").strip()
    if given.isdigit():
        return float(given)
    try:
        at = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def secret(variable: str, purpose: str) -> str:
    """A secret from the environment.

    Raises:
        Refused: the variable is not set.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise Refused(f"the environment variable {variable} is not set; put {purpose} there and start again")
    return value
