"""What one refresh has to build and test: models whose input did not change are left as they are."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dagster_project.lib import dbt, engine, quality
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import prepare_warehouse
from dagster_project.lib.state import Refresh, State


@dataclass(frozen=True)
class Scope:
    """What a refresh tells its dbt steps."""

    variables: dict[str, Any]
    idle: frozenset[str]  # dbt's unique ids of seeds and models that have nothing new

    def in_order(self, manifest: dict[str, Any]) -> list[str]:
        """The idle nodes, each after those it reads."""
        return sorted(self.idle, key=lambda node: (len(self.idle & dbt.ancestors(manifest, node)), node))


def leaving_out(nodes: Iterable[str], manifest: dict[str, Any]) -> list[str]:
    """dbt's arguments that leave nodes out, with the tests on them. dbt looks through its whole graph for each."""
    names = sorted(manifest["nodes"][node]["name"] for node in nodes)
    return ["--exclude", *names] if names else []


def scope_of(home: Home, state: State, refresh: Refresh, *, full: bool = False, target: str | None = None) -> Scope:
    """The scope of a refresh, the same for all of its steps.

    A model of the cleaned layer is idle when nothing was loaded for its entity since the last finished refresh and no
    reference table that it joins changed; a tag or report of daily refresh, once a refresh of the day has finished. Data
    tests judge the rows written since that refresh; the first refresh of each day tests whole tables. After a change of the
    dbt project nothing is idle.
    """
    last = state.last_finished_refresh()
    taken_in = state.progress("refreshed")
    is_again = last is not None and last.as_of.date() == refresh.as_of.date()
    variables = {
        "refresh": refresh.number,
        "judged_from": max(taken_in, state.approved_load("ingestion")),
        **quality.history(state, refresh),
        "tested_from": taken_in if is_again and not full else 0,
    }
    is_moving = engine.target_of(home, target) != engine.built_on(home)
    if last is None or full or is_moving or dbt.finished_project(home) != dbt.project_state(home):
        return Scope(variables, frozenset())
    with home.connect("refresh") as connection:
        prepare_warehouse(connection, {})
        if dbt.withdrawn(connection, home, refresh.number):
            return Scope({**variables, "tested_from": 0}, frozenset())
        return Scope(variables, frozenset(_idle(connection, home, dbt.manifest(home), taken_in, is_again)))


def _idle(connection, home: Home, manifest: dict[str, Any], since: int, is_again: bool) -> set[str]:
    loads = connection.execute(
        "select distinct channel, entity from staging._loads where seq > ? and status <> 'refused'", [since]
    ).fetchall()
    loaded = {f"model.onefold.cleaned_{channel}_{entity}" for channel, entity in loads}
    present = set(
        connection.execute(
            "select table_schema, table_name from information_schema.tables where table_catalog = current_catalog()"
        ).fetchall()
    )
    entities = {f"model.onefold.cleaned_{c.table(e)}" for c in load_channels(home).values() for e in c.entities}
    busy = loaded | {child for model in loaded for child in manifest["child_map"].get(model, [])}
    seeds = {node for node in manifest["nodes"] if node.startswith("seed.")}
    daily = {n for n, node in manifest["nodes"].items() if dbt.is_daily(node)}
    idle = ((entities & set(manifest["nodes"])) - busy) | seeds | (daily if is_again else set())
    return {n for n in idle if (manifest["nodes"][n]["schema"], manifest["nodes"][n]["alias"]) in present}
