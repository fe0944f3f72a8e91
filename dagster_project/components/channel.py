"""The component behind `defs/channels/<channel>/defs.yaml`."""

import json
from collections.abc import Iterator

import dagster as dg
from pydantic import BaseModel

from dagster_project.jobs import clear_failures
from dagster_project.lib.contracts import ChannelContract, parse_channel, source_files
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import EntityLoad, ingest_channel
from dagster_project.lib.reingest import Again, reingest
from dagster_project.lib.settings import Settings

AGAIN_TAG = "onefold/again"  # what to read again, as JSON of Again


class Channel(dg.Component):
    """One channel: each of its entities is an asset `[staging, <channel>_<entity>]`, all loaded by one step."""

    def __init__(self, contract: ChannelContract) -> None:
        self.contract = contract

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return ChannelContract

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "Channel":
        # Parsed by our own reader: its errors name file, key and remedy.
        return cls(parse_channel(context.path / "defs.yaml").with_sources(source_files(Home.from_environment())))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        contract = self.contract
        specs = [
            dg.AssetSpec(
                key=["staging", contract.table(name)],
                group_name="staging",
                owners=[contract.owner],
                kinds={"duckdb", *{source.format or "file" for source in entity.sources}},
                description=f"{entity.description} {contract.description}",
                metadata={
                    "business_key": ", ".join(entity.key),
                    "identifiers": ", ".join(sorted(set(entity.identifiers.values()))) or "none",
                    "dagster/column_schema": dg.TableSchema(
                        columns=[
                            dg.TableColumn(
                                column,
                                definition.type,
                                definition.description or None,
                                constraints=dg.TableColumnConstraints(nullable=not definition.required),
                            )
                            for column, definition in entity.columns.items()
                        ]
                    ),
                },
            )
            for name, entity in contract.entities.items()
        ]

        @dg.multi_asset(
            name=f"ingest_{contract.channel}",
            specs=specs,
            check_specs=[dg.AssetCheckSpec("files_accepted", asset=spec.key) for spec in specs],
            pool="warehouse",
            retry_policy=dg.RetryPolicy(max_retries=2, delay=5),
        )
        def ingest(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
            home = Home.from_environment().prepare()
            home.attend(context.run.run_id)
            with clear_failures():
                # Who asks by hand has finished writing; a sensor or schedule cannot know.
                automatic = {"dagster/sensor_name", "dagster/schedule_name"} & set(context.run.tags)
                settings, loads = Settings.of(home), []
                if again := context.run.tags.get(AGAIN_TAG):
                    loads = reingest(home, contract, settings, Again(**json.loads(again)))
                loads += ingest_channel(home, contract, settings, settle=bool(automatic))
            for spec in specs:
                yield _result(_together([load for load in loads if load.table == spec.key.path[-1]]))

        return dg.Definitions(assets=[ingest])


def _together(loads: list[EntityLoad]) -> EntityLoad:
    """What was read again and what is new, of one entity."""
    first, *others = loads
    for load in others:
        for name, value in vars(load).items():
            if name != "table":
                present = getattr(first, name)
                setattr(first, name, present | value if isinstance(value, set) else present + value)
    return first


def _result(load: EntityLoad) -> dg.MaterializeResult:
    refused = "\n".join(f"- `{file}`: {reason}" for file, reason in load.refused)
    return dg.MaterializeResult(
        asset_key=["staging", load.table],
        metadata={
            "rows_read": load.read,
            "rows_accepted": load.accepted,
            "rows_rejected": load.rejected,
            "rows_duplicate": load.duplicate,
            "rows_withdrawn": load.withdrawn,
            "files_loaded": load.files,
            "files_known": load.known_files,
            "unknown_columns": ", ".join(sorted(load.unknown_columns)) or "none",
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="files_accepted",
                asset_key=["staging", load.table],
                passed=not load.refused,
                metadata={"refused": dg.MetadataValue.md(refused or "none")},
            )
        ],
    )
