"""What the statements of identity run on. Their text is one for all engines; what differs between these is here.

Queries read intermediate results by their bare names, and state as `identity.<table>`. The text uses only what DuckDB 1.5 and
Spark 4.1 share, and the function `keyed(text)`: the first 24 hexadecimal digits of a keyed hash, made in Python so that the key
is in no query log.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.state import Decision


@dataclass(frozen=True)
class Clustered:
    """What solving a graph came to: places of carriers that are shared, refusals, and the rounds that it took (0 by arrays)."""

    shared: int
    refusals: int
    rounds: int = 0


class Engine(ABC):
    """Where a run of `resolve` keeps its intermediate results, and how it changes the state."""

    age: str  # SQL: what orders `places` by when they were seen first, whole eras last; then by their node_id

    @abstractmethod
    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query that has few."""

    def count(self, query: str) -> int:
        """The single number that a query gives."""
        return int(self.rows(query)[0][0])

    @abstractmethod
    def make(self, name: str, query: str) -> None:
        """Keep what a query gives under a name, in place of what was there."""

    @abstractmethod
    def view(self, name: str, query: str) -> None:
        """As `make`, for what is small or read once: it may be worked out when it is read."""

    @abstractmethod
    def decisions(self, decisions: Sequence[Decision]) -> None:
        """Make `given`, as `identity._decisions`, of what people decided."""

    @abstractmethod
    def number(self, order: str) -> str:
        """SQL: a number (bigint, from 0 on) for each row of a query, another for each; in this order where it needs be."""

    @abstractmethod
    def micros(self, moment: str) -> str:
        """SQL: a timestamp as microseconds since 1970."""

    @abstractmethod
    def reach(self, name: str, start: str, pairs: str) -> None:
        """Make a table (name) of the names that a query gives, and of all that pairs (table: one, other; both ways) lead to."""

    @abstractmethod
    def cluster(self, rules: Rules, has_eras: bool) -> Clustered:
        """Solve the candidate graph of `places` and `links`, as `solve.solve` does.

        Makes `clusters` (place, cluster; SHARED for carriers that are cut), `shaped` (cluster and its shape, as of
        `shape.shapes`), `shared` (place, company: the carriers that are cut, with a number for those that are linked to each
        other) and `found` (left_place, right_place, reason, detail, link, through_place: refusals of what is not one now).

        Raises:
            OnefoldError: it came to no end within the bound of the engine.
        """

    @abstractmethod
    def append(self, table: str, rows: str, order: str = "") -> None:
        """Add the rows of a SELECT to a table of the state, by name; in an order where the engine keeps one."""

    @abstractmethod
    def replace(self, table: str, rows: str) -> None:
        """Put rows in place of all that a table of the state holds."""

    @abstractmethod
    def exchange(self, table: str, rows: str, gone: Mapping[str, str]) -> None:
        """Take from a table of the state the rows of which a column is in its query of `gone`, then add rows."""

    @abstractmethod
    def standing(self, table: str) -> int:
        """How many rows a table of the state has, with what this run changed."""


def moment(at: datetime) -> str:
    """SQL: a moment, UTC."""
    return f"timestamp '{at.replace(tzinfo=None).isoformat(' ')}'"


# What places of one value follow each other; a function of `places`.
FOLLOWERS = """
select before.place as before_place, later.place as later_place, later.is_stated
from places as before join places as later on later.node_id = before.node_id and later.begins = before.ends
"""
DIFFERENT = """
select a.place as left_place, b.place as right_place
from given as decisions
join places as a on a.node_id = decisions.left_node_id
join places as b on b.node_id = decisions.right_node_id
where decisions.kind = 'different'
"""
