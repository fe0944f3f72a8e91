"""What the ledger and a destination agree on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dagster_project.lib.errors import OnefoldError

Operation = Literal["add", "update", "remove"]
Row = Mapping[str, Any]  # a text, number, boolean, null or list of them by column

# What sending a batch twice under one key does: a set holds each row once whatever is sent, another destination knows the key
# again, and one that appends has the rows twice.
Semantics = Literal["set", "deduplicates", "appends"]


@dataclass(frozen=True)
class Result:
    """What became of one row. The reason is in a destination's own code words, never a customer's data."""

    status: Literal["accepted", "rejected", "try again"]
    reason: str | None = None
    after: float | None = None  # seconds that the destination asks to wait before it is tried again


ACCEPTED = Result("accepted")
NO_IDENTIFIER = "no usable identifier"  # why a member is not sent of whom a destination would recognise nothing


def rejected(reason: str) -> Result:
    """The destination does not take this row, however often it is sent; it becomes a dead letter."""
    return Result("rejected", reason)


def try_again(reason: str, after: float | None = None) -> Result:
    """The row was not taken and may be later; of a set also where nobody knows whether it was."""
    return Result("try again", reason, after)


@dataclass(frozen=True)
class Outcome:
    """The answer to one `send`: the destination's name for the request, and a result for each row, in their order."""

    request_id: str | None
    results: Sequence[Result]


class Refused(OnefoldError):  # noqa: N818
    """Nothing of what was sent took effect and no row is to blame: a person has to put the destination's settings right."""


class Unavailable(Exception):  # noqa: N818
    """The batch as a whole was not taken, or nobody knows; it is sent again under the same key.

    Args:
        reason: for people, without any row's values.
        after: seconds that the destination asked to wait.
        is_certain: nothing of the batch took effect, as when no connection was made or a limit was hit. Not so when an
            answer did not come.
    """

    def __init__(self, reason: str, after: float | None = None, is_certain: bool = False) -> None:
        super().__init__(reason)
        self.after, self.is_certain = after, is_certain


class Destination(Protocol):
    """Somewhere members are delivered to.

    A destination may also have `keyed_by: tuple[str, ...]`, the columns that name a row there; without it, all do. A removal
    has these columns only, and where an update would change them the ledger sends a removal of what was sent and an addition
    instead: who is keyed by all columns never gets an update. `("customer_id",)` keeps contact data out of the ledger.

    It may also have `prepare(row) -> Row | None`, which makes of a member's row what is sent, with the same columns, so that
    the ledger holds no more than that; None for whoever nothing identifies there. Prepared again, a row stays as it is. And
    `close()`, which ends its connections.
    """

    batch_size: int  # the most rows that one `send` takes
    semantics: Semantics  # what the same batch sent twice does
    columns: tuple[str, ...]  # that its rows have

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Send rows once; a retry has the same rows and key.

        Raises:
            Unavailable: there is no answer by row; so counts any other exception, with an unknown outcome.
            Refused: the destination took none of the rows and takes none until somebody changes its settings.
        """
        ...


def keyed_by(destination: Destination) -> tuple[str, ...]:
    """The columns that name a row at a destination."""
    return tuple(getattr(destination, "keyed_by", destination.columns))
