"""What long work tells whoever watches: a line on the logger `onefold`, and a step with its count for a progress bar."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

log = logging.getLogger("onefold")
Listener = Callable[[str, int, int], None]  # what was done last, done, total
_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener called, from any thread, for every step that is told meanwhile."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(what: str, done: int, total: int) -> None:
    """One step of `total` is done."""
    log.info("%d/%d %s", done, total, what)
    for listener in list(_listeners):
        listener(what, done, total)


def tell_dbt(event: Any) -> None:
    """Tell of a finished dbt node; a failure also as an error."""
    if event.info.name not in ("LogModelResult", "LogSeedResult", "LogTestResult"):
        return
    data = event.data
    relation = data.node_info.node_relation
    name = f"{relation.schema}.{relation.alias}" if event.info.name == "LogModelResult" else data.node_info.node_name
    if data.status.lower() in ("fail", "error"):
        log.error("dbt: %s: %s", name, data.status)
    tell(name, data.index, data.num_models if event.info.name == "LogTestResult" else data.total)
