"""Whatever goes wrong: a clear message, the other channels go on, and running again ends where an undisturbed run does.

Killed runs alone: `.venv/bin/python -m pytest -q tests/test_faults.py -k killed`; hundreds: `make test-faults`, with
`FAULTS=300 FAULT_SEED=0` for how many and from which seed. A failure names its seed and keeps the home.
"""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from comparing import Tables, all_tables, differences
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, build_sensor_context
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.test_utils import create_run_for_test
from faults import Order, Run, Runner, runner

from dagster_project.defs import automation
from dagster_project.jobs import PART_TAG
from dagster_project.lib import answers, dbt
from dagster_project.lib.home import Home
from dagster_project.lib.state import State
from simulator import SETTINGS, simulate

FIRST, EXAMPLES = int(os.environ.get("FAULT_SEED", 0)), int(os.environ.get("FAULTS", 6))
LATE = ("web", "crm", "orders", "loyalty")
CHANNELS = (*LATE, "email", "pos", "wecom", "catalog", "external")
COMMANDS = {
    "ingest": ("ingest", *LATE),
    "refresh": ("refresh", "--as-of", "2026-10-31"),
    "publish": ("publish",),
}


@dataclass
class Stages:
    """A small home before each command of one undisturbed chain, and its tables and deliveries after it."""

    home: Home
    runner: Runner
    before: dict[str, Path]
    after: dict[str, Tables]
    points: dict[str, int]

    def restore(self, command: str) -> Home:
        shutil.rmtree(self.home.path, ignore_errors=True)
        shutil.copytree(self.before[command], self.home.path, symlinks=True)
        return self.home

    def heal(self, command: str) -> Run:
        """Run a command again, and hold everything against the undisturbed run."""
        run = self.runner.run(*COMMANDS[command])
        assert run.code == 0, run.output
        found = differences(outcome(self.home), self.after[command])
        assert not found, "\n".join(found)
        return run


def outcome(home: Home) -> Tables:
    """Every table, every delivered file, what the state store says, and what was left behind."""
    tables = all_tables(home)
    with State(home)._transaction() as connection:
        tables["state: files"] = sorted(connection.execute("select * from landed_files").fetchall())
        progress = dict(connection.execute("select name, value from progress").fetchall())
        last = connection.execute("select max(refresh) from refreshes where finished_at is not null").fetchone()[0]
    tables["state: progress"] = [
        (progress["loaded"] == loaded_last(home), progress["refreshed"] == progress["loaded"], progress["published"] == last)
    ]
    tables["deliveries"] = [
        (str(file.relative_to(home.path)), file.read_text()) for file in sorted(home.deliveries.glob("*/*"))
    ]
    leavings = [
        path for pattern in ("**/.building-*", "**/*.part", "serving/.current*", "tmp/**/*") for path in home.path.glob(pattern)
    ]
    with dagster(home) as instance:
        leavings += instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES))
    tables["left behind"] = [(str(path),) for path in leavings]
    return tables


@contextlib.contextmanager
def dagster(home: Home) -> Iterator[DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        with DagsterInstance.get() as instance:
            yield instance


def loaded_last(home: Home) -> int:
    with home.connect("test") as connection:
        return connection.execute("select max(seq) from staging._loads").fetchone()[0]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    folder = tmp_path_factory.mktemp("faults")
    home = Home(folder / "home").prepare()
    (home.path / "onefold.yaml").write_text(SETTINGS)
    simulate(home.landing, answers.truth(home), people=60, days=60, seed=11, until=date(2026, 10, 31))
    for file in home.landing.glob("*"):
        if file.name not in CHANNELS:
            shutil.rmtree(file)
    late = [file for channel in LATE for file in sorted(home.landing.glob(f"{channel}/**/*")) if file.is_file()][::2]
    for file in late:
        file.rename(folder / file.name)
    with runner(home.path) as started:
        stages = Stages(home, started, {}, {}, {})
        for command in (("ingest", *CHANNELS), ("refresh", "--as-of", "2026-10-30"), ("publish",)):
            run = started.run(*command)
            assert run.code == 0, run.output
        for file in late:
            (folder / file.name).rename(file)
        for name, command in COMMANDS.items():
            stages.before[name] = folder / name
            shutil.copytree(home.path, stages.before[name], symlinks=True)
            run = started.run(*command)
            assert run.code == 0, run.output
            stages.points[name] = run.points
            stages.after[name] = outcome(home)
        yield stages


@pytest.mark.parametrize("seed", range(FIRST, FIRST + EXAMPLES))
def test_after_a_killed_run_the_same_command_ends_where_an_undisturbed_one_does(stages: Stages, seed: int) -> None:
    """Killed at any statement, commit, rename or link, or a moment into it; sometimes the next run is killed, too."""
    chance = random.Random(seed)
    command = ("refresh", "ingest", "publish")[seed % 3]
    stages.restore(command)
    kills = []
    for _ in range(chance.choice([1, 1, 1, 2])):
        kill = {"kill_at": chance.randint(1, stages.points[command]), "delay": chance.choice([0, 0, 0.003, 0.03, 0.3])}
        kills.append((kill, stages.runner.run(*COMMANDS[command], **kill).was_killed))
    try:
        stages.heal(command)
    except AssertionError as error:
        kept = stages.home.path.with_name(f"failed-{seed}")
        shutil.copytree(stages.home.path, kept, symlinks=True, dirs_exist_ok=True)
        told = f"{command}, killed {kills}; FAULTS=1 FAULT_SEED={seed} repeats it; its home is kept in {kept}"
        raise AssertionError(f"{told}\n{error}") from error


# Others at the same time ----------------------------------------------------------------------------------------------


def test_of_two_refreshes_at_once_one_waits_and_says_so(stages: Stages) -> None:
    home = stages.restore("refresh")
    runs = stages.runner.run_at_once(Order(COMMANDS["refresh"]), Order(COMMANDS["refresh"]))
    assert [run.code for run in runs] == [0, 0], runs
    assert len(re.findall(r"waiting for refresh \(process \d+\)", " ".join(" ".join(run.output.split()) for run in runs))) == 1
    found = differences(outcome(home), stages.after["refresh"])
    assert [line for line in found if not re.search(r"quality\.|_built|serving\.version", line)] == []  # numbers of one more


def test_an_ingestion_and_a_refresh_at_once_hinder_each_other_in_nothing(stages: Stages) -> None:
    home = stages.restore("ingest")
    runs = stages.runner.run_at_once(Order(COMMANDS["ingest"]), Order(COMMANDS["refresh"]))
    assert [run.code for run in runs] == [0, 0], runs
    run = stages.runner.run(*COMMANDS["refresh"])
    assert run.code == 0, run.output
    found, wanted = outcome(home), stages.after["refresh"]
    for table in wanted:  # identity beyond these: ids depend on what each refresh found
        if table.startswith(("staging.", "cleaned.")) and table != "staging._built":
            assert found[table] == wanted[table], table


@pytest.mark.parametrize(("command", "read_only"), [("ingest", True), ("refresh", False), ("publish", True)])
def test_a_warehouse_that_another_program_has_open_is_named_with_the_remedy(
    stages: Stages, command: str, read_only: bool
) -> None:
    home = stages.restore(command)
    program = f"import duckdb; c = duckdb.connect({str(home.warehouse)!r}, read_only={read_only}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        run = stages.runner.run(*COMMANDS[command])
        holder.communicate(b"\n")
    assert run.code == 1
    said = " ".join(run.output.split())
    assert f"(process {holder.pid}) has {home.warehouse} open" in said
    assert "open serving/current/onefold.duckdb instead" in said
    stages.heal(command)


def test_a_run_whose_process_was_killed_holds_up_no_sensor(stages: Stages) -> None:
    home = stages.restore("refresh")
    assert stages.runner.run(*COMMANDS["refresh"], kill_at=stages.points["refresh"] // 2).was_killed
    with dagster(home) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(home.path))
        [run] = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
        context = build_sensor_context(instance=instance)
        assert "under way" in automation.loaded_batches(context).skip_message
        assert run.run_id in automation.vanished_runs(context).skip_message
        assert instance.get_run_by_id(run.run_id).status == DagsterRunStatus.FAILURE
        assert automation.loaded_batches(context).run_key
        # One that lives is left alone.
        alive = create_run_for_test(instance, "refresh", status=DagsterRunStatus.STARTED, tags={PART_TAG: "refresh"})
        home.attend(alive.run_id)
        assert alive.run_id not in automation.vanished_runs(context).skip_message
        assert instance.get_run_by_id(alive.run_id).status == DagsterRunStatus.STARTED
        home.leave(alive.run_id)


# What breaks ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a full disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("command", "kilobytes"), [("ingest", 200), ("refresh", 200), ("refresh", 3000), ("publish", 60), ("publish", 2000)]
)
def test_a_full_disk_is_named_and_once_there_is_space_the_same_command_heals(
    stages: Stages, command: str, kilobytes: int
) -> None:
    home = stages.home
    shutil.rmtree(home.path, ignore_errors=True)
    with small_disk(home.path, 512):
        shutil.copytree(stages.before[command], home.path, symlinks=True, dirs_exist_ok=True)
        filler = home.path / "filler"
        with filler.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, shutil.disk_usage(home.path).free - kilobytes * 1024)
        run = stages.runner.run(*COMMANDS[command])
        assert run.code == 1, run.output
        said = " ".join(run.output.split())
        assert re.search(r"the disk is full( or fails)?: free space on it", said) and "Traceback" not in said, run.output
        filler.unlink()
        stages.heal(command)


def test_a_model_that_fails_half_way_is_named_without_values_and_leaves_what_is_served(stages: Stages, tmp_path: Path) -> None:
    home = stages.restore("refresh")
    served = (home.serving / "current").resolve()
    broken = tmp_path / "dbt"
    shutil.copytree(dbt.PROJECT, broken, ignore=shutil.ignore_patterns("target", "logs"))
    model = broken / "models" / "unified" / "unified_consents.sql"
    content, condition = model.read_text(), "where consents.occurred_at"
    assert condition in content
    model.write_text(content.replace(condition, f"where cast(consents.identifier_value as integer) > 0 and {condition[6:]}"))
    built = "select max(_seq) from unified.customer_events"
    with home.connect("test") as connection:
        before = connection.execute(built).fetchone()
    use_it = f"from pathlib import Path; from dagster_project.lib import dbt; dbt.PROJECT = Path({str(broken)!r})"
    run = stages.runner.run(*COMMANDS["refresh"], before=use_it)
    assert run.code == 1
    said = " ".join(run.output.split())
    assert "unified_consents: Runtime Error" in said and "Could not convert string" in said, said
    assert "@" not in said
    assert (home.serving / "current").resolve() == served
    with home.connect("test") as connection:  # other branches went on
        assert connection.execute(built).fetchone() > before
    stages.heal("refresh")


def test_a_corrupted_file_is_refused_and_the_others_go_on(stages: Stages) -> None:
    home = stages.restore("ingest")
    items = next(home.landing.glob("orders/order_items/*.parquet")).read_bytes()
    (home.landing / "orders" / "order_items" / "footless.parquet").write_bytes(items[:-20] + bytes(16) + b"PAR1")
    run = stages.runner.run(*COMMANDS["ingest"])
    assert run.code == 1
    assert "check files_accepted failed on staging/orders_order_items" in run.output
    with home.connect("test") as connection:
        refused = connection.execute(
            "select source_uri, reason from staging._loads where status = 'refused' order by 1"
        ).fetchall()
    [(file, reason)] = refused
    assert file.endswith("footless.parquet") and reason.endswith("repair the file and land it again")
    for table, rows in outcome(home).items():
        if not table.startswith(("staging._loads", "state: ")):
            assert rows == stages.after["ingest"][table], table


def test_a_channel_that_always_fails_holds_up_no_other(stages: Stages) -> None:
    """One whose contract has another type than its table, and one whose place cannot be reached."""
    home = stages.restore("ingest")
    with home.connect("test") as connection:
        connection.execute("alter table staging.loyalty_members alter points type varchar")
    (home.sources / "email.yaml").write_text(
        "channel: email\nentities: {events: [{name: remote, location: 'http://127.0.0.1:9/mail/*.csv'}]}\n"
    )
    served = (home.serving / "current").resolve()
    for _ in range(2):
        # Sources are read when definitions load.
        anew = "from dagster_project.jobs import _definitions; _definitions.cache_clear()"
        run = stages.runner.run("ingest", *LATE, "email", before=anew)
        assert run.code == 1
        said = " ".join(run.output.split())
        assert "staging.loyalty_members.points holds VARCHAR" in said
        assert "check files_accepted failed on staging/email_events" in said
    for command in ("refresh", "publish"):
        run = stages.runner.run(*COMMANDS[command])
        assert run.code == 0, run.output
    assert (home.serving / "current").resolve() != served
    found = outcome(home)
    for table in ("cleaned.web_events", "cleaned.crm_contacts", "cleaned.orders_orders"):
        assert found[table] == stages.after["publish"][table], table


# Readers --------------------------------------------------------------------------------------------------------------

READER = """
import json, pathlib, sys, time
import duckdb

QUERY = '''
    select (select refresh from serving.version) as refresh, (select max(refresh) from quality.metrics) as measured,
        (select count(*) from unified.customer_events 
            where customer_id is not null and traffic = 'customer') as events,
        (select sum(event_count)::bigint from unified.customers) as counted_events,
        (select count(*) from tags.customer_tags where customer_id in (
            select customer_id from unified.customers where is_known)) as tags,
        (select sum(customer_count)::bigint from tags.catalog) as counted_tags,
        (select count(*) from identity.evidence) + (select count(*) from unified.purchases) as others
'''
file, mode, stop = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])


def ask(connection):
    cursor = connection.execute(QUERY)
    row = dict(zip([column[0] for column in cursor.description], cursor.fetchone()))
    assert row["refresh"] == row["measured"] and row["events"] == row["counted_events"], row
    assert row["tags"] == row["counted_tags"] and row["events"] > 0, row
    return row


if mode == "keep":
    kept = duckdb.connect(str(file), read_only=True)
    for line in sys.stdin:
        try:
            print(json.dumps(ask(kept)), flush=True)
        except duckdb.IOException as error:
            print(json.dumps({"gone": str(error)}), flush=True)
else:
    seen = set()
    while not stop.exists():
        with duckdb.connect(str(file), read_only=True) as one, one.cursor() as other:
            row = ask(one)
            assert row == ask(other)
            seen.add(row["refresh"])
        time.sleep(0.05)
    print(sorted(seen), flush=True)
"""


@contextlib.contextmanager
def reader(home: Home, file: str, mode: str) -> Iterator[subprocess.Popen]:
    arguments = [sys.executable, "-c", READER, str(home.serving / "current" / file), mode, str(home.path / "stop")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def ask(keeper: subprocess.Popen) -> dict:
    keeper.stdin.write("\n")
    keeper.stdin.flush()
    answer = keeper.stdout.readline()
    assert answer, keeper.stderr.read()
    return json.loads(answer)


def test_readers_see_whole_versions_while_refreshes_go_on(stages: Stages) -> None:
    """Who opens for each query sees one version whole; who keeps a connection stays with the version it opened."""
    home = stages.restore("refresh")
    with (
        reader(home, "onefold.duckdb", "open") as masked,
        reader(home, "onefold_private.duckdb", "open") as private,
        reader(home, "onefold.duckdb", "keep") as keeper,
    ):
        first = ask(keeper)
        for number in range(max(2, EXAMPLES // 20)):
            with (home.landing / "web" / "events" / f"more-{number}.jsonl").open("w") as handle:
                for day in range(1, 9):
                    event = {"event_id": f"r{number}-{day}", "event_name": "searched", "user_id": f"reader-{number}"}
                    handle.write(json.dumps({**event, "occurred_at": f"2026-10-0{day}T10:00:00Z"}) + "\n")
            for command in (("ingest", "web"), COMMANDS["refresh"], COMMANDS["publish"]):
                run = stages.runner.run(*command)
                assert run.code == 0, run.output
            assert ask(keeper) == first
        (home.path / "stop").touch()
        for child in (masked, private):
            seen, problem = child.communicate(timeout=120)
            assert child.returncode == 0, problem
            assert len(json.loads(seen)) >= 2
        # Beyond the limits its parts are gone: that is said, and nothing of another version is shown.
        (home.path / "onefold.yaml").write_text(f"{SETTINGS}serving_keep_versions: 1\nserving_keep_minutes: 0\n")
        run = stages.runner.run("refresh", "--as-of", "2026-11-02")
        assert run.code == 0, run.output
        assert len(list((home.serving / "versions").iterdir())) == 1
        last = ask(keeper)
        assert last == first or "parquet" in last["gone"]


def test_parts_of_another_warehouse_are_not_served_as_its_own(stages: Stages) -> None:
    """A warehouse that was lost or restored numbers its writes anew: equal numbers may stand for other rows."""
    home = stages.restore("publish")
    before = {part.name for part in home.serving.glob("parts/*/*/*")}
    with home.connect("test") as connection:  # a backup is in its place
        connection.execute("update staging._served set version = 'another'")
    run = stages.runner.run(*COMMANDS["publish"])
    assert run.code == 0, run.output
    parts = json.loads((home.serving / "current" / "parts.json").read_text())
    named = {Path(file).name for files in parts.values() for file in files}
    assert named and not named & before
