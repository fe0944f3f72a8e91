"""Funnels: the shipped ones, with those of a home's `funnels.yaml`."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dagster_project.lib.contracts import NAME, YAML_LOADER
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home

SHIPPED = PROJECT_ROOT / "dbt" / "funnels.yaml"
MOST_STEPS = 8  # analytics.funnel_entries has a column for the time of each
# Texts of unified.customer_events that say what an event was about, and name nobody.
COLUMNS = (
    "channel",
    "source_table",
    "direction",
    "product_id",
    "currency",
    "campaign_id",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "search_term",
    "device_class",
)


class Step(BaseModel):
    """What counts as one step: any of some events, if it has one of the values in each column that is named."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    name: str = Field(pattern=r"^[^'\\]+$", description="For people.")
    events: tuple[str, ...] = Field(min_length=1, description="Names of events as in unified.customer_events.")
    where: dict[str, tuple[str, ...]] = Field({}, description="column of the event: value or values")

    @field_validator("events", mode="before")
    @classmethod
    def _one_event_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("events")
    @classmethod
    def _events_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[a-z0-9À-힣_]+", name):
                raise ValueError(f"'{name}' is no name of an event; they are in snake case, as product_viewed")
        return tuple(dict.fromkeys(value))

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {column: given if isinstance(given, list | tuple) else [given] for column, given in value.items()}

    @field_validator("where")
    @classmethod
    def _columns_are_known(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for column, values in value.items():
            if column not in COLUMNS:
                raise ValueError(f"there is no column '{column}' to ask; there are {', '.join(COLUMNS)}")
            if not values:
                raise ValueError(f"{column}: name at least one value")
            for given in values:
                # Engines differ in how they are written in a text.
                if "'" in given or "\\" in given:
                    raise ValueError(f"{column}: a value has no quotes and no backslashes")
        return value


class Funnel(BaseModel):
    """Ordered steps that a customer may go within a window."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field("", description="For people.")
    window_days: int = Field(7, ge=1, le=365, description="From the first step to the last.")
    order: Literal["loose", "strict"] = Field("loose", description="Whether other steps may come between two.")
    segment: str | None = Field(None, description="A tag whose values the funnel is split by.")
    steps: tuple[Step, ...] = Field(min_length=2, max_length=MOST_STEPS)

    @field_validator("steps")
    @classmethod
    def _names_differ(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        names = [step.name for step in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two steps are named '{name}'; give each its own name")
        return value


def load_funnels(home: Home, tags: Collection[str]) -> dict[str, Funnel]:
    """All funnels by name.

    Args:
        tags: names of all tags, which a funnel may be split by.

    Raises:
        OnefoldError: a funnel is wrong; names file, key and remedy.
    """
    file = home.path / "funnels.yaml"
    shipped = _read(SHIPPED, tags)
    own = _read(file, tags) if file.exists() else {}
    for name, funnel in own.items():
        if funnel is None and name not in shipped:
            raise OnefoldError(f"{file}: {name}: there is no such funnel to drop; shipped are {', '.join(shipped)}")
    return {name: funnel for name, funnel in {**shipped, **own}.items() if funnel is not None}


def _read(file: Path, tags: Collection[str]) -> dict[str, Funnel | None]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=YAML_LOADER) or {}
    except yaml.YAMLError as error:
        raise OnefoldError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise OnefoldError(f"{file}: expected one entry a funnel, its name and its keys")
    funnels: dict[str, Funnel | None] = {}
    for name, given in content.items():
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise OnefoldError(f"{file}: {name}: write names of funnels in lower case with underscores")
        if given is None:
            funnels[name] = None
            continue
        try:
            funnels[name] = Funnel.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}" for e in error.errors())
            raise OnefoldError(f"{file}: {problems}. docs/analysis.md shows every key") from error
        if (tag := funnels[name].segment) is not None and tag not in tags:
            raise OnefoldError(f"{file}: {name}.segment: there is no tag '{tag}'; there are {', '.join(sorted(tags))}")
    return funnels
