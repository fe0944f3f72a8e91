"""What the names in an audience may stand for: tags, events, traits, funnels and other audiences of the project."""

import csv
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dagster_project.lib.audiences.form import place_key
from dagster_project.lib.contracts import YAML_LOADER
from dagster_project.lib.funnels import COLUMNS, Funnel

# Tags of sensitive groups serve these purposes and no other: a purpose that nobody thought of is refused, too.
CARING = ("care", "service")
EVENT_COLUMNS = (*COLUMNS, "category", "brand")
PREFIX = "audiences_"

_NUMBERS = ("bigint", "double", "decimal")


@dataclass(frozen=True)
class TagInfo:
    label: str
    label_zh: str
    is_restricted: bool = False


@dataclass(frozen=True)
class Trait:
    kind: str  # text, number, time, boolean, private (asked is only whether it is known) or age
    label: str


@dataclass(frozen=True)
class Known:
    """The names of the project; `models` are the audiences that analysts wrote, with their SQL and purpose."""

    tags: Mapping[str, TagInfo]
    events: Collection[str]
    traits: Mapping[str, Trait]
    funnels: Mapping[str, Funnel]
    models: Mapping[str, str] = field(default_factory=dict)
    cities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # every way to write one, by place_key

    def spellings(self, city: str) -> tuple[str, ...]:
        """The place keys of a city, in every language that is known of it."""
        key = place_key(city)
        return self.cities.get(key, (key,))

    def step(self, funnel: str, named: str) -> int | None:
        """The number of a funnel's step by its name or number; None if there is no such step."""
        names = [step.name for step in self.funnels[funnel].steps]
        if named in names:
            return names.index(named) + 1
        return int(named) if named.isdecimal() and 1 <= int(named) <= len(names) else None

    def restricted(self, sql: str) -> list[str]:
        """The restricted tags that a model's SQL names, by the model or among all tags."""
        return sorted(
            name for name, tag in self.tags.items() if tag.is_restricted and re.search(rf"""['"](tags_)?{name}['"]""", sql)
        )


def of_project(project: Path, made: Path, tags: Collection[str], funnels: Mapping[str, Funnel]) -> Known:
    """What a dbt project has.

    Args:
        made: folder of the models that are made from YAML, which are no audiences of analysts.
        tags: names of its tags.
        funnels: of the home.
    """
    models = project / "models"
    described = _models_of(*(_stamped(file) for file in sorted((models / "tags").glob("**/*.yml"))))
    customers = _models_of(*(_stamped(file) for file in sorted((models / "unified").glob("*.yml"))))["unified_customers"]
    sql = {
        file.stem.removeprefix(PREFIX): file.read_text(encoding="utf-8")
        for file in sorted((models / "audiences").glob("**/*.sql"))
        if made not in file.parents
    }
    events = {
        *_vocabulary(_stamped(project / "seeds" / "event_vocabulary.csv")),
        *_event_literals(*(_stamped(file) for file in sorted((models / "cleaned").glob("*.sql")))),
        *(event for funnel in funnels.values() for step in funnel.steps for event in step.events),
    }
    return Known(
        tags={name: _tag(name, described.get(f"tags_{name}", {})) for name in tags},
        events=frozenset(events),
        traits=_traits(customers),
        funnels=funnels,
        models=sql,
        cities=_cities(_stamped(project / "seeds" / "city_tiers.csv")),
    )


Stamped = tuple[Path, int, int]


def _stamped(file: Path) -> Stamped:
    """A file with what changes when it does: its content is looked at once."""
    found = file.stat()
    return file, found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=8)
def _models_of(*files: Stamped) -> dict[str, dict[str, Any]]:
    found = {}
    for file, *_ in files:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=YAML_LOADER) or {}
        found |= {model["name"]: model for model in content.get("models") or []}
    return found


@functools.lru_cache(maxsize=2)
def _vocabulary(file: Stamped) -> frozenset[str]:
    with file[0].open(encoding="utf-8", newline="") as handle:
        return frozenset(row["event_name"] for row in csv.DictReader(handle))


@functools.lru_cache(maxsize=2)
def _event_literals(*files: Stamped) -> frozenset[str]:
    """Events that models name themselves: event_name="'call_made'", or the values of its case."""
    named = (text for file, *_ in files for text in re.findall(r'event_name="([^"]*)"', file.read_text(encoding="utf-8")))
    return frozenset(event for text in named for event in re.findall(r"(?:^|then|else)\s*'(\w+)'", text))


@functools.lru_cache(maxsize=2)
def _cities(file: Stamped) -> dict[str, tuple[str, ...]]:
    with file[0].open(encoding="utf-8", newline="") as handle:
        named = [(place_key(row["name_zh"] or ""), place_key(row["name_en"] or "")) for row in csv.DictReader(handle)]
    spelled: dict[str, set[str]] = {}
    for names in named:
        for name in filter(None, names):
            spelled.setdefault(name, set()).update(filter(None, names))
    # Latin letters may stand for two cities: whoever says 台州 does not mean 泰州.
    return {name: tuple(sorted(others)) for name, others in spelled.items()}


def _tag(name: str, model: dict[str, Any]) -> TagInfo:
    meta = (model.get("config") or {}).get("meta") or {}
    label = meta.get("display_name_en", name)
    return TagInfo(label, meta.get("display_name_zh", label), meta.get("sensitivity") == "restricted")


def _traits(customers: dict[str, Any]) -> dict[str, Trait]:
    found = {"age": Trait("age", "Age in whole years")}
    for column in customers["columns"]:
        name, type_ = column["name"], column["data_type"]
        masking = ((column.get("config") or {}).get("meta") or {}).get("masking")
        if name in ("customer_id", "is_known") or name.endswith("_source") or masking == "internal":
            continue
        if type_ == "string":
            kind = "private" if masking == "private" else "text"
        elif type_.startswith(_NUMBERS):
            kind = "number"
        else:
            kind = {"boolean": "boolean"}.get(type_, "time")
        label = (column.get("description") or name).rstrip(".")
        found[name] = Trait(kind, label)
    return found
