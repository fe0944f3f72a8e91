"""A real cluster: a master and two workers, which a Connect client has work, and which lose one of them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from company import ingest_all
from spark_cluster import Cluster, ClusterError, cluster, is_there

from dagster_project.lib import answers, dbt, engine
from dagster_project.lib.compare import compare, told
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from simulator import simulate

pytestmark = pytest.mark.spark
pytest.importorskip("pyspark", reason="the extra spark is not installed: make test-spark")
if not is_there():
    pytest.skip("a Spark cluster needs a Java runtime and PySpark's extra connect", allow_module_level=True)

from pyspark.errors import PySparkException  # noqa: E402

from dagster_project.lib.spark import connect, measures  # noqa: E402
from dagster_project.lib.spark import session as sessions  # noqa: E402
from dagster_project.lib.spark.catalogue import Catalogue, Note, Table  # noqa: E402

# Two shuffles: by key, then by how many numbers have the key.
GROUPED = """
    select n, count(*) as keys, sum(total) as total, min(k) as first_key
    from (
        select {key} as k, n, total
        from (select id % 1000 as k, count(*) as n, sum(id) as total from range(0, 1000003, 1, 8) group by 1)
    )
    group by n
"""


def expected() -> set[tuple[int, int, int, int]]:
    """The rows of GROUPED: keys 0, 1 and 2 have one number more than the others."""
    totals = {key: sum(range(key, 1000003, 1000)) for key in range(1000)}
    return {
        (1001, 3, sum(totals[key] for key in range(3)), 0),
        (1000, 997, sum(totals[key] for key in range(3, 1000)), 3),
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def session(running: Cluster) -> Iterator[object]:
    session = connect.connect(running.url, sessions.MEANING)
    yield session
    connect.disconnect(session)


@pytest.fixture
def keeps_session() -> Iterator[None]:
    """For tests with another session: PySpark asks the environment whether it is a client."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED"):
            if name in os.environ:
                patch.setenv(name, os.environ[name])
        yield


def measured(running: Cluster) -> measures.Application:
    (application,) = measures.read_event_log(running.event_log).values()
    return application


def test_both_workers_compute_shuffle_and_write(running: Cluster, session) -> None:
    before = measured(running).shuffle_bytes
    session.sql("create schema spread")
    session.sql(f"create table spread.grouped using parquet as {GROUPED.format(key='k')}")
    assert {tuple(row) for row in session.sql("select * from spread.grouped").collect()} == expected()
    application = measured(running)
    assert application.shuffle_bytes > before
    assert len(application.by_executor) == 2
    for measure in application.by_executor.values():
        assert measure.tasks >= 2
        assert measure.shuffle_bytes > 0
        assert measure.run_seconds > 0
    assert not application.lost
    assert list((running.warehouse / "spread.db" / "grouped").glob("*.parquet"))


def test_shuffled_bytes_of_a_running_server_are_those_of_its_event_log(running: Cluster, session) -> None:
    before = measures.shuffled_bytes(session)
    session.sql(f"create or replace temporary view grouped as {GROUPED.format(key='k')}")
    session.sql("select * from grouped").collect()
    after = measures.shuffled_bytes(session)
    assert before < after
    assert after == measured(running).shuffle_bytes


def test_shuffled_bytes_are_unknown_where_the_driver_shows_nothing(session) -> None:
    assert measures.shuffled_bytes(session, "http://127.0.0.1:1") is None


def test_python_functions_run_on_the_workers_with_this_python(session) -> None:
    prefix = "from here: "

    def told_by(name: str) -> str:
        return f"{prefix}{name} {sys.executable}"

    session.udf.register("told_by", told_by, "string")
    rows = session.sql("select told_by('x') from range(2)").collect()
    assert {row[0] for row in rows} == {f"from here: x {sys.executable}"}


def test_what_a_function_carries_is_in_no_log(running: Cluster, session) -> None:
    secret = "a-key-that-no-log-may-hold"
    session.udf.register("keyed", lambda value: f"{secret}{value}"[-1], "string")
    assert session.sql("select keyed('x')").collect()[0][0] == "x"
    logs = [file for file in running.folder.rglob("*") if file.suffix == ".log" or file.name in ("stdout", "stderr")]
    assert logs
    assert not [file for file in logs if secret in file.read_text(errors="replace")]
    for file in running.event_log.rglob("events_*"):
        assert not [line for line in measures._lines(file) if secret.encode() in line]


@pytest.mark.parametrize(
    "statement",
    ["selec 1", "select nothing from range(3)", "create table broken using parquet as select raise_error('wrong') as x"],
)
def test_a_failing_statement_raises_in_pysparks_own_words_at_once(session, statement: str) -> None:
    with pytest.raises(PySparkException):
        session.sql(statement).collect()
    assert connect.is_alive(session)


def test_a_setting_that_only_the_server_takes_is_refused(running: Cluster, keeps_session: None) -> None:
    with pytest.raises(OnefoldError, match=r"spark\.executor\.memory .* set on the server at sc://127"):
        connect.connect(running.url, {"spark.executor.memory": "8g"})


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_ANSWERS_WITHIN", 0.5)
    with pytest.raises(OnefoldError, match=r"no Spark Connect server answers at sc://127\.0\.0\.1:1:"):
        connect.connect("sc://127.0.0.1:1/;token=secret", {})


def test_a_home_reads_its_own_tables_after_another_home_of_the_same_server(running: Cluster, session, tmp_path: Path) -> None:
    for name in ("first", "second"):
        catalogue = Catalogue(Home(tmp_path / name).prepare())
        table = Table("unified.customers", "tables/unified/customers/1", (("customer_id", "string"),), None)
        session.sql(f"select '{name}' as customer_id").write.parquet(catalogue.storage.in_spark(table.folder))
        catalogue.commit(Note(table.name, 1, (table,)))
    for name in ("first", "second", "first", "first"):
        Catalogue(Home(tmp_path / name)).register(session)
        assert [tuple(row) for row in session.sql("select * from unified.customers").collect()] == [(name,)]
    # Nor does a home that has built nothing yet find what another has.
    Catalogue(Home(tmp_path / "third").prepare()).register(session, ["unified"])
    assert not [row for row in session.sql("show tables in unified").collect() if not row["isTemporary"]]
    session.sql("drop schema unified cascade")


def test_a_session_reads_what_another_process_has_written_since(
    running: Cluster, session, tmp_path: Path, keeps_session
) -> None:
    catalogue = Catalogue(Home(tmp_path).prepare())
    parts: dict[int, str] = {}

    def write(session, value: str, seq: int, number: int) -> None:
        """The part of a stamp, by a write."""
        parts[seq] = f"tables/tags/history/{number}/_seq={seq}"
        session.sql(f"select '{value}' as tag").write.parquet(catalogue.storage.in_spark(parts[seq]))
        columns = (("tag", "string"), ("_seq", "bigint"))
        table = Table("tags.history", "tables/tags/history/1", columns, tuple(parts.items()))
        catalogue.commit(Note("tags.history", number, (table,)))

    def read(session) -> set[tuple[str, int]]:
        catalogue.register(session)
        return {tuple(row) for row in session.sql("select tag, _seq from tags.history").collect()}

    write(session, "first", 1, 1)
    assert read(session) == {("first", 1)}
    other = connect.connect(running.url, sessions.MEANING)
    assert read(other) == {("first", 1)}
    write(other, "second", 2, 2)
    assert read(session) == {("first", 1), ("second", 2)}
    write(session, "instead", 1, 3)
    assert read(other) == {("instead", 1), ("second", 2)}
    connect.disconnect(other)
    session.sql("drop schema tags cascade")


def test_dbt_builds_over_connect_what_it_builds_on_duckdb(
    running: Cluster, tmp_path: Path, monkeypatch, keeps_session: None
) -> None:
    names = ["crm_contacts", "orders_orders"]
    ours, theirs = Home(tmp_path / "ours").prepare(), Home(tmp_path / "theirs")
    monkeypatch.setenv("ONEFOLD_HOME", str(ours.path))
    simulate(ours.landing, answers.truth(ours), people=30, days=30, seed=5, until=date(2026, 1, 31))
    ingest_all(ours)
    shutil.copytree(ours.path, theirs.path)
    (theirs.path / "onefold.yaml").write_text(f"spark:\n  remote: {running.url}\n")
    engine.note_engine(theirs, "spark")
    chosen = ["build", "--exclude-resource-type", "test", "unit_test", "--select", *(f"+cleaned_{name}" for name in names)]
    try:
        for home in (ours, theirs):
            monkeypatch.setenv("ONEFOLD_HOME", str(home.path))
            done = dbt.run(home, chosen, target=engine.built_on(home))
            assert done.success, dbt.failures(done)
    finally:
        sessions.stop()
    found = compare(ours, theirs, [f"cleaned.{name}" for name in names])
    assert (found.tables, found.rows > 15) == (2, True)
    assert not found.differing, "\n".join(told(found))


def test_a_worker_that_is_lost_in_the_middle_changes_no_result(running: Cluster, session, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def waits(key: int) -> int:
        """Holds its task until the test has killed a worker, which it does when both executors have one here."""
        import os
        from pathlib import Path

        if not Path(folder, "go").exists():
            Path(folder, f"waits-{os.getppid()}").touch()
            until = time.monotonic() + 300
            while not Path(folder, "go").exists() and time.monotonic() < until:
                time.sleep(0.05)
        return key

    session.udf.register("waits", waits, "bigint")
    session.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")  # else so few rows are one task's
    session.sql("create schema lost")
    # Rows come to `waits` from a shuffle, so that what the lost worker wrote for it is lost, too.
    statement = f"create table lost.grouped using parquet as {GROUPED.format(key='waits(k)')}"
    before = sum(measure.failed for measure in measured(running).by_executor.values())
    failed: list[BaseException] = []

    def build() -> None:
        try:
            session.sql(statement)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        while len(list(tmp_path.glob("waits-*"))) < 2 and thread.is_alive():
            time.sleep(0.1)
        running.kill_worker(0)
    finally:
        Path(folder, "go").touch()
        thread.join()
    assert not failed
    assert {tuple(row) for row in session.sql("select * from lost.grouped").collect()} == expected()
    # One worker goes on alone.
    assert {tuple(row) for row in session.sql(GROUPED.format(key="k")).collect()} == expected()
    application = measured(running)
    assert len(application.lost) == 1
    assert sum(measure.failed for measure in application.by_executor.values()) > before


def test_nothing_is_left_of_a_cluster_whose_test_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from spark_cluster import cluster\n"
        "with cluster(Path(sys.argv[1]), workers=1) as running:\n"
        "    print(*(part.process.pid for part in running.parts.values()), flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    test = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    groups = set(test.stdout.readline().split())
    assert len(groups & _groups()) == 3
    test.send_signal(signal.SIGKILL)
    test.communicate()
    until = time.monotonic() + 60
    while groups & _groups() and time.monotonic() < until:
        time.sleep(0.1)
    assert not groups & _groups()


def _groups() -> set[str]:
    """Groups of processes that run."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return {group for group, state in map(str.split, listed.splitlines()) if not state.startswith("Z")}


def test_what_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    told = r"(?s)Spark's worker 0 ended with 1; the end of .*worker_0\.log:.*memory"
    with pytest.raises(ClusterError, match=told), cluster(tmp_path, memory="1k"):
        pass
