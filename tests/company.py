"""A sample company and its refreshes, up to their checks."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from dagster_project.lib import answers, dbt, quality
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.refresh import leaving_out, scope_of
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State
from simulator import simulate

UNTIL = datetime(2026, 10, 31, tzinfo=UTC)
QUALITY = ("build", "--exclude-resource-type", "unit_test", "test", "--select", "path:models/quality")
CHAIN = ("build", "--exclude-resource-type", "unit_test", "test")


def build_company(home: Home) -> None:
    """A company of 100 people after six refreshes, in the last five of which nothing happened."""
    simulate(home.landing, answers.truth(home), people=100, days=90, seed=11, until=UNTIL.date())
    ingest_all(home)
    run_refresh(home, 1, *CHAIN)
    for number in range(2, 7):
        run_refresh(home, number, *QUALITY)


def ingest_all(home: Home) -> None:
    """Load what lies in landing; no file is refused."""
    for channel in load_channels(home).values():
        for load in ingest_channel(home, channel, Settings.of(home)):
            assert not load.refused, load.refused


def run_refresh(home: Home, number: int, *arguments: str, finished: bool = True) -> None:
    """What the job refresh does up to its checks, without Dagster: numbered, judged and finished."""
    state = State(home)
    refresh = state.refresh(f"run {number}", UNTIL + timedelta(hours=number))
    assert refresh.number == number
    variables = {"refresh": number, **quality.history(state, refresh)}
    result = dbt.run(home, list(arguments), as_of=refresh.as_of, variables=variables)
    assert result.success, dbt.failures(result)
    with home.connect("test") as connection:
        for suite in quality.suites():
            quality.judge(home, connection, suite, number)
    if finished:
        state.finish_refresh(refresh)


def refresh(home: Home, as_of: datetime) -> list[str]:
    """What the job refresh does but serving, without Dagster and with data tests compiled once; gives the blocking suites that
    failed, which stop nothing here."""
    state = State(home)
    begun = state.refresh(uuid4().hex, as_of)
    scope = scope_of(home, state, begun)
    result = dbt.run(home, [*CHAIN, *leaving_out(scope.idle, dbt.manifest(home))], as_of=begun.as_of, variables=scope.variables)
    assert result.success, dbt.failures(result)
    with home.connect("test") as connection:
        tested_from = scope.variables["tested_from"]
        wrong = [(test.name, test.wrong(connection, begun.as_of, tested_from)) for test in dbt.data_tests(home)]
        verdicts = [quality.judge(home, connection, suite, begun.number) for suite in quality.suites()]
    assert not [each for each in wrong if each[1]]
    state.finish_refresh(begun)
    dbt.note_finished_project(home)
    return [verdict.suite.name for verdict in verdicts if verdict.suite.blocking and not verdict.success]
