"""Continuous mode: one warm process takes new files through the touched customers to the audience ledger.

Starting Dagster, dbt and Great Expectations costs seconds each time; a process that stays pays once. It does what the jobs
ingest, refresh and publish do, with the same checks in the same places, and hands what it did to a reporter. Serving is
switched when there is time: at once where nothing else waits, and at least every `serve_every` seconds.
"""

import contextlib
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import yaml

from dagster_project.lib import dbt, quality, quality_pages, serving
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.engine import target_of
from dagster_project.lib.errors import OnefoldError, with_remedy
from dagster_project.lib.home import PROJECT_ROOT, Home
from dagster_project.lib.ingest import EntityLoad, ingest_channel, new_files
from dagster_project.lib.publish import Publication, audiences, publish
from dagster_project.lib.reading import without_values
from dagster_project.lib.refresh import leaving_out, scope_of
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import Refresh, State
from dagster_project.lib.stops import Stops

log = logging.getLogger("onefold")

RUN = "live"  # what the process attends to as long as it lives, so that sensors leave its work to it
_PATIENCE = 60.0  # seconds after which a pass that was stopped is tried again
_FAULTS = (OnefoldError, OSError, sqlite3.Error, duckdb.Error)
_STEPS = PROJECT_ROOT / "dagster_project" / "defs" / "transformation" / "defs.yaml"


@dataclass
class Pass:
    """One way from files to the ledger; `seconds` by part, `ledger_at` is when the last audience was committed."""

    refresh: Refresh
    loads: list[EntityLoad]
    built: list[str] = field(default_factory=list)  # dbt's models, as layer/table
    verdicts: list[quality.Verdict] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    ledger_at: float = 0.0  # seconds since 1970

    @property
    def rows(self) -> int:
        return sum(load.accepted for load in self.loads)


class Live:
    """The warm process; `passes` yields one Pass for each lot of new files."""

    def __init__(self, home: Home, report: Callable[[Pass], None], serve_every: float = 60.0) -> None:
        if (engine := target_of(home)) != "duckdb":
            raise OnefoldError(
                f"the continuous mode builds on DuckDB, and this home is on {engine}: schedules and sensors of `onefold dev` "
                "refresh it"
            )
        self.home, self.report, self.serve_every = home.prepare(), report, serve_every
        self.state = State(home)
        self._served_at = 0.0
        self._unserved = self._left_unserved()
        self._refused: Refresh | None = None  # could not be served when it was last tried
        self._stopped: tuple[int, float] | None = None  # what was loaded when a pass was stopped, and when

    def warm_up(self) -> None:
        """Import and parse what a pass needs, so that the first is as fast as the others."""
        import great_expectations  # noqa: F401

        dbt.data_tests(self.home)
        quality.suites()

    def passes(self, interval: float = 0.5, until_idle: bool = False) -> Iterator[Pass]:
        """Look for new files every `interval` seconds, for ever or until there are none."""
        if self.home.is_attended(RUN):
            raise OnefoldError(
                f"{self.home.path}: the continuous mode is running already; one process is enough, stop the other first"
            )
        self.home.attend(RUN)
        try:
            while True:
                done = None
                for done in self.while_busy():
                    yield done
                    self.report(done)
                    if self._is_due():
                        self.serve()
                if self._is_due() or self._unserved is not self._refused:
                    self.serve()
                if until_idle and not done:
                    return
                time.sleep(interval)  # other processes have their turn
        finally:
            self.home.leave(RUN)

    def while_busy(self, most_seconds: float = 60.0) -> Iterator[Pass]:
        """Passes as long as there are new files, with the warehouse kept open and warm; then other processes have their turn.

        A home with sources on the network opens it for each pass: the write lock is never held during a network call.

        Args:
            most_seconds: after which others have their turn, however many files wait.
        """
        if any(s.is_remote for c in load_channels(self.home).values() for e in c.entities.values() for s in e.sources):
            if done := self.once():
                yield done
            return
        if not self._has_work():
            return
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.home.turn("continuous mode"))
                held.enter_context(self.home.keep_open("continuous mode"))
            except _FAULTS as error:  # tried again at the next look
                log.error("nothing is loaded: %s", _words(error))
                return
            until = time.monotonic() + most_seconds
            while time.monotonic() < until and (done := self.once()):
                yield done

    def _is_due(self) -> bool:
        return self._unserved is not None and time.monotonic() - self._served_at > self.serve_every

    def _has_work(self) -> bool:
        settings = Settings.of(self.home)
        return self._is_behind() or any(new_files(self.home, c, settings) for c in load_channels(self.home).values())

    def once(self) -> Pass | None:
        """Load what is new and bring the audiences up to it; None where nothing was new."""
        settings, channels = Settings.of(self.home), load_channels(self.home)
        waiting = [channel for channel in channels.values() if new_files(self.home, channel, settings)]
        if not waiting and not self._is_behind():
            return None
        clock = _Clock()
        with self.home.turn("continuous mode"):
            loads = []
            for channel in waiting:
                try:
                    loads += ingest_channel(self.home, channel, settings, settle=True)
                except _FAULTS as error:  # a channel that fails holds up no other
                    log.error("%s: %s", channel.channel, _words(error))
            clock.lap("ingest")
            if not self._is_behind():
                return None
            refresh = self.state.refresh(f"{RUN}-{uuid.uuid4()}", datetime.now(UTC))
            done = Pass(refresh, loads, seconds=clock.seconds)
            try:
                with self.home.keep_open("continuous mode"):
                    self._build(done, clock)
                clock.lap("checkpoint")
                self.state.finish_refresh(refresh)
                self.state.count_on("publications")
                stops = {str(p.stop) for p in done.publications if p.stop and p.stop.can_be_approved}
                if stops.issuperset(done.problems):  # else the job publish is still owed
                    self.state.advance("published", refresh.number)
                dbt.note_finished_project(self.home)
                self._unserved = refresh
            except _FAULTS as error:
                done.problems.append(_words(error))
                self._stopped = (refresh.loaded, time.monotonic())
        return done

    def _is_behind(self) -> bool:
        """Whether batches were loaded that the audiences lack; what was stopped is tried again with new batches, or later."""
        loaded = self.state.progress("loaded")
        if self._stopped and self._stopped[0] == loaded and time.monotonic() - self._stopped[1] < _PATIENCE:
            return False
        return loaded > self.state.progress("refreshed")

    def _build(self, done: Pass, clock: "_Clock") -> None:
        scope = scope_of(self.home, self.state, done.refresh)
        manifest = dbt.manifest(self.home)
        clock.lap("plan")
        tests, layers = dbt.data_tests(self.home), set[str]()
        waiting = {model for model in manifest["nodes"] if model.startswith("model.")} - scope.idle
        for name, select in steps():

            def note(event: Any) -> None:
                if event.info.name == "LogModelResult":
                    relation = event.data.node_info.node_relation
                    done.built.append(f"{relation.schema}/{relation.alias}")
                    waiting.discard(event.data.node_info.unique_id)

            result = dbt.run(
                self.home,
                ["build", "--select", *select, *leaving_out(scope.idle, manifest)],
                as_of=done.refresh.as_of,
                variables=scope.variables,
                on_event=note,
                without_tests=True,  # they are asked without dbt
            )
            if not result.success:
                raise OnefoldError(dbt.failures(result))
            clock.lap(name)
            ready = [test for test in tests if test.reads - scope.idle and not test.reads & waiting]
            self._test(ready, done.refresh, scope.variables["tested_from"])
            tests = [test for test in tests if test not in ready]
            clock.lap("tests")
            fresh = {built.split("/")[0] for built in done.built} - layers
            layers |= fresh
            self._check(done, fresh)
            clock.lap("checks")
            if "audiences" in fresh:  # nobody who is to be written to waits for reports
                self._publish(done)
                done.ledger_at = time.time()
                clock.lap("publish")

    def _test(self, tests: list[dbt.DataTest], refresh: Refresh, tested_from: int) -> None:
        with self.home.connect("data tests") as connection:
            wrong = [(test.name, test.wrong(connection, refresh.as_of, tested_from)) for test in tests]
        if failed := [f"{name}: {rows} rows are wrong" for name, rows in wrong if rows]:
            raise OnefoldError("\n".join(failed))

    def _check(self, done: Pass, layers: set[str]) -> None:
        """Judge the suites of layers that were just built; a blocking one that fails stops what follows."""
        for suite in quality.suites():
            if suite.asset.split("/")[0] not in layers:
                continue
            since = self.state.approvals().get(suite.name)
            with self.home.connect(f"check {suite.name}") as connection:
                verdict = quality.judge(self.home, connection, suite, done.refresh.number, since.number if since else 0)
            done.verdicts.append(verdict)
            if suite.blocking and not done.verdicts[-1].success:
                raise OnefoldError(f"{suite.name} failed on {suite.asset}; nothing is published (docs/quality.md)")

    def _publish(self, done: Pass) -> None:
        exposed = audiences(dbt.manifest(self.home))
        Stops(self.home).forget_all_but({audience.name for audience in exposed})
        for audience in exposed:
            try:
                done.publications.append(publication := publish(self.home, audience, done.refresh))
                if publication.stop:
                    done.problems.append(str(publication.stop))
            except _FAULTS as error:  # one that is stopped does not hold up the others
                done.problems.append(_words(error))

    def serve(self) -> None:
        """Switch readers to the last pass, and write the pages of quality."""
        if self._unserved is None:
            return
        try:
            serving.serve(self.home, serving.public_tables(dbt.manifest(self.home)), self._unserved, Settings.of(self.home))
            with self.home.connect("quality pages") as connection:
                for suite in quality.suites():
                    quality_pages.write(self.home, connection, suite)
            self._unserved = None
        except _FAULTS as error:  # tried again when it is due
            log.error("not served: %s", _words(error))
            self._refused = self._unserved
        self._served_at = time.monotonic()

    def _left_unserved(self) -> Refresh | None:
        """The last finished refresh, where a process ended before it was served."""
        last, served = self.state.last_finished_refresh(), serving.served_refresh(self.home)
        return last if last and served is not None and served < last.number else None


class _Clock:
    """Seconds by part; a part that comes again is added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


def _words(error: BaseException) -> str:
    return with_remedy(without_values(error) if isinstance(error, duckdb.Error) else str(error))


def steps() -> list[tuple[str, list[str]]]:
    """Name and dbt selection of each step of a refresh, as the job declares them."""
    declared = yaml.safe_load_all(Path(_STEPS).read_text())
    return [(step["attributes"]["op"]["name"], step["attributes"]["select"].split()) for step in declared]
