"""dbt in this process: a new process costs seconds for each step, a warm one tenths."""

import functools
import gc
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import yaml

from dagster_project.lib.audiences import definitions
from dagster_project.lib.audiences import project as declared
from dagster_project.lib.audiences.known import Known
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.engine import built_on, target_of
from dagster_project.lib.errors import OnefoldError, with_remedy
from dagster_project.lib.funnels import load_funnels
from dagster_project.lib.home import PROJECT_ROOT, Home, transaction
from dagster_project.lib.identity.rules import Rules
from dagster_project.lib.ingest import learn_values, next_sequence, prepare_warehouse
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State
from dagster_project.lib.traffic import forget_senders

log = logging.getLogger("onefold")

PROJECT = PROJECT_ROOT / "dbt"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOCK = threading.Lock()  # dbt keeps global state: one invocation at a time


_NO_TAGS = {f"tags_{name}" for name in ("customer_tags", "catalog", "cut_points", "distribution", "history")}


def project_variables(home: Home) -> dict[str, Any]:
    """What dbt's models are told at parse time: contracts, tag models and settings."""
    settings = Settings.of(home)
    entities = {}
    for channel in load_channels(home).values():
        for name, entity in channel.entities.items():
            entities[channel.table(name)] = {
                "channel": channel.channel,
                "kind": entity.kind,
                "key": list(entity.key),
                "event_time": entity.event_time,
                "updated_at": entity.updated_at,
                "identifiers": entity.identifiers,
                "attributes": entity.attributes,
                "columns": {c: column.format or column.type for c, column in entity.columns.items()},
                "required": [c for c, column in entity.columns.items() if column.required],
            }
    return {
        "entities": entities,
        "tag_models": _models("tags", except_for=_NO_TAGS),
        "funnels": _funnels(home),
        # Asked when audiences are read and published, so that no table has to be built anew.
        "legitimate_interest": list(settings.legitimate_interest),
        **Rules.of(home).of_models,
        **settings.of_models,
    }


def _funnels(home: Home) -> dict[str, Any]:
    funnels = load_funnels(home, tag_names())
    return {name: funnel.model_dump(mode="json", exclude={"description"}) for name, funnel in funnels.items()}


def tag_names() -> set[str]:
    """The tags of the project."""
    return {model.removeprefix("tags_") for model in _models("tags", except_for=_NO_TAGS)}


def names_for_audiences(home: Home) -> Known:
    """What conditions of audiences may name."""
    tags = tag_names()
    return declared.known(PROJECT, tags, load_funnels(home, tags))


def _write_models(home: Home) -> None:
    """Make what dbt reads and people do not write: the sources, and the models of audiences."""
    _write_sources(home)
    declared.write(PROJECT, lambda: names_for_audiences(home))


def parse(home: Home) -> Any:
    """dbt's manifest of the project as it is on disk, parsed once a process for each state of the files.

    Also written to the home's `dbt/manifest.json`, where Dagster reads it.

    Raises:
        OnefoldError: with dbt's own message.
    """
    _write_models(home)
    parsed = _parse(json.dumps(project_variables(home), sort_keys=True), _fingerprint(), home)
    written, mark = target_folder(home) / "manifest.json", target_folder(home) / ".manifest"
    # dbt writes this file too, when somebody runs it, and in place: half of it stays where the disk is full.
    if not (written.exists() and mark.exists() and mark.read_text() == _mark_of(written, home)):
        target_folder(home).mkdir(parents=True, exist_ok=True)
        draft = written.with_name(f".manifest-{os.getpid()}.json")  # another process may read it just now
        parsed.write(str(draft))
        marked = _mark_of(draft, home)
        draft.replace(written)
        mark.write_text(marked)
    return parsed


def _mark_of(file: Path, home: Home) -> str:
    return f"{project_state(home)} {file.stat().st_mtime_ns} {file.stat().st_size}"


def run(
    home: Home,
    arguments: list[str],
    *,
    as_of: datetime | None = None,
    variables: dict[str, Any] | None = None,
    on_event: Callable[[Any], None] | None = None,
    quiet: bool = True,
    without_tests: bool = False,
    target: str | None = None,
) -> Any:
    """Run one dbt command on the home's warehouse, under its write lock, as one numbered write.

    Args:
        arguments: as on dbt's command line, without folders and variables.
        as_of: the moment that stands for now, UTC; by default it is now.
        variables: more variables.
        on_event: called with each of dbt's structured events, in dbt's threads.
        quiet: keep dbt's own output off the screen, and its reports and compiled SQL off the disk.
        target: the engine, `duckdb` or `spark`; by default that of `engine.target_of`.
        without_tests: show dbt only seeds and models, and have it look no further than these; saves half a second.

    Returns:
        dbt's `dbtRunnerResult`; `success` says whether all went well.
    """
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    manifest, engine = parse(home), target_of(home, target)
    if engine == "spark" and arguments[0] not in _WRITING and built_on(home) != "spark":
        engine = "duckdb"  # only a build moves a home
    moment = _text_of(as_of or datetime.now(UTC))
    session, read = None, []
    if engine == "spark":
        from dagster_project.lib.spark import run as spark

        session, read = spark.session(home), views(home, moment)  # before the lock is taken: they take seconds
    if without_tests:
        arguments = [*arguments, "--cache-selected-only"]
    with _LOCK, home.writing(f"dbt {arguments[0]}"):
        with home.connect("dbt") as connection:
            for name, channel in load_channels(home).items():
                try:
                    prepare_warehouse(connection, {name: channel})
                except OnefoldError as error:  # its ingestion fails for it; the others are not held up
                    log.warning("channel %s: %s", name, error)
            seq = next_sequence(connection)
            if arguments[0] in _WRITING:
                refresh = (variables or {}).get("refresh", 0)
                # A rebuild of some models by hand leaves the others as they were; the steps of a refresh build all.
                is_whole = refresh > 0 or not _SELECTING & {argument.split("=")[0] for argument in arguments}
                _settle_engine(home, connection, manifest, engine, seq, is_whole)
                if is_whole and arguments[0] in ("build", "run") and (tables := withdrawn(connection, home, refresh)):
                    arguments, variables = [*arguments, "--full-refresh"], {**(variables or {}), "withdrawn": True}
                    if refresh == 0 or built_refresh(connection) != refresh:
                        log.warning("rows of %s were withdrawn: every model is built anew, ids are kept", ", ".join(tables))
                _note_build(connection, home, refresh, full="--full-refresh" in arguments and is_whole)
                definitions.note(connection, manifest.nodes.values())
        os.environ["ONEFOLD_HOME"] = str(home.path)  # read by profiles.yml
        changed = finished_project(home) != project_state(home)
        given = {**project_variables(home), "seq": seq, "as_of": moment, "project_changed": changed, **(variables or {})}
        command = [*(_QUIET if quiet else []), *arguments, "--vars", json.dumps(given)]

        def invoke(parsed: Any, *options: str) -> Any:
            if without_tests:
                nodes = {name: node for name, node in parsed.nodes.items() if node.resource_type != "test"}
                parsed = replace(parsed, nodes=nodes, unit_tests={})
            return dbtRunner(manifest=parsed, callbacks=[on_event] if on_event else []).invoke([*command, *options])

        if session is not None:
            schemas = {node.schema for unique_id, node in manifest.nodes.items() if unique_id.startswith(BUILT)}
            building = spark.building(home, session, seq, schemas, read)
            with building as threads, _nothing_written() if quiet else nullcontext():
                return invoke(_parsed_for_spark(home), *_folders(home, "spark"), "--threads", str(threads))
        try:
            with _nothing_written() if quiet else nullcontext():
                return invoke(manifest, *_folders(home))
        finally:
            # dbt leaves the file open, which would shut out every other process.
            DuckDBConnectionManager.close_all_connections()


@contextmanager
def _nothing_written() -> Iterator[None]:
    """dbt writes the SQL of each node that it compiles or runs, for which it has no option: a tenth of a small refresh."""
    from dbt.contracts.graph import nodes

    before = nodes.write_file
    nodes.write_file = lambda path, contents: True
    try:
        yield
    finally:
        nodes.write_file = before


def _text_of(moment: datetime) -> str:
    """A moment as models are given it."""
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _settle_engine(home: Home, connection, manifest: Any, engine: str, seq: int, is_whole: bool) -> None:
    """Have the home's state be on the engine that is built on.

    Raises:
        OnefoldError: only some models are built, on another engine than the tables are on.
    """
    from dagster_project.lib.spark import move

    if engine == "duckdb" and built_on(home) == "duckdb":
        move.finish(home)
        return

    nodes = [node for node in manifest.nodes.values() if node.resource_type in ("model", "seed")]
    if engine == built_on(home):
        move.drop_left_behind(connection, nodes)
    elif not is_whole and move.has_any(connection, nodes):
        raise OnefoldError(
            f"the tables are on {built_on(home)}: `onefold refresh --target {engine}` builds all of them on {engine}"
        )
    elif engine == "spark":
        log.info("moving to Spark, with the state of %s", ", ".join(move.to_spark(home, connection, nodes, seq)) or "nothing")
    else:
        log.info("moving to DuckDB, with the state of %s", ", ".join(move.to_duckdb(home, connection, nodes)) or "nothing")


BUILT = ("model.", "seed.")  # of dbt's unique ids, how those of tables begin
# What stands in what is compiled once for the two variables that differ from refresh to refresh.
_NEVER, _LATER = 987_654_321_987_654_321, datetime(2345, 6, 7, 8, 9, 10, 111213)


@dataclass(frozen=True)
class DataTest:
    """One of dbt's data tests, ready to run: it gives the rows that are wrong."""

    unique_id: str  # dbt's
    name: str
    reads: frozenset[str]  # dbt's unique ids of the models and seeds it reads
    sql: str  # as of _LATER, for rows written since _NEVER

    def wrong(self, connection: duckdb.DuckDBPyConnection, as_of: datetime, tested_from: int) -> int:
        """How many rows are wrong, of those written since `tested_from`."""
        sql = self.sql.replace(str(_NEVER), str(tested_from)).replace(str(_LATER), _text_of(as_of))
        return connection.execute(f"select count(*) from ({sql}) as wrong").fetchone()[0]


_views: dict[tuple[str, str], list[tuple[str, str]]] = {}


def views(home: Home, moment: str) -> list[tuple[str, str]]:
    """The views of the project as DuckDB reads them at a moment, (schema.table, query), each after those that it reads."""
    state = (json.dumps(project_variables(home), sort_keys=True), _fingerprint())
    if state not in _views:
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.cli.main import dbtRunner

        arguments = [*_QUIET, "compile", "--select", "config.materialized:view", "--no-introspect", "--no-populate-cache"]
        with _LOCK:
            os.environ["ONEFOLD_HOME"] = str(home.path)  # read by profiles.yml
            variables = {**project_variables(home), "as_of": str(_LATER)}
            done = dbtRunner(manifest=parse(home)).invoke([*arguments, *_folders(home), "--vars", json.dumps(variables)])
            DuckDBConnectionManager.close_all_connections()
        if not done.success:
            raise OnefoldError(failures(done))
        nodes = {node.unique_id: node for node in (result.node for result in done.result.results)}
        read = manifest(home)
        order = sorted(nodes, key=lambda node: (len(ancestors(read, node) & set(nodes)), node))
        _views[state] = [(f"{nodes[n].schema}.{nodes[n].alias}", nodes[n].compiled_code) for n in order]
    return [(name, query.replace(str(_LATER), moment)) for name, query in _views[state]]


_tests: dict[tuple[str, str], list[DataTest]] = {}


def data_tests(home: Home) -> list[DataTest]:
    """All data tests whose failure is an error, compiled once for each state of the project's files.

    dbt takes 40 ms for a test, whatever it asks; asked directly it takes as long as its query. Kept in the home's
    `dbt/data_tests.json` for other processes.

    Raises:
        OnefoldError: with dbt's own message.
    """
    state = (json.dumps(project_variables(home), sort_keys=True), _fingerprint())
    if state not in _tests:
        file, mark = target_folder(home) / "data_tests.json", project_state(home)
        kept = _read_tests(file, mark)
        if kept is None:
            kept = _compile_tests(home)
            draft = file.with_name(f".data_tests-{os.getpid()}.json")  # another process may read it just now
            draft.write_text(json.dumps({"state": mark, "tests": kept}), encoding="utf-8")
            draft.replace(file)
        _tests[state] = [DataTest(unique_id, name, frozenset(reads), sql) for unique_id, name, reads, sql in kept]
    return _tests[state]


def _read_tests(file: Path, state: str) -> list[list[Any]] | None:
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or half of it from a machine that went down
        return None
    return written["tests"] if written["state"] == state else None


def _compile_tests(home: Home) -> list[list[Any]]:
    done = run(
        home, ["compile", "--select", "test_type:data"], as_of=_LATER, variables={"tested_from": _NEVER}, target="duckdb"
    )
    if not done.success:
        raise OnefoldError(failures(done))
    return [
        [node.unique_id, node.name, sorted(n for n in node.depends_on.nodes if n.startswith(BUILT)), node.compiled_code]
        for node in (result.node for result in done.result.results)
        if node.config.severity.lower() == "error"
    ]


@dataclass(frozen=True)
class Statement:
    """The SQL of one model or test, as dbt compiles it, and the files that it is written in: its own, then macros."""

    sql: str
    files: tuple[str, ...]  # below the project's root


def compile_for_spark(home: Home) -> list[Statement]:
    """Every model and test as Spark would get it, incremental models in both forms; nothing connects to a Spark.

    Returns:
        The statements; none where dbt-spark (a development dependency) is not installed.

    Raises:
        OnefoldError: with dbt's own message.
    """
    if importlib.util.find_spec("dbt.adapters.spark") is None:
        return []
    from dbt.cli.main import dbtRunner

    from dagster_project.lib.spark.adapter import unconnected

    os.environ["ONEFOLD_HOME"] = str(home.path)  # read by profiles.yml
    _write_models(home)
    given = {**project_variables(home), "seq": 1, "as_of": "2026-01-31 00:00:00"}
    common = [*_folders(home, "spark"), "--vars", json.dumps(given, sort_keys=True)]
    with _LOCK, unconnected():
        parsed = _parsed_by_dbt(common)
        if not parsed.success:
            raise OnefoldError(f"the dbt project does not parse for Spark: {parsed.exception}")
        statements = []
        for form in (
            ["--full-refresh", "--select", "resource_type:model", "resource_type:test"],
            ["--select", "config.materialized:incremental", "--indirect-selection", "empty"],
        ):
            offline = ["--no-introspect", "--no-populate-cache"]
            done = dbtRunner(manifest=parsed.result).invoke([*_QUIET, "compile", *offline, *form, *common])
            if not done.success:
                raise OnefoldError(f"the dbt project does not compile for Spark: {failures(done)}")
            for node in (result.node for result in done.result.results):
                if node.language == "sql":
                    statements.append(Statement(node.compiled_code, _files(node, parsed.result)))
    return statements


def compile_inline(home: Home, sql: str, engine: str) -> str:
    """SQL with Jinja as dbt compiles it for one engine, "duckdb" or "spark"; nothing connects to it.

    Raises:
        OnefoldError: with dbt's own message.
    """
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    from dagster_project.lib.spark.adapter import unconnected

    os.environ["ONEFOLD_HOME"] = str(home.path)  # read by profiles.yml
    _write_models(home)
    given = {**project_variables(home), "seq": 1, "as_of": "2026-01-31 00:00:00"}
    common = [*_folders(home, engine), "--vars", json.dumps(given, sort_keys=True)]
    with _LOCK, unconnected() if engine == "spark" else nullcontext():
        parsed = _parsed_by_dbt(common)
        if not parsed.success:
            raise OnefoldError(f"the dbt project does not parse for {engine}: {parsed.exception}")
        offline = ["--no-introspect", "--no-populate-cache"]
        done = dbtRunner(manifest=parsed.result).invoke([*_QUIET, "compile", *offline, "--inline", sql, *common])
        DuckDBConnectionManager.close_all_connections()
    if not done.success:
        raise OnefoldError(failures(done))
    return done.result.results[0].node.compiled_code


def _files(node: Any, manifest: Any) -> tuple[str, ...]:
    """Where a node's SQL is written: its file, then those of all macros of this project that it calls."""
    files = {node.original_file_path: None}
    waiting, seen = list(node.depends_on.macros), set()
    while waiting:
        name = waiting.pop(0)
        macro = manifest.macros.get(name)
        if macro is None or name in seen:
            continue
        seen.add(name)
        waiting += macro.depends_on.macros
        if macro.package_name == node.package_name:
            files.setdefault(macro.original_file_path)
    return tuple(f"{PROJECT.name}/{file}" for file in files)


_SELECTING = {"--select", "-s", "--models", "-m", "--exclude", "--selector"}
_WRITING = {"build", "run", "seed", "snapshot"}
_QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-write-json"]


def _models(layer: str, except_for: set[str]) -> list[str]:
    return sorted({file.stem for file in (PROJECT / "models" / layer).glob("**/*.sql")} - except_for)


def _fingerprint() -> str:
    files = [PROJECT / "dbt_project.yml", PROJECT / "profiles.yml"]
    for folder in ("models", "macros", "seeds", "tests"):
        files += sorted(p for p in (PROJECT / folder).glob("**/*") if p.is_file())
    return ";".join(f"{f}:{f.stat().st_mtime_ns}:{f.stat().st_size}" for f in files)


def _note_build(connection, home: Home, refresh: int, full: bool) -> None:
    """Record which refresh builds the tables now (0: somebody by hand), and with which settings.

    Raises:
        OnefoldError: the settings or the reference data changed; rows built under the old ones would stay.
    """
    settings = json.dumps([Settings.of(home).of_models, Rules.of(home).of_models, _funnels(home)])
    content = "".join(file.read_text(encoding="utf-8") for file in sorted((PROJECT / "seeds").glob("*.csv")))
    content += (PROJECT / "dbt_project.yml").read_text(encoding="utf-8")
    mark = hashlib.sha256((settings + content).encode()).hexdigest()[:16]
    connection.execute("create table if not exists staging._built (refresh bigint, settings varchar)")
    before = connection.execute("select settings from staging._built").fetchone()
    if before and before[0] != mark and not full:
        raise OnefoldError(
            "settings, rules of what identifies somebody, funnels, seeds or dbt_project.yml changed since the tables were "
            "built, and rows built before would keep the old ones; run `onefold refresh --full` (customer ids are kept)"
        )
    if full:
        with transaction(connection):
            forget_senders(connection)
            for channel in load_channels(home).values():
                for name, entity in channel.entities.items():
                    learn_values(connection, f"staging.{channel.table(name)}", entity, Settings.of(home))
    connection.execute("delete from staging._built")
    connection.execute("insert into staging._built values (?, ?)", [refresh, mark])


def project_state(home: Home) -> str:
    """Changes with every file of the dbt project, contract and setting."""
    content = json.dumps(project_variables(home), sort_keys=True) + _fingerprint()
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def finished_project(home: Home) -> str | None:
    """The state of the project that the last finished refresh was built with."""
    file = target_folder(home) / "finished"
    return file.read_text() if file.exists() else None


def note_finished_project(home: Home) -> None:
    """Remember the present state of the project as that of a finished refresh."""
    (target_folder(home) / "finished").write_text(project_state(home))


def withdrawn(connection, home: Home, refresh: int) -> list[str]:
    """Entities with withdrawn rows that the tables may still hold; models look at new rows only, so they must be rebuilt.

    A refresh takes in what was withdrawn before it began, in each of its steps; that is done with when it finishes. A build by
    hand takes in everything.
    """
    state = State(home)
    loaded = state.loaded_of(refresh)
    rows = connection.execute(
        "select distinct concat(channel, '/', entity) from staging._withdrawn "
        "where rows_accepted > 0 and withdrawn_seq > ? and withdrawn_seq <= coalesce(?, withdrawn_seq) order by 1",
        [state.progress("refreshed"), loaded],
    ).fetchall()
    return [table for (table,) in rows]


def built_refresh(connection) -> int:
    """The refresh whose tables are in the warehouse; 0 where somebody built some of them by hand since."""
    connection.execute("create table if not exists staging._built (refresh bigint, settings varchar)")
    row = connection.execute("select refresh from staging._built").fetchone()
    return row[0] if row else 0


def _write_sources(home: Home) -> None:
    """Declare every entity's staging table to dbt; made from the contracts, so that nobody lists them twice."""
    tables = []
    for channel in load_channels(home).values():
        for name, entity in channel.entities.items():
            columns = [{"name": c, "description": column.description} for c, column in entity.columns.items()]
            tables.append({"name": channel.table(name), "description": entity.description, "columns": columns})
    content = "# Made from dagster_project/defs/channels/ by every command that reads the dbt project.\n" + yaml.dump(
        {"sources": [{"name": "staging", "tables": tables}]}, Dumper=_DUMPER, sort_keys=False, allow_unicode=True
    )
    file = PROJECT / "models" / "staging" / "sources.yml"
    if not file.exists() or file.read_text(encoding="utf-8") != content:
        file.parent.mkdir(exist_ok=True)
        draft = file.with_name(f".{os.getpid()}.tmp")
        draft.write_text(content, encoding="utf-8")
        draft.replace(file)


def _folders(home: Home, engine: str = "duckdb") -> list[str]:
    # Spark has its own: dbt parses only what changed, as long as the target is the same.
    written = target_folder(home) if engine == "duckdb" else target_folder(home) / engine
    return ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(written), "--target", engine]


_parsed: dict[tuple[str, str], Any] = {}


def _parse(variables: str, fingerprint: str, home: Home) -> Any:
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    if (variables, fingerprint) not in _parsed:
        os.environ["ONEFOLD_HOME"] = str(home.path)  # read by profiles.yml
        result = _parsed_by_dbt([*_folders(home), "--vars", variables])
        DuckDBConnectionManager.close_all_connections()
        if not result.success:
            raise OnefoldError(f"the dbt project does not parse: {result.exception}")
        _parsed[variables, fingerprint] = result.result
    return _parsed[variables, fingerprint]


def _parsed_for_spark(home: Home) -> Any:
    """dbt's manifest as Spark needs it, parsed once a process for each state of the files; not the one that Dagster reads."""
    from dagster_project.lib.spark.adapter import unconnected

    variables, state = json.dumps(project_variables(home), sort_keys=True), f"spark {_fingerprint()}"
    if (variables, state) not in _parsed:
        with unconnected():
            result = _parsed_by_dbt([*_folders(home, "spark"), "--vars", variables])
        if not result.success:
            raise OnefoldError(f"the dbt project does not parse for Spark: {result.exception}")
        _parsed[variables, state] = result.result
    return _parsed[variables, state]


def _parsed_by_dbt(arguments: list[str]) -> Any:
    from dbt.cli.main import dbtRunner

    command = [*_QUIET, "parse", *arguments]
    with without_collection():
        result = dbtRunner().invoke(command)
        if not result.success:  # what moved to another file is there twice for dbt, which reads only files that changed
            result = dbtRunner().invoke([*command, "--no-partial-parse"])
    return result


@contextmanager
def without_collection() -> Iterator[None]:
    """Python's search for garbage waits: what makes many objects that stay takes a quarter longer with it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def target_folder(home: Home) -> Path:
    """Where dbt keeps what it makes of the project: manifest, compiled SQL, documentation."""
    return home.path / "dbt"


def failures(result: Any) -> str:
    """What went wrong in a dbt command, a line for each node, in the database's words but without values of the data."""
    if result.exception:
        return with_remedy(str(result.exception))
    broken = [r for r in getattr(result.result, "results", []) if r.status in ("error", "fail", "runtime error")]
    return with_remedy("\n".join(f"{r.node.name}: {_words(r.message or r.status)}" for r in broken) or "dbt failed")


def _words(message: str) -> str:
    """dbt's message in one line, without the excerpt of the SQL and, where rows were at work, without quoted values."""
    lines = itertools.takewhile(lambda line: not line.startswith("LINE "), (line.strip() for line in message.splitlines()))
    text = " ".join(line for line in lines if line)
    if text.startswith("Compilation Error"):
        return text
    return re.sub(r"""'[^']*'|"[^"]*: [^"]*"|"[^"]*@[^"]*\"""", "'…'", text)


def manifest(home: Home) -> dict[str, Any]:
    """dbt's manifest of the project as it is on disk, as dbt writes it."""
    parse(home)
    file = target_folder(home) / "manifest.json"
    return _read_manifest(file, file.stat().st_mtime_ns)


def ancestors(manifest: dict[str, Any], node: str) -> set[str]:
    """The unique ids of all that a node reads, directly or through others."""
    found, waiting = set[str](), [node]
    while waiting:
        parents = set(manifest["parent_map"].get(waiting.pop(), [])) - found
        found |= parents
        waiting += parents
    return found


def is_daily(node: dict[str, Any]) -> bool:
    """Whether a node of the manifest is built by the first refresh of each day only."""
    return node["config"].get("meta", {}).get("refresh") == "daily"


@functools.lru_cache(maxsize=2)
def _read_manifest(file: Path, modified: int) -> dict[str, Any]:
    return json.loads(file.read_text())
