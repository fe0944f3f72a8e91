"""Sending: the batches of a planned version, in order, each recorded before and after it is sent."""

import contextlib
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dagster_project.lib.delivery.destination import Destination, Outcome, Refused, Unavailable
from dagster_project.lib.delivery.ledger import TOKENS, Batch, Ledger, SentRow, Target, anonymous, scrubbed
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.progress import tell

log = logging.getLogger("onefold")


class Retries(BaseModel):
    """How often and how patiently a batch is tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: int = Field(
        5, ge=1, le=100, description="Requests for one batch in one run, and for a row that is asked for again."
    )
    first_wait_seconds: float = Field(
        1, gt=0, description="Before the second attempt; doubled for each further one, less jitter."
    )
    longest_wait_seconds: float = Field(60, gt=0, description="What doubling stops at.")
    patience_seconds: float = Field(300, ge=0, description="A destination that asks for a longer pause is left to a later run.")
    runs: int = Field(3, ge=1, description="A batch that fails in so many runs becomes dead letters, and what follows is sent.")


@dataclass
class Report:
    """What sending did for one target; `stopped` says why a version is not finished."""

    audience: str
    destination: str
    state: str = "active"  # of the target; see Ledger.state
    version: int | None = None
    adds: int = 0  # rows of the version, as planned
    updates: int = 0
    removes: int = 0
    requests: int = 0
    accepted: int = 0
    rejected: int = 0
    withheld: int = 0
    dead: int = 0  # rows of batches that were given up
    uncertain: int = 0  # batches that wait for a decision
    unanswered: int = 0  # of them, those in a row until now
    is_finished: bool = False
    stopped: str | None = None


class Pacer:
    """Keeps requests to one destination apart, whichever thread sends them."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pause = 1 / rate if rate else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock, self._next_at = threading.Lock(), 0.0

    def wait(self) -> None:
        """Wait for the next request's turn."""
        with self._lock:
            moment = self._clock()
            at = max(moment, self._next_at)
            self._next_at = at + self._pause
        if at > moment:
            self._sleep(at - moment)


# Who must not be sent any more, of rows about to be: the reason for each customer.
Withhold = Callable[[Sequence[SentRow]], Mapping[str, str]]


@dataclass
class Sender:
    """Sends the open versions of targets at one destination."""

    ledger: Ledger
    destination: Destination
    on_uncertain: Literal["resend", "hold"] = "hold"
    retries: Retries = field(default_factory=Retries)
    pacer: Pacer | None = None
    withhold: Withhold | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def send(self, target: Target) -> Report:
        """Send what is left of a target's open version; nothing where there is none.

        A destination that stays unavailable ends the run, and the next one goes on where this one stopped.
        """
        report = Report(target.audience, target.destination)
        with self.ledger.turn(target):
            plan = self.ledger.open_version(target)
            if plan is None:
                return report
            report.version, report.adds, report.updates, report.removes = plan.version, plan.adds, plan.updates, plan.removes
            self._recover(target)
            tried: Counter[str] = Counter()  # attempts of this run, by key
            while report.stopped is None and (batch := self.ledger.next_batch(target, plan.version, self.clock())):
                self._attempt(batch, tried, report)
                done = report.accepted + report.rejected + report.withheld + report.dead
                tell(str(target), done, plan.adds + plan.updates + plan.removes)
            report.uncertain = sum(1 for _ in self.ledger.open_batches(target, "uncertain"))
            if report.stopped is None and report.uncertain:
                report.stopped = (
                    f"may have been received: {report.uncertain} of its batches; settle each, or give the version up"
                )
            if report.stopped is None:
                self.ledger.finish(target, plan.version, "finished")
                report.is_finished = True
        return report

    @property
    def _holds_back(self) -> bool:
        return self.destination.semantics == "appends" and self.on_uncertain == "hold"

    def _recover(self, target: Target) -> None:
        """Whoever was sending when the turn began is dead, and what they sent may have been received."""
        for batch in self.ledger.open_batches(target, "sending"):
            with self.ledger.transaction():
                self.ledger.mark(batch, "uncertain" if self._holds_back else "failed", is_uncertain=1)
                self.ledger.log(batch, "killed")

    def _attempt(self, batch: Batch, tried: Counter[str], report: Report) -> None:
        """Send a batch once and take in the answer; a batch that failed is the first to be sent again."""
        pause = batch.not_before - self.clock()
        if pause > self.retries.patience_seconds:
            report.stopped = f"the destination is to be left alone for another {pause:.0f} s"
            return
        if pause > 0:
            self.sleep(pause)
        if self.pacer:
            self.pacer.wait()
        batch, rows = self._begin(batch, report)
        if not rows:
            return
        tried[batch.key] += 1
        report.requests += 1
        started_at = time.monotonic()
        try:
            outcome = self.destination.send(batch.operation, [_shown(row) for row in rows], batch.key)
            if len(outcome.results) != len(rows):
                raise Unavailable(f"answered for {len(outcome.results)} of {len(rows)} rows")
        except Refused as error:
            report.stopped = anonymous(str(error))
            with self.ledger.transaction():
                self.ledger.mark(batch, "failed")
                self.ledger.log(batch, "refused", reason=report.stopped, seconds=time.monotonic() - started_at)
        except Unavailable as error:
            self._fail(batch, rows, error, tried[batch.key], time.monotonic() - started_at, report)
        except Exception as error:  # whatever a library raises: nobody knows what was received
            fault = Unavailable(f"{type(error).__name__}: {error}")
            self._fail(batch, rows, fault, tried[batch.key], time.monotonic() - started_at, report)
        else:
            self._take_in(batch, rows, outcome, time.monotonic() - started_at, report)

    def _begin(self, batch: Batch, report: Report) -> tuple[Batch, list[SentRow]]:
        """Record that a batch is about to be sent, without those who must not be any more."""
        rows = self.ledger.rows_of(batch)
        withheld: list[tuple[SentRow, str]] = []
        if self.withhold and batch.operation != "remove":
            reasons = self.withhold(rows)
            withheld = [(row, reasons[row.customer_id]) for row in rows if row.customer_id in reasons]
            rows = [row for row in rows if row.customer_id not in reasons]
        report.withheld += len(withheld)
        with self.ledger.transaction():
            if withheld:
                self.ledger.withhold(batch, withheld)
            self.ledger.mark(batch, "sending" if rows else "acknowledged", attempts=batch.attempts + 1)
        return replace(batch, attempts=batch.attempts + 1, row_count=len(rows), status="sending"), rows

    def _fail(
        self, batch: Batch, rows: list[SentRow], error: Unavailable, attempt: int, seconds: float, report: Report
    ) -> None:
        is_uncertain = batch.is_uncertain or not error.is_certain
        reason = str(error)
        for row in rows:
            reason = scrubbed(reason, row.row)
        log.warning("%s to %s: %s", batch.key, report.destination, reason)
        columns: dict[str, object] = {"is_uncertain": is_uncertain}
        status, is_last = "failed", attempt >= self.retries.attempts
        if self._holds_back and not error.is_certain:
            status = "uncertain"
            report.unanswered += 1
            if report.unanswered >= self.retries.attempts:  # it hangs: not every batch has to become uncertain
                report.stopped = reason
        elif is_last:
            columns["runs"] = batch.runs + 1
            if batch.runs + 1 >= self.retries.runs:
                status = "dead"
            else:
                report.stopped = reason
        pause = max(error.after or 0.0, 0.0 if is_last else self._back_off(attempt))
        if status == "failed":
            columns["not_before"] = self.clock() + pause
        with self.ledger.transaction():
            if status == "dead":
                # Not the rows' fault as far as anybody knows: the next plan sends them, if they are still wanted.
                self.ledger.bury(batch, ((row, reason) for row in rows), is_due=True, may_be_held=is_uncertain)
                self.ledger.close(batch, "dead", 0, len(rows), None)
                report.dead += len(rows)
            else:
                self.ledger.mark(batch, status, **columns)
            self.ledger.log(batch, "unavailable", reason=reason, seconds=seconds)

    def _take_in(self, batch: Batch, rows: list[SentRow], outcome: Outcome, seconds: float, report: Report) -> None:
        report.unanswered = 0
        accepted, rejected, again, pause = [], [], [], 0.0
        for row, result in zip(rows, outcome.results, strict=True):
            if result.status == "accepted":
                accepted.append(row)
            elif result.status == "rejected":
                rejected.append((row, result.reason or "no reason given"))
            else:
                again.append(row)
                pause = max(pause, result.after or 0.0)
        exhausted: list[tuple[SentRow, str]] = []
        if batch.part + 1 >= self.retries.attempts:
            reasons = [result.reason for result in outcome.results if result.status == "try again"]
            exhausted = [(row, reason or "asked for again too often") for row, reason in zip(again, reasons, strict=True)]
            again = []
        with self.ledger.transaction():
            may_be_held = batch.is_uncertain or self.destination.semantics == "set"
            self.ledger.bury(batch, exhausted, is_due=True, may_be_held=may_be_held)
            not_before = self.clock() + max(pause, self._back_off(batch.part + 1)) if again else 0.0
            is_told_of_now = self.destination.semantics == "appends"
            self.ledger.answer(batch, accepted, rejected, again, outcome.request_id, not_before, is_told_of_now)
            self.ledger.log(
                batch,
                "answered",
                request_id=outcome.request_id,
                accepted=len(accepted),
                rejected=len(rejected) + len(exhausted),
                again=len(again),
                seconds=seconds,
            )
        report.accepted += len(accepted)
        report.rejected += len(rejected)
        report.dead += len(exhausted)

    def _back_off(self, attempt: int) -> float:
        """Exponential, with jitter so that those who failed together do not come again together."""
        longest = min(self.retries.longest_wait_seconds, self.retries.first_wait_seconds * 2 ** min(attempt - 1, 30))
        return longest * random.uniform(0.5, 1)


def _shown(row: SentRow) -> dict[str, Any]:
    """A row as the destination gets it."""
    values = json.loads(row.row)
    values.pop(TOKENS, None)
    return values


@dataclass(frozen=True)
class Work:
    """One audience for one destination, as it is configured."""

    audience: str
    destination: str
    open: Callable[[], Destination]
    on_uncertain: Literal["resend", "hold"] = "hold"
    retries: Retries = field(default_factory=Retries)
    rate: float | None = None
    withhold: Withhold | None = None


def send_all(home: Home, works: Sequence[Work]) -> list[Report]:
    """Send the open versions of several targets: destinations side by side, the audiences of one after each other.

    Nothing that goes wrong at one destination keeps another from being sent to; each report says what stopped it.
    """
    by_destination: dict[str, list[Work]] = {}
    for work in works:
        by_destination.setdefault(work.destination, []).append(work)
    if not by_destination:
        return []

    def send(theirs: list[Work]) -> list[Report]:
        pacer, reports = Pacer(theirs[0].rate), []
        with Ledger(home) as ledger:
            for work in theirs:
                try:
                    destination = work.open()
                    with contextlib.closing(destination) if hasattr(destination, "close") else contextlib.nullcontext():
                        sender = Sender(ledger, destination, work.on_uncertain, work.retries, pacer, work.withhold)
                        reports.append(sender.send(ledger.target(work.audience, work.destination)))
                except Exception as error:  # the others' turn comes, and the report says what it was
                    reason = str(error) if isinstance(error, OnefoldError) else f"{type(error).__name__}: {error}"
                    reports.append(Report(work.audience, work.destination, stopped=anonymous(reason)))
        return reports

    with ThreadPoolExecutor(len(by_destination)) as threads:
        return [report for reports in threads.map(send, by_destination.values()) for report in reports]
