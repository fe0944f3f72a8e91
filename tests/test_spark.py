"""The whole chain on Apache Spark beside DuckDB: the same input, and every row and value the same."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from company import ingest_all, refresh
from spark_cluster import cluster, is_there

from dagster_project.components.dbt_in_process import AS_OF_TAG, TARGET_TAG
from dagster_project.jobs import problems, run_job
from dagster_project.lib import answers, dbt, engine
from dagster_project.lib.compare import compare, told
from dagster_project.lib.home import Home
from dagster_project.lib.spark import measures, session
from dagster_project.lib.spark.catalogue import Catalogue, Note
from simulator import simulate

pytestmark = pytest.mark.spark
pytest.importorskip("pyspark", reason="the extra spark is not installed: make test-spark")
if not is_there():
    pytest.skip("a Spark cluster needs a Java runtime and PySpark's extra connect", allow_module_level=True)

FIRST, SECOND = datetime(2026, 10, 31, 1, tzinfo=UTC), datetime(2026, 10, 31, 2, tzinfo=UTC)
NEXT_DAY = datetime(2026, 11, 1, 1, tzinfo=UTC)
# Small tables: what Spark does to be fast on large ones takes longer than the work.
CONF = """
  conf:
    spark.sql.shuffle.partitions: "2"
    spark.sql.adaptive.enabled: "false"
    spark.sql.codegen.factoryMode: "NO_CODEGEN"
    spark.sql.codegen.wholeStage: "false"
"""
IN_THIS_PROCESS = f"spark:\n  master: local[2]{CONF}    spark.driver.memory: 2g\n"


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Home]]:
    """The sample company twice, with its first half of files: one home on DuckDB, one on Spark; the rest waits in `later`."""
    folder = tmp_path_factory.mktemp("companies")
    ours = Home(folder / "duckdb").prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(ours.path))
        simulate(ours.landing, answers.truth(ours), people=60, days=60, seed=11, until=FIRST.date())
        for file in sorted(file for file in ours.landing.glob("*/*/**/*") if file.is_file())[1::3]:
            later = folder / "later" / file.relative_to(ours.landing)
            later.parent.mkdir(parents=True, exist_ok=True)
            file.rename(later)
        ingest_all(ours)
        theirs = Home(folder / "spark")
        shutil.copytree(ours.path, theirs.path)
        (theirs.path / "onefold.yaml").write_text(IN_THIS_PROCESS)
        run_refresh(ours, FIRST, "duckdb")
        run_refresh(theirs, FIRST, "spark")
        yield ours, theirs
        session.stop()


def run_refresh(home: Home, as_of: datetime, target: str) -> None:
    """By Dagster, with its checks."""
    result = run_job(home, "refresh", tags={AS_OF_TAG: as_of.isoformat(), TARGET_TAG: target})
    assert result.success, "\n".join(problems(result))


def assert_same(ours: Home, theirs: Home) -> None:
    found = compare(ours, theirs)
    assert found.tables > 140
    assert found.rows > 5000
    assert not found.differing, "\n".join(told(found))
    ledger = ("_changes", "_redirects", "_refusals", "_decisions", "_customer_ids")
    found = compare(ours, theirs, [f"identity.{name}" for name in ledger])
    assert found.rows > 100
    assert not found.differing, "\n".join(told(found))


def test_every_row_and_value_of_a_first_build_is_the_same(homes: tuple[Home, Home]) -> None:
    assert engine.built_on(homes[1]) == "spark"
    assert_same(*homes)


def test_what_spark_built_is_served_and_read_as_before(homes: tuple[Home, Home]) -> None:
    counts = []
    for home in homes:
        with duckdb.connect(str((home.serving / "current" / "onefold.duckdb").resolve()), read_only=True) as served:
            counts.append(
                served.execute(
                    "select (select count(*) from unified.customers), (select count(*) from unified.customer_events), "
                    "(select count(*) from tags.customer_tags)"
                ).fetchone()
            )
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0


@contextmanager
def on_a_cluster(home: Home, folder: Path) -> Iterator[None]:
    """Through a Connect server, whose workers go on with the tables that the engine in this process has written."""
    session.stop()
    with cluster(folder, memory="1g") as running:
        (home.path / "onefold.yaml").write_text(f"spark:\n  remote: {running.url}{CONF}")
        yield
        session.stop()
    (home.path / "onefold.yaml").write_text(IN_THIS_PROCESS)
    (application,) = measures.read_event_log(running.event_log).values()
    assert len(application.by_executor) == 2
    for measure in application.by_executor.values():  # both workers
        assert measure.tasks > 1000
        assert measure.shuffle_bytes > 0


def test_later_batches_give_the_same_and_the_same_ids(homes: tuple[Home, Home], tmp_path: Path) -> None:
    ours, theirs = homes
    before = {note.node: note for note in Catalogue(theirs).notes()}
    with on_a_cluster(theirs, tmp_path) if os.environ.get("CLUSTER") else nullcontext():
        for home in homes:
            shutil.copytree(ours.path.parent / "later", home.landing, dirs_exist_ok=True)
            ingest_all(home)
            refresh(home, SECOND)  # each on the engine that it is on, with all data tests
    assert engine.built_on(theirs) == "spark"
    assert_same(ours, theirs)
    # Events of before were not written anew: they are in a part of their own.
    events = Catalogue(theirs).note("cleaned.events").tables[0]
    assert events.folder == before["cleaned.events"].tables[0].folder
    assert len(events.partitions) == 2


def test_audiences_are_published_from_what_spark_built(homes: tuple[Home, Home]) -> None:
    theirs = homes[1]
    result = run_job(theirs, "publish")
    assert result.success, "\n".join(problems(result))
    with theirs.connect("test") as connection:
        (members,) = connection.execute("select count(*) from audiences.memberships where left_at is null").fetchone()
    assert members > 0


def test_a_build_that_is_killed_before_its_note_changes_nothing(homes: tuple[Home, Home], monkeypatch) -> None:
    """Also where a hook takes rows out before its model adds some, in a table that no rebuild gives back."""
    ours, theirs = homes
    commit, noted = Catalogue.commit, []
    # What is of the day is taken out and worked out again.
    command = {"arguments": ["run", "--select", "tags_distribution"], "as_of": SECOND, "variables": {"withdrawn": True}}

    def killed(self: Catalogue, note: Note) -> None:
        if note.node == "tags.distribution":
            raise RuntimeError("killed")
        commit(self, note)

    def counted(self: Catalogue, note: Note) -> None:
        noted.append(note.node)
        commit(self, note)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "commit", killed)
        assert not dbt.run(theirs, **command).success
    found = compare(ours, theirs, ["tags.distribution"])
    assert found.rows > 10
    assert not found.differing, "\n".join(told(found))
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "commit", counted)
        for home in homes:
            done = dbt.run(home, **command)
            assert done.success, dbt.failures(done)
    assert noted.count("tags.distribution") == 1
    found = compare(ours, theirs, ["tags.distribution"])
    assert not found.differing, "\n".join(told(found))


def test_columns_that_a_model_gains_and_loses(homes: tuple[Home, Home]) -> None:
    ours, theirs = homes
    catalogue = Catalogue(theirs)
    note = catalogue.note("unified.customers")
    table = note.tables[0]
    gained = next(column for column in table.columns if column[0] == "is_known")
    columns = (*(column for column in table.columns[:-1] if column != gained), ("lost", "int"), table.columns[-1])
    catalogue.commit(replace(note, seq=note.seq - 1, tables=(replace(table, columns=columns),)))
    done = dbt.run(theirs, ["run", "--select", "unified_customers"], as_of=SECOND)
    assert done.success, dbt.failures(done)
    names = [name for name, _ in catalogue.note("unified.customers").tables[0].columns]
    assert {"lost", gained[0]} < set(names)
    found = compare(ours, theirs, ["unified.customers"], ["_is_revision", "lost"])
    assert not found.differing, "\n".join(told(found))
    with theirs.connect("test") as connection:
        assert connection.execute("select count(*), count(lost) from unified.customers").fetchone()[1] == 0


def test_a_home_goes_back_to_duckdb_with_its_ids_and_histories(homes: tuple[Home, Home]) -> None:
    """On the next day, when tags are worked out for everybody; a move builds them anew at any time."""
    ours, theirs = homes
    refresh(ours, NEXT_DAY)
    run_refresh(theirs, NEXT_DAY, "duckdb")
    assert engine.built_on(theirs) == "duckdb"
    found = compare(ours, theirs, ["identity.assignments", "identity.changes", "identity.redirects", "tags.history"])
    assert not found.differing, "\n".join(told(found))
    # What changed since the build before is another story for a table that was built anew.
    changes = ["_is_revision", "previous_customer_id", "previous_occurred_at"]
    found = compare(ours, theirs, ["unified.customers", "unified.customer_events", "tags.customer_tags"], changes)
    assert not found.differing, "\n".join(told(found))
