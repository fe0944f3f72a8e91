"""The rules of identity: what each identifier type is worth, what it may not be, and how many of it a customer may have."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import duckdb
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dagster_project.lib.contracts import YAML_LOADER
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

SHIPPED = Path(__file__).with_name("rules.yaml")
CARRIERS_FROM = 100  # priorities of carriers come after those of all person identifiers


class Limit(BaseModel):
    """At most so many values a customer, ever or first seen within so many days."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    most: int = Field(ge=1)
    days: int | None = Field(None, ge=1)


class IdentifierType(BaseModel):
    """What one identifier type is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["person", "carrier"]
    priority: int = Field(ge=1, lt=CARRIERS_FROM, description="1 is trusted most; carriers come after all persons.")
    alone: bool = Field(True, description="Whether it names somebody by itself, or only as a part of a type such as a+b.")
    limits: tuple[Limit, ...] = ()
    blocked: tuple[str, ...] = Field((), description="Patterns of whole values that stand for nobody, beside the common ones.")
    recycled_after_days: int | None = Field(
        None, ge=1, description="After so long a silence a value may be somebody else's, if its records say so."
    )
    idle_minutes: int | None = Field(
        None, ge=1, description="Of a carrier: a log-in counts for the whole visit; a longer pause ends a visit."
    )

    @field_validator("blocked")
    @classmethod
    def _patterns_are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _patterns(value)

    @model_validator(mode="after")
    def _carriers_are_cut_at_log_ins(self) -> "IdentifierType":
        if self.kind == "carrier" and self.recycled_after_days:
            raise ValueError("recycled_after_days is for person identifiers; carriers are cut at their log-ins")
        if self.kind == "person" and self.idle_minutes:
            raise ValueError("idle_minutes is for carriers; person identifiers are cut after recycled_after_days")
        return self

    @property
    def is_person(self) -> bool:
        return self.kind == "person"

    @property
    def rank(self) -> int:
        """The order of trust over all types."""
        return self.priority if self.is_person else CARRIERS_FROM + self.priority


class Matching(BaseModel):
    """How sure is sure enough, and how much may be compared.

    A threshold is the probability, by the model, that the weakest pair it lets in is right; the pairs above it are better.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    transactional: float = Field(0.999, gt=0.5, lt=1, description="Merges customers: at most one wrong pair in a thousand.")
    lifecycle: float = Field(0.95, gt=0, lt=1, description="Groups for messages: one wrong in twenty is a wrong greeting.")
    advertising: float = Field(0.5, gt=0, lt=1, description="Groups for reach: more likely one person than two.")
    review: float = Field(
        0.1, gt=0, lt=1, description="From here up to transactional people decide; below, pairs are not kept."
    )
    largest_block: int = Field(
        200, ge=2, description="Profiles that share a value and are all compared; so a rule makes at most half of it a profile."
    )
    seed: int = Field(1, ge=0)

    @property
    def thresholds(self) -> dict[str, float]:
        """The grades of a pair, the strictest first, and the probability from which each is given."""
        return {"transactional": self.transactional, "lifecycle": self.lifecycle, "advertising": self.advertising}

    @model_validator(mode="after")
    def _are_in_order(self) -> "Matching":
        if not self.review < self.advertising < self.lifecycle < self.transactional:
            raise ValueError("thresholds must rise: review < advertising < lifecycle < transactional")
        return self


class Rules(BaseModel):
    """A home's rules: those that are shipped, with what its `identity.yaml` says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    types: dict[str, IdentifierType]
    undeclared: IdentifierType
    blocked: tuple[str, ...]
    longest: int = Field(ge=1)
    matching: Matching = Matching()

    @field_validator("blocked")
    @classmethod
    def _patterns_are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _patterns(value)

    @model_validator(mode="after")
    def _order_is_total(self) -> "Rules":
        ranks: dict[int, str] = {}
        for name, identifier in self.types.items():
            if (other := ranks.setdefault(identifier.rank, name)) != name:
                raise ValueError(f"types {other} and {name} have priority {identifier.priority}; give each its own")
        return self

    @model_validator(mode="after")
    def _parts_are_types(self) -> "Rules":
        for name in self.together:
            if not all(parts := name.split("+")) or len(set(parts)) < len(parts):
                raise ValueError(
                    f"type {name}: name the different types that name somebody together, such as member_id+store_id"
                )
        return self

    @classmethod
    def of(cls, home: Home) -> "Rules":
        """The rules of a home.

        Raises:
            OnefoldError: `identity.yaml` has an unknown key or a wrong value; names file, key and remedy.
        """
        return cls.read(home.path / "identity.yaml")

    @classmethod
    def read(cls, file: Path) -> "Rules":
        """The shipped rules, with what a file says otherwise; one that does not exist says nothing.

        Raises:
            OnefoldError: the file has an unknown key or a wrong value; names file, key and remedy.
        """
        rules = yaml.load(SHIPPED.read_text(), YAML_LOADER)
        try:
            given = (yaml.load(file.read_text(), YAML_LOADER) if file.exists() else None) or {}
        except yaml.YAMLError as error:
            raise OnefoldError(f"{file}: not valid YAML: {error}") from error
        if not isinstance(given, dict) or not isinstance(given.get("types", {}), dict):
            raise OnefoldError(f"{file}: expected settings such as `types:` with one entry an identifier type")
        for name, changed in given.pop("types", {}).items():
            kept = rules["types"].get(name, {})
            rules["types"][name] = {**kept, **changed} if isinstance(changed, dict) else changed
        try:
            matching = {**rules.pop("matching"), **(given.pop("matching", None) or {})}
            return cls.model_validate({**rules, **given, "matching": matching})
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'rules'}: {e['msg']}" for e in error.errors())
            raise OnefoldError(f"{file}: {problems}. The shipped rules show every key: {SHIPPED.name}") from error

    @property
    def version(self) -> str:
        """Changes with every rule."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def of_models(self) -> dict[str, Any]:
        """dbt's variables of the models that read identifiers."""
        types = {
            name: {
                "rank": identifier.rank,
                "is_person": identifier.is_person,
                "alone": identifier.alone,
                "blocked": list(identifier.blocked),
            }
            for name, identifier in {**self.types, "": self.undeclared}.items()
        }
        return {"identifier_types": types, "blocked_identifier_values": list(self.blocked), "longest_identifier": self.longest}

    @property
    def together(self) -> list[str]:
        """Types whose values are those of two or more types on one record."""
        return [name for name in self.types if "+" in name]

    def of_type(self, name: str) -> IdentifierType:
        return self.types.get(name, self.undeclared)


@functools.cache
def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    """Check patterns as the warehouse reads them: without look-around and back references."""
    with duckdb.connect() as connection:
        for pattern in value:
            try:
                connection.execute("select regexp_matches('', ?)", [pattern])
            except duckdb.Error as error:
                raise ValueError(f"'{pattern}' is not a regular expression of RE2: {str(error).splitlines()[0]}") from error
    return value
