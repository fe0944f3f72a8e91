"""Messages to a team about the change of an audience, through Apprise: WeCom, DingTalk, Feishu, Slack, Teams and others."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from dagster_project.lib.delivery.destination import ACCEPTED, Operation, Outcome, Refused, Row, Unavailable, rejected
from dagster_project.lib.delivery.wording import UNFIT, template

TITLE = "{{ audience }}"
MESSAGE = "{{ count }} {{ 'customer' if count == 1 else 'customers' }} {{ 'entered' if operation == 'add' else 'left' }}"

_NOT_TAKEN = {425, 429, 503}  # what these answer was not worked on (RFC 6585, 8470, 9110)


class Chat:
    """Says how many entered and how many left: one message a batch, whose rows Apprise's service never sees by itself.

    Apprise tells of a failure the HTTP status at most: no Retry-After, nor whether a connection was made. It looks at nothing
    but that status, so that what WeCom, DingTalk and Feishu refuse with a 200 counts as sent.

    Args:
        url: Apprise's, of one service (https://appriseit.com/services/).
        title, message: Jinja templates over `audience`, `operation` (add or remove), `count` and `rows`, the batch's.

    Raises:
        Refused: Apprise knows no such URL, or rows with more than customer ids would go unencrypted.
    """

    semantics: Literal["appends"] = "appends"

    def __init__(
        self,
        url: str,
        audience: str,
        columns: tuple[str, ...],
        keyed_by: tuple[str, ...],
        batch_size: int,
        title: str = TITLE,
        message: str = MESSAGE,
    ) -> None:
        self.columns, self.keyed_by, self.batch_size, self.audience = columns, keyed_by, batch_size, audience
        self._title, self._message = worded(title, message)
        self._apprise = _apprise(url, is_personal=set(columns) != set(keyed_by))

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Say what a batch changes; of members who only changed nothing is said, and an empty message is not sent."""
        if operation == "update":
            return Outcome(None, [ACCEPTED] * len(rows))
        values = {"audience": self.audience, "operation": operation, "count": len(rows), "rows": list(rows)}
        try:
            title, message = self._title(values), self._message(values)
        except UNFIT as error:
            return Outcome(None, [rejected(f"the message cannot be written ({type(error).__name__})")] * len(rows))
        if not message.strip():
            return Outcome(None, [ACCEPTED] * len(rows))
        told = self._apprise.notify(body=message, title=title, body_format="text")
        if told:
            return Outcome(None, [ACCEPTED] * len(rows))
        words = " ".join(entry.message for one in told.results for attempt in one.attempts for entry in attempt.logs)
        found = re.search(r"\berror=(\d{3})\b", words)
        if found is None:
            raise Unavailable("the service did not answer")
        status = int(found[1])
        if status >= 500 or status in _NOT_TAKEN or status == 408:
            raise Unavailable(f"the service answers {status}", is_certain=status in _NOT_TAKEN)
        raise Refused(f"the service answers {status}: check the URL that the environment has, and the message")


def worded(title: str, message: str) -> tuple[Any, Any]:
    """The templates, compiled.

    Raises:
        ValueError: one is wrong; begins with the key that it is.
    """
    made = []
    for key, text in (("title", title), ("message", message)):
        try:
            made.append(template(text, {"audience", "operation", "count", "rows"}))
        except ValueError as error:
            raise ValueError(f"{key} {error}") from error
    return made[0], made[1]


def _apprise(url: str, is_personal: bool) -> Any:
    import apprise

    # Nothing is tried again there: the ledger does, and has it in the log.
    made = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False, default_service_retry=0))
    if not made.add(url) or len(made) != 1:
        raise Refused("Apprise knows no service of that URL; https://appriseit.com/services/ shows how they are written")
    service = made[0]
    plain = (service.protocol,) if isinstance(service.protocol, str) else service.protocol or ()
    is_plain = url.partition("://")[0].lower() in plain
    if is_personal and is_plain and getattr(service, "host", None) not in ("localhost", "127.0.0.1", "::1"):
        raise Refused("the URL's service is not encrypted, and customers' data would go there; use the one that is")
    return made
