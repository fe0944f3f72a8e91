"""dbt's models as assets, built by dbt in this process: a subprocess would cost seconds for each step."""

import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components.utils.defs_state import DefsStateConfig
from dagster_dbt import DbtCliResource, DbtProject, DbtProjectComponent
from dagster_dbt.asset_utils import get_asset_check_key_for_test, get_updated_cli_invocation_params_for_context
from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage
from dagster_dbt.dbt_project_manager import NoopDbtProjectManager
from google.protobuf.json_format import MessageToDict

from dagster_project.jobs import clear_failures
from dagster_project.lib import dbt as onefold_dbt
from dagster_project.lib.engine import target_of
from dagster_project.lib.home import Home
from dagster_project.lib.progress import tell_dbt
from dagster_project.lib.refresh import leaving_out, scope_of
from dagster_project.lib.state import State

AS_OF_TAG = "onefold/as_of"
TARGET_TAG = "onefold/target"  # the engine to build on; by default the one of the home
_NOTHING_NEW = {"status": "nothing new"}
_RESULTS = {"LogModelResult", "LogSeedResult", "LogSnapshotResult", "LogTestResult"}


class DbtInProcess(DbtProjectComponent):
    """A selection of the dbt project, parsed when definitions load and run under the home's write lock."""

    @cached_property
    def _project_manager(self) -> NoopDbtProjectManager:
        home = Home.from_environment()
        folder = str(onefold_dbt.PROJECT)
        return NoopDbtProjectManager(
            DbtProject(project_dir=folder, profiles_dir=folder, target_path=str(onefold_dbt.target_folder(home)))
        )

    @property
    def defs_state_config(self) -> DefsStateConfig:
        # The stock key is the project's, which several selections of it share.
        config = super().defs_state_config
        return DefsStateConfig(
            key=f"{config.key}[{self.op.name}]",
            management_type=config.management_type,
            refresh_if_dev=config.refresh_if_dev,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        # dagster-dbt insists on finding the executable, although it is never started.
        here = str(Path(sys.executable).parent)
        if here not in os.environ.get("PATH", "").split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), here])
        onefold_dbt.parse(Home.from_environment().prepare())
        return self.build_defs_from_state(context, None)

    @cached_property
    def _specs(self) -> dict[str, dg.AssetSpec]:
        return {}

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """A table's name as the asset's key, its schema as the group."""
        if unique_id not in self._specs:  # asked for with each reader and each test of a node
            node = self.get_resource_props(manifest, unique_id)
            self._specs[unique_id] = (
                super()
                .get_asset_spec(manifest, unique_id, project)
                .replace_attributes(key=[node["schema"], node.get("alias") or node["name"]], group_name=node["schema"])
            )
        return self._specs[unique_id]

    def execute(self, context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
        home = Home.from_environment().prepare()
        home.attend(context.run.run_id)
        with clear_failures():
            home.keep_turn("refresh")
            yield from self._build(context, home)

    def _build(self, context: dg.AssetExecutionContext, home: Home) -> Iterator[Any]:
        given = context.run.tags.get(AS_OF_TAG)
        state = State(home)
        refresh = state.refresh(context.run.root_run_id or context.run.run_id, datetime.fromisoformat(given) if given else None)
        full = bool(context.run.tags.get("onefold/full_refresh"))
        target = context.run.tags.get(TARGET_TAG)
        scope = scope_of(home, state, refresh, full=full, target=target)
        # Spark tests what Spark holds; here dbt would take most of its time for tests that take milliseconds.
        asks_tests = target_of(home, target) == "duckdb"
        params = get_updated_cli_invocation_params_for_context(context, {}, self.translator)
        arguments = [*self.get_cli_args(context), *params.selection_args]
        if params.indirect_selection:
            arguments += ["--indirect-selection", params.indirect_selection]
        if full:
            arguments.append("--full-refresh")
        left_out: dict[str, dg.AssetKey] = {}  # as good as built; without its output Dagster would skip what is downstream
        if not full and not context.is_subset:
            for node in scope.in_order(params.manifest):
                key = params.dagster_dbt_translator.get_asset_spec(params.manifest, node, params.dbt_project).key
                if key in context.selected_asset_keys:
                    left_out[node] = key
            arguments += leaving_out(left_out, params.manifest)
        events: queue.SimpleQueue = queue.SimpleQueue()

        def on_event(event: Any) -> None:
            tell_dbt(event)
            if event.info.name in _RESULTS:
                events.put(MessageToDict(event, preserving_proto_field_name=True))

        def work() -> None:
            try:
                events.put(
                    onefold_dbt.run(
                        home,
                        arguments,
                        as_of=refresh.as_of,
                        variables=scope.variables,
                        on_event=on_event,
                        without_tests=asks_tests,
                        target=target,
                    )
                )
            except BaseException as error:  # handed to the step's own thread, which raises it
                events.put(error)

        threading.Thread(target=work, daemon=True).start()
        while isinstance(item := events.get(), dict):
            # Dagster wants to hear of each asset after those it reads.
            before = onefold_dbt.ancestors(params.manifest, item["data"]["node_info"]["unique_id"])
            yield from _nothing_new(context, {node: left_out.pop(node) for node in [*left_out] if node in before})
            yield from DbtCoreCliEventMessage(item, {}).to_default_asset_events(
                params.manifest, params.dagster_dbt_translator, context, project=params.dbt_project
            )
        if isinstance(item, BaseException):
            raise item
        if not item.success:
            raise dg.Failure(onefold_dbt.failures(item), allow_retries=False)
        yield from _nothing_new(context, left_out)
        if asks_tests:
            idle = scope.idle if not full and not context.is_subset else frozenset()
            yield from _ask_tests(context, home, params, idle, refresh.as_of, scope.variables["tested_from"])


def _ask_tests(
    context: dg.AssetExecutionContext, home: Home, params: Any, idle: frozenset[str], as_of: datetime, tested_from: int
) -> Iterator[dg.AssetCheckResult]:
    """The data tests of a step's tables, without dbt.

    Raises:
        dg.Failure: rows are wrong; with the tests and how many.
    """
    manifest, translator = params.manifest, params.dagster_dbt_translator
    built = {
        node
        for node in manifest["nodes"]
        if node.startswith(onefold_dbt.BUILT)
        and translator.get_asset_spec(manifest, node, params.dbt_project).key in context.selected_asset_keys
    }
    known = built.union(*(onefold_dbt.ancestors(manifest, node) for node in built))
    asked = []
    for test in onefold_dbt.data_tests(home):
        if test.reads & built - idle and test.reads <= known:
            key = get_asset_check_key_for_test(manifest, translator, test.unique_id, project=params.dbt_project)
            if key is None or key in context.selected_asset_check_keys:
                asked.append((test, key))
    with home.connect("data tests") as connection:
        wrong = {test.unique_id: test.wrong(connection, as_of, tested_from) for test, _ in asked}
    for test, key in asked:
        if key is not None:  # it is on one table
            metadata = {"unique_id": test.unique_id, "rows_wrong": wrong[test.unique_id]}
            passed = not wrong[test.unique_id]
            yield dg.AssetCheckResult(passed=passed, asset_key=key.asset_key, check_name=key.name, metadata=metadata)
    if failed := [f"{test.name}: {wrong[test.unique_id]} rows are wrong" for test, _ in asked if wrong[test.unique_id]]:
        raise dg.Failure("\n".join(failed), allow_retries=False)


def _nothing_new(context: dg.AssetExecutionContext, keys: dict[str, dg.AssetKey]) -> Iterator[Any]:
    for key in keys.values():
        yield dg.Output(None, key.to_python_identifier(), metadata=_NOTHING_NEW)
        for check in context.selected_asset_check_keys:
            if check.asset_key == key:
                yield dg.AssetCheckResult(passed=True, asset_key=key, check_name=check.name, metadata=_NOTHING_NEW)
