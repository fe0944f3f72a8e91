"""What a destination is: one small class that sends a batch and says what became of each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Operation = Literal["add", "update", "remove"]
Row = Mapping[str, Any]  # a value (text, number, boolean, null or list of them) for each of the destination's columns

# What sending a batch twice under one key does: a set holds each row once whatever is sent, another destination knows the key
# again, and one that appends has the rows twice.
Semantics = Literal["set", "deduplicates", "appends"]


@dataclass(frozen=True)
class Accepted:
    """The destination has the row, or no longer has it where it was to be removed."""


@dataclass(frozen=True)
class Rejected:
    """The destination will never take this row as it is; it becomes a dead letter."""

    reason: str


@dataclass(frozen=True)
class Again:
    """The destination did not take this row now and may later; `after` is in seconds, None: when the back-off says."""

    after: float | None = None


Result = Accepted | Rejected | Again


@dataclass(frozen=True)
class Outcome:
    """The answer to one batch: one result for each row, in their order."""

    request_id: str | None
    results: Sequence[Result]


class Unavailable(Exception):  # noqa: N818
    """The batch as a whole was not taken; it is sent again under the same key.

    Args:
        reason: for people; no row's values.
        after: seconds that the destination asked to wait.
        is_certain: nothing of the batch can have taken effect, as when no connection was made or a limit was hit. Not so
            when an answer did not come.
    """

    def __init__(self, reason: str, after: float | None = None, is_certain: bool = False) -> None:
        super().__init__(reason)
        self.after, self.is_certain = after, is_certain


class Refused(Exception):  # noqa: N818
    """The destination will take nothing until somebody changes its configuration: credentials, address, rights."""


class Destination(Protocol):
    """Where rows are sent.

    A destination may also have `keyed_by: tuple[str, ...]`, the columns that name a row there; without it all columns do.
    Where an update would change them the ledger sends a removal of what was sent and an addition instead, and a removal
    has these columns only. `("customer_id",)` keeps contact data out of the ledger.

    `send` may be called again with the same rows and key, after a failure or a kill. It raises Unavailable or Refused where
    there is no result by row; any other exception counts as Unavailable with an unknown outcome.
    """

    batch_size: int
    semantics: Semantics
    columns: tuple[str, ...]

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome: ...


def keyed_by(destination: Destination) -> tuple[str, ...]:
    """The columns that name a row at a destination."""
    return tuple(getattr(destination, "keyed_by", destination.columns))
