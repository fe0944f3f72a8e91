"""Channel contracts: what each channel's entities look like, and how a source's own columns become theirs."""

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home

CHANNELS = PROJECT_ROOT / "dagster_project" / "defs" / "channels"
COMPONENT_TYPE = "dagster_project.components.channel.Channel"

# Contract type → type of the staging column.
STAGING_TYPES = {
    "text": "VARCHAR",
    "integer": "BIGINT",
    "decimal": "DECIMAL(18, 4)",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
    "json": "JSON",
}
# The safe loader in C where PyYAML has it: contracts are read often, and it is several times faster.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
M = TypeVar("M", bound=BaseModel)
BUILT_IN = "landing"  # the source that every entity has: landing/<channel>/<entity>/
NAME = r"^[a-z][a-z0-9_]*$"
# Words that neither DuckDB nor Spark takes for a column without quotes.
_RESERVED = frozenset(
    [
        "all",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "cross",
        "current_date",
        "default",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "exists",
        "false",
        "fetch",
        "for",
        "foreign",
        "from",
        "full",
        "grant",
        "group",
        "having",
        "in",
        "initially",
        "inner",
        "intersect",
        "into",
        "is",
        "join",
        "lateral",
        "leading",
        "left",
        "limit",
        "natural",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "placing",
        "primary",
        "qualify",
        "references",
        "returning",
        "right",
        "select",
        "some",
        "symmetric",
        "table",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "using",
        "when",
        "where",
        "window",
        "with",
    ]
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """One column of an entity."""

    type: Literal["text", "integer", "decimal", "number", "boolean", "timestamp", "date", "json"] = "text"
    required: bool = False
    description: str = ""
    allowed: tuple[str, ...] = Field((), description="The only values accepted, compared without regard to case.")
    pattern: str | None = Field(None, description="A regular expression that the whole value has to match.")
    unit: str | None = Field(None, description="The measure's unit, for people.")
    format: (
        Literal[
            "phone",
            "email",
            "identifier",
            "person_name",
            "birth_date",
            "country",
            "currency",
            "url",
            "user_agent",
            "ip_address",
        ]
        | None
    ) = Field(None, description="What a text holds; cleaning brings it to one form. identifier: phone, e-mail or id.")


class Source(_Strict):
    """Where files of an entity come from, and how their columns become the contract's.

    A column that no rule names is taken from the source's column of the same name, if there is one.
    """

    name: str = Field(BUILT_IN, pattern=NAME)
    location: str | None = Field(None, description="Glob below landing/, absolute path or fsspec URL.")
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "excel"] | None = Field(
        None, description="Default: by the file's ending."
    )
    encoding: str | None = Field(None, description="Character encoding of text files; default: found out.")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="Of delimited files; default: found out.")
    sheet: str | None = Field(None, description="Sheet of a workbook; default: the first.")
    rename: dict[str, str] = Field({}, description="contract column: source column")
    sql: dict[str, str] = Field({}, description="contract column: SQL expression over source columns (DuckDB)")
    constant: dict[str, str | int | float | bool] = Field({}, description="contract column: value")
    filter: str | None = Field(None, description="SQL condition over source columns; other rows are not this entity's.")
    split: dict[str, str] = Field({}, description="source column: separator; each value makes a row of its own.")
    group_by: tuple[str, ...] = Field((), description="Source columns; one record for each group, columns by sql.")
    time_zone: str | None = Field(None, description="Zone of times that carry none.")
    time_format: str | None = Field(None, description="strptime format of times that are not ISO 8601 or epoch.")
    date_order: Literal["dmy", "mdy", "ymd"] | None = Field(
        None, description="Order of day, month and year in dates of digits; default: as the column's other values prove."
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="Separator of decimals; default: as the column's other values prove, else a point."
    )
    currency: str | None = Field(None, pattern="^[A-Z]{3}$", description="Currency of rows that name none.")

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, value: str | None) -> str | None:
        try:
            if value is None or codecs.lookup(value)._is_text_encoding:
                return value
        except LookupError:
            pass
        raise ValueError(
            f"'{value}' is no character encoding; write utf-8, gb18030, windows-1252, utf-16 or another of Python's"
        )

    @model_validator(mode="after")
    def _one_rule_a_column(self) -> "Source":
        for column in [*self.rename, *self.sql, *self.constant]:
            if sum(column in rules for rules in (self.rename, self.sql, self.constant)) > 1:
                raise ValueError(f"{column}: named by more than one of rename, sql, constant; keep one")
        if len(self.split) > 1 or "" in self.split.values():
            raise ValueError("split: name one column and its separator, as in {tags: ';'}")
        if self.group_by and (loose := [c for c, s in self.rename.items() if s not in self.group_by]):
            raise ValueError(f"rename {loose[0]}: not in group_by; use an aggregate, as in sql: {{{loose[0]}: max(…)}}")
        return self

    @property
    def said_order(self) -> str | None:
        """The order of day, month and year that the source says, be it by its time_format."""
        places = {mark[0]: self.time_format.find(f"%{mark}") for mark in ("d", "m", "Y")} if self.time_format else {}
        order = "".join(sorted(places, key=places.get)).lower()
        return self.date_order or (order if order in ("dmy", "mdy", "ymd") and -1 not in places.values() else None)

    @property
    def is_remote(self) -> bool:
        return "://" in (self.location or "")


class Entity(_Strict):
    """One kind of record of a channel; one staging table, one asset, one cleaned model."""

    description: str
    kind: Literal["event", "record", "reference"] = Field(
        description="event: feeds cleaned.events; record: describes a person or a sale; reference: names nobody."
    )
    key: tuple[str, ...] = Field(min_length=1, description="The business key; of equal keys one row survives cleaning.")
    event_time: str | None = Field(None, description="When it happened or became true.")
    updated_at: str | None = Field(None, description="The version of a record that changes; the greatest survives.")
    identifiers: dict[str, str] = Field({}, description="column of the cleaned model: identifier type")
    attributes: dict[str, str] = Field({}, description="attribute of a customer: column of the cleaned model")
    one_of: tuple[str, ...] = Field((), description="Columns of which a row has to fill at least one.")
    columns: dict[str, Column] = Field(min_length=1)
    sources: tuple[Source, ...] = (Source(),)

    @field_validator("columns")
    @classmethod
    def _column_names(cls, value: dict[str, Column]) -> dict[str, Column]:
        for name in value:
            if not re.fullmatch(NAME, name) or name in _RESERVED:
                raise ValueError(f"{name}: write column names in lower case with underscores, and not a reserved word of SQL")
        return value

    @field_validator("identifiers", "attributes")
    @classmethod
    def _plain_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in [*value, *value.values()]:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"{name}: write names in lower case with underscores")
        return value

    @model_validator(mode="after")
    def _columns_exist(self) -> "Entity":
        named = {
            "key": self.key,
            "one_of": self.one_of,
            "event_time": [self.event_time] if self.event_time else [],
            "updated_at": [self.updated_at] if self.updated_at else [],
        }
        for source in self.sources:
            for rules in ("rename", "sql", "constant"):
                named[f"sources.{source.name}.{rules}"] = list(getattr(source, rules))
        for where, columns in named.items():
            for column in columns:
                if column not in self.columns:
                    known = ", ".join(self.columns)
                    raise ValueError(f"{where}: there is no column '{column}'; the contract's columns are {known}")
        if self.kind == "event" and not self.event_time:
            raise ValueError("event_time: an entity of kind event says when it happened; name its column")
        if len({s.name for s in self.sources}) < len(self.sources):
            raise ValueError("sources: two have the same name; give each its own")
        if len([s for s in self.sources if s.location is None]) > 1:
            raise ValueError("sources: two have no location and would load the same files twice; give one a location")
        return self

    @property
    def fingerprint(self) -> str:
        """Changes when rows would be read differently."""
        content = self.model_dump(mode="json", include={"columns", "one_of", "sources", "key"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class ChannelContract(_Strict):
    """One channel: `defs/channels/<channel>/defs.yaml`, below `attributes`."""

    channel: str = Field(pattern=NAME)
    description: str
    owner: str = Field(pattern=r"^(team:[\w-]+|[^@\s]+@[^@\s]+\.[^@\s]+)$", description="An e-mail address or team:name")
    entities: dict[str, Entity] = Field(min_length=1)

    @field_validator("entities")
    @classmethod
    def _entity_names(cls, value: dict[str, Entity]) -> dict[str, Entity]:
        for name in value:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"{name}: write entity names in lower case with underscores")
        return value

    def table(self, entity: str) -> str:
        return f"{self.channel}_{entity}"

    def with_sources(self, files: Sequence[Path]) -> "ChannelContract":
        """The contract with the sources that files such as a home's `sources/*.yaml` add to this channel.

        One that is named `landing` takes the place of the built-in one.
        """
        contract, corrected = self, set()
        for file in files:
            for added in parse_sources(file):
                if added.channel != self.channel:
                    continue
                entities = dict(contract.entities)
                for name, sources in added.entities.items():
                    if name not in entities:
                        known = ", ".join(entities)
                        raise OnefoldError(f"{file}: entities.{name}: {self.channel} has no such entity; it has {known}")
                    present = entities[name].sources
                    if name not in corrected and any(source.name == BUILT_IN for source in sources):
                        present = tuple(source for source in present if source.name != BUILT_IN)
                        corrected.add(name)
                    merged = entities[name].model_dump() | {"sources": (*present, *sources)}
                    entities[name] = _validated(Entity, merged, file, f"entities.{name}")
                contract = contract.model_copy(update={"entities": entities})
        return contract


class Mapping(_Strict):
    """One document of `$ONEFOLD_HOME/sources/<any name>.yaml`: a company's own exports, mapped to a channel's contract."""

    description: str = Field("", description="For people.")
    channel: str
    entities: dict[str, tuple[Source, ...]] = Field(min_length=1)

    @field_validator("entities")
    @classmethod
    def _sources_are_named(cls, value: dict[str, tuple[Source, ...]]) -> dict[str, tuple[Source, ...]]:
        for entity, sources in value.items():
            for source in sources:
                if "name" not in source.model_fields_set:
                    raise ValueError(f"{entity}: a source has no name; give it its own, or {BUILT_IN} to correct that one")
                if source.name == BUILT_IN and source.location:
                    raise ValueError(f"{entity}: {BUILT_IN} has its own folder and no location; give the source another name")
        return value


def load_channels(home: Home, folder: Path = CHANNELS, sources: Sequence[Path] | None = None) -> dict[str, ChannelContract]:
    """All channels, in the order of their names, with the home's own sources.

    Args:
        sources: other files of sources than the home's.

    Raises:
        OnefoldError: a YAML is wrong; names file, key and remedy.
    """
    channels, sources = {}, source_files(home) if sources is None else sources
    for file in sorted(folder.glob("*/defs.yaml")):
        channel = parse_channel(file).with_sources(sources)
        channels[channel.channel] = channel
    for file in sources:
        for mapping in parse_sources(file):
            if mapping.channel not in channels:
                known = ", ".join(channels)
                raise OnefoldError(f"{file}: channel: there is no channel '{mapping.channel}'; there are {known}")
    return channels


def source_files(home: Home) -> list[Path]:
    """A home's own mappings."""
    return sorted(home.sources.glob("*.yaml"))


def parse_sources(file: Path) -> list[Mapping]:
    """Read one `sources/*.yaml`: a document for each channel, with `---` between them.

    Raises:
        OnefoldError: names file, key and remedy.
    """
    return [_validated(Mapping, content, file) for content in _read_documents(file)]


def parse_channel(file: Path) -> ChannelContract:
    """Read one `defs.yaml`.

    Raises:
        OnefoldError: names file, key and remedy.
    """
    written = file.stat()
    return _parse_channel(file, written.st_mtime_ns, written.st_size)


@functools.lru_cache(maxsize=256)
def _parse_channel(file: Path, modified: int, size: int) -> ChannelContract:
    content = _read_yaml(file)
    unknown = set(content) - {"type", "attributes"}
    if content.get("type") != COMPONENT_TYPE or unknown:
        raise OnefoldError(f"{file}: expected just `type: {COMPONENT_TYPE}` and `attributes:` at the top")
    contract = _validated(ChannelContract, content.get("attributes") or {}, file, "attributes")
    if contract.channel != file.parent.name:
        raise OnefoldError(f"{file}: attributes.channel: '{contract.channel}' has to be the folder's name, {file.parent.name}")
    return contract


def _read_yaml(file: Path) -> dict:
    documents = _read_documents(file)
    if len(documents) > 1:
        raise OnefoldError(f"{file}: expected one document; remove the line ---")
    return documents[0]


def _read_documents(file: Path) -> list[dict]:
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=YAML_LOADER))
    except yaml.YAMLError as error:
        raise OnefoldError(f"{file}: not valid YAML: {error}") from error
    if not documents or not all(isinstance(content, dict) for content in documents):
        raise OnefoldError(f"{file}: expected a mapping of keys to values")
    return documents


def _validated(model: type[M], content: dict, file: Path, under: str = "") -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            key = ".".join(str(part) for part in ([under] if under else []) + list(e["loc"]))
            problems.append(f"{file}: {key}: {_remedy(e, model)}")
        raise OnefoldError("\n".join(problems)) from error


def _remedy(error: dict, model: type[BaseModel]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "unknown key; remove it or correct its spelling (docs/channels.md lists the keys)"
        case "missing":
            return "is missing; add it"
        case "literal_error":
            return f"'{error['input']}' is not one of {error['ctx']['expected']}"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return f"{error['msg']} (found {error['input']!r})"
