"""What the YAML of an audience may say.

    label: Win back                       # name for people; label_zh for Chinese ones
    owner: {name: marketing, email: marketing@example.com}
    purpose: marketing                    # consent is asked for it
    priority: 20                          # the greater comes first …
    exclusive_group: newsletter           # … and a customer is in one audience of a group
    control: {share: 0.1, salt: winback}  # kept out of delivery, always the same customers
    band: {grow: 0.5, shrink: 0.3}        # a greater change of its size stops it
    fresh: {within_hours: 48, channels: [web]}  # so does what is older, or a channel that stopped
    who:                                  # all, any and not hold conditions and each other
      all:
        - tag: {name: lifecycle, became: at_risk, within_days: 7}
        - event: {name: searched, at_least: 2, within_days: 30}
        - not: {audience: {in: high_value_customers}}

Everything is read into these classes or refused with file, path and remedy; names of tags, events and so on are looked up
afterwards, see `project`.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dagster_project.lib.contracts import NAME, YAML_LOADER
from dagster_project.lib.errors import OnefoldError

LONGEST_WINDOW = 730  # days; tags.history keeps values that ended as long
_TEXT = r"^[^'\\{}\x00-\x1f\x7f-\x9f\u2028\u2029]+$"  # ends no literal, comment or Jinja expression that it is written into


def suggestion(given: str, there_are: Collection[str]) -> str:
    """What somebody may have meant, and what there is to choose from."""
    close = difflib.get_close_matches(given, there_are, n=1, cutoff=0.6)
    listed = sorted(there_are)
    shown = ", ".join(listed[:40]) + (f" and {len(listed) - 40} more" if len(listed) > 40 else "")
    return (f"did you mean '{close[0]}'? " if close else "") + (f"there are {shown}" if listed else "there are none")


def _as_text(value: Any) -> str:
    """A value as it stands in a table; YAML takes a bare yes for true."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _texts(value: Any) -> Any:
    if value is None or isinstance(value, dict):
        return value
    return tuple(_as_text(v) for v in (value if isinstance(value, list | tuple) else [value]))


def _require_texts(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if values is None:
        return values
    if not values:
        raise ValueError("name at least one value")
    for given in values:
        if not re.fullmatch(_TEXT, given):
            raise ValueError(f"'{given}': a value has no quotes, backslashes, braces and line breaks")
    return tuple(dict.fromkeys(values))


class _Form(BaseModel):
    """A mapping whose unknown keys are refused with the one that was meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lists: ClassVar[tuple[str, ...]] = ()  # keys that hold a value or several

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            keys = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            raise ValueError(f"expected a mapping with the keys {keys}")
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        for key in given:
            if key not in keys:
                raise ValueError(f"unknown key '{key}': {suggestion(str(key), keys)}")
        return {key: _texts(value) if key in cls.lists else value for key, value in given.items()}


class Tag(_Form):
    """A tag of the customer: now (`is`; without a value: whatever it is), in former days (`was`) or newly so (`became`)."""

    lists: ClassVar[tuple[str, ...]] = ("is", "was", "became", "from")

    name: str
    is_: tuple[str, ...] | None = Field(None, alias="is", description="Its value now, one of these.")
    was: tuple[str, ...] | None = Field(None, description="A value that ended within the days.")
    became: tuple[str, ...] | None = Field(None, description="Its value now, which began within the days.")
    from_: tuple[str, ...] | None = Field(None, alias="from", description="With became: the value before.")
    within_days: int | None = Field(None, ge=1, le=LONGEST_WINDOW, strict=True, description="With was and became.")
    at_least: Decimal | None = Field(None, description="Its number now, such as a score.")
    at_most: Decimal | None = None
    confidence: Decimal | None = Field(None, gt=0, le=1, description="At least so sure, where it is inferred.")

    _texts_are_safe = field_validator("is_", "was", "became", "from_")(_require_texts)

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        asked = [name for name, value in (("is", self.is_), ("was", self.was), ("became", self.became)) if value]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} ask for different times; write a condition for each below all")
        is_past = self.was or self.became
        if is_past and self.within_days is None:
            raise ValueError(f"{asked[0]} needs within_days: the days before now in which it counts")
        if not is_past and self.within_days is not None:
            raise ValueError("within_days goes with was or became; what a tag is now has no days")
        if self.from_ and not self.became:
            raise ValueError("from goes with became")
        if is_past and any(value is not None for value in (self.at_least, self.at_most, self.confidence)):
            raise ValueError("at_least, at_most and confidence ask for the tag of now; was and became for values alone")
        return self


class Event(_Form):
    """How often the customer did something in the last days: at least once, unless it says otherwise."""

    lists: ClassVar[tuple[str, ...]] = ("name", "not_followed_by")

    name: tuple[str, ...] = Field(description="An event, or several of which any counts.")
    within_days: int = Field(ge=1, le=LONGEST_WINDOW, strict=True)
    where: dict[str, tuple[str, ...]] = Field({}, description="column of the event, category or brand: value or values")
    at_least: int | None = Field(None, ge=1, strict=True)
    at_most: int | None = Field(None, ge=1, strict=True)
    never: bool = Field(False, description="Not once.")
    amount_at_least: Decimal | None = Field(None, gt=0, description="In all, in base currency.")
    not_followed_by: tuple[str, ...] | None = Field(None, description="None of these since the last time.")

    _texts_are_safe = field_validator("name", "not_followed_by")(_require_texts)

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: Any) -> Any:
        return {column: _texts(given) for column, given in value.items()} if isinstance(value, dict) else value

    @field_validator("where")
    @classmethod
    def _values_are_safe(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {column: _require_texts(given) for column, given in value.items()}

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        others = [key for key in ("at_least", "at_most", "amount_at_least", "not_followed_by") if getattr(self, key)]
        if self.never and others:
            raise ValueError(f"never means not once; {', '.join(others)} cannot hold then")
        if self.at_least and self.at_most and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} and at_most {self.at_most} cannot both hold")
        if both := set(self.name) & set(self.not_followed_by or ()):
            raise ValueError(f"not_followed_by: {', '.join(sorted(both))} would have to come after itself")
        if self.at_most and not self.at_least and (self.amount_at_least or self.not_followed_by):
            raise ValueError(
                "at_most alone counts those who never did it; add at_least: 1 beside amount_at_least or not_followed_by"
            )
        return self


class FunnelStep(_Form):
    """How far the customer came the last time they entered a funnel in the last days."""

    name: str
    reached: str | None = Field(None, description="A step's name or number; without it the first.")
    not_reached: str | None = None
    within_days: int = Field(30, ge=1, le=LONGEST_WINDOW, strict=True, description="In which it was entered.")

    @field_validator("reached", "not_reached", mode="before")
    @classmethod
    def _numbers_are_texts(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.reached is None and self.not_reached is None:
            raise ValueError("say which step was reached, which was not_reached, or both")
        return self


class Trait(_Form):
    """A column of unified.customers, or `age` in whole years."""

    lists: ClassVar[tuple[str, ...]] = ()

    name: str
    is_: tuple[str, ...] | bool | None = Field(None, alias="is", description="One of these values; true or false.")
    at_least: Decimal | None = None
    at_most: Decimal | None = None
    within_days: int | None = Field(None, ge=1, le=36500, strict=True, description="Of a time: no longer ago than this.")
    older_than_days: int | None = Field(None, ge=1, le=36500, strict=True, description="Of a time: longer ago than this.")
    known: bool | None = Field(None, description="Whether there is any value.")

    @field_validator("is_", mode="before")
    @classmethod
    def _values_are_texts(cls, value: Any) -> Any:
        return value if isinstance(value, bool) else _require_texts(_texts(value))

    @property
    def asks(self) -> set[str]:
        """The keys that are given, but for the name."""
        return {key for key, value in self.model_dump(by_alias=True, exclude={"name"}).items() if value is not None}

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.asks:
            raise ValueError("say what it has to be: is, at_least, at_most, within_days, older_than_days or known")
        if len(self.asks) > 1 and self.asks != {"at_least", "at_most"} and self.asks != {"within_days", "older_than_days"}:
            raise ValueError(f"{', '.join(sorted(self.asks))}: write a condition for each below all")
        return self


class Place(_Form):
    """Where the customer lives; of each key that is given, one of its values."""

    lists: ClassVar[tuple[str, ...]] = ("country", "region", "city")

    country: tuple[str, ...] | None = Field(None, description="ISO 3166-1 alpha-2, such as CN.")
    region: tuple[str, ...] | None = None
    city: tuple[str, ...] | None = Field(None, description="In Chinese or Latin letters; 上海, 上海市 and Shanghai are one.")

    @field_validator("country", "region")
    @classmethod
    def _texts_are_safe(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _require_texts(value)

    @field_validator("country")
    @classmethod
    def _countries_are_codes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for given in value or ():
            if not re.fullmatch("[A-Za-z]{2}", given):
                raise ValueError(f"'{given}' is no code of two letters (ISO 3166-1) such as CN")
        return value and tuple(given.upper() for given in value)

    @field_validator("city")
    @classmethod
    def _cities_have_letters(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for given in value or ():
            if not place_key(given) or not re.fullmatch(_TEXT, given.replace("'", "")):
                raise ValueError(f"'{given}' is not the name of a city in Chinese or Latin letters")
        return value

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not (self.country or self.region or self.city):
            raise ValueError("name a country, region or city")
        return self


class Consent(_Form):
    """What the customer allows: the purpose on some channel, or on the one that is named."""

    purpose: str = Field(pattern=NAME)
    channel: str | None = Field(None, pattern=NAME)


class Other(_Form):
    """Another audience, as of this refresh."""

    in_: str | None = Field(None, alias="in")
    not_in: str | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.in_ is None) == (self.not_in is None):
            raise ValueError("say in or not_in, and one audience")
        return self

    @property
    def audience(self) -> str:
        return self.in_ or self.not_in or ""


Leaf = Tag | Event | FunnelStep | Trait | Place | Consent | Other
_LEAVES = ("tag", "event", "funnel", "trait", "place", "consent", "audience")


class Rule(_Form):
    """One condition, or all, any or not of others."""

    all_: tuple["Rule", ...] | None = Field(None, alias="all", min_length=1)
    any_: tuple["Rule", ...] | None = Field(None, alias="any", min_length=1)
    not_: "Rule | None" = Field(None, alias="not")
    tag: Tag | None = None
    event: Event | None = None
    funnel: FunnelStep | None = None
    trait: Trait | None = None
    place: Place | None = None
    consent: Consent | None = None
    audience: Other | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [key for key, value in self if value is not None]
        if len(given) != 1:
            said = ", ".join(key.rstrip("_") for key in given) or "nothing"
            raise ValueError(f"expected one condition, got {said}; put several below all or any, each behind a dash")
        return self

    @property
    def leaf(self) -> Leaf | None:
        return next((value for key in _LEAVES if (value := getattr(self, key)) is not None), None)

    def leaves(self, path: str = "who") -> Iterator[tuple[str, Leaf]]:
        """The conditions in the order of the file, each with its path."""
        if self.leaf is not None:
            yield f"{path}.{next(key for key in _LEAVES if getattr(self, key) is not None)}", self.leaf
        elif self.not_ is not None:
            yield from self.not_.leaves(f"{path}.not")
        else:
            for key, rules in (("all", self.all_), ("any", self.any_)):
                for number, rule in enumerate(rules or (), start=1):
                    yield from rule.leaves(f"{path}.{key}.{number}")


class Owner(_Form):
    name: str = Field(pattern=_TEXT)
    email: str = Field(pattern=r"^[^@\s'{}]+@[^@\s'{}]+\.[^@\s'{}]+$")


class Control(_Form):
    """Members who are kept out of delivery, for comparison; audiences with one salt have one control group."""

    share: float = Field(gt=0, lt=1)
    salt: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+$", description="Without it, the audience's name.")


class Band(_Form):
    """How far an audience's size may change from one version to the next, as shares of its members."""

    grow: float = Field(0.5, gt=0, description="More than half as many again at once is rather a mistake than a success.")
    shrink: float = Field(0.3, gt=0, le=1, description="1: by any number.")
    least: int = Field(50, ge=1, strict=True, description="A smaller change never counts: of ten members five come and go.")


class Fresh(_Form):
    """How new what an audience is published from has to be."""

    lists: ClassVar[tuple[str, ...]] = ("channels",)

    within_hours: float = Field(48, gt=0, description="The age of the refresh: one a day may fail.")
    channels: tuple[str, ...] = Field((), description="That have to be coming; those of the conditions do anyway.")


class Form(_Form):
    """The whole file."""

    label: str = Field(pattern=_TEXT)
    label_zh: str | None = Field(None, pattern=_TEXT)
    description: str | None = Field(None, pattern=r"^[^{}]+$", description="Without it, the conditions in words.")
    owner: Owner
    purpose: str = Field(pattern=NAME, description="What consent is asked for.")
    priority: int | None = Field(None, strict=True, description="The greater comes first in its exclusive group.")
    exclusive_group: str | None = Field(None, pattern=NAME, description="A customer is in one audience of a group.")
    control: Control | None = None
    ignores_cap: bool = Field(False, strict=True, description="Also whoever got as many messages as the purpose allows is in.")
    band: Band | None = None
    fresh: Fresh | None = None
    who: Rule

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if (self.exclusive_group is None) != (self.priority is None):
            raise ValueError("priority and exclusive_group go together: the greater priority of a group has its customers")
        return self


def place_key(name: str) -> str:
    """A city's name without what spellings differ in, as the macro of this name makes it."""
    return re.sub("(市|city)$", "", re.sub("[^a-z一-鿿]+", "", name.lower()))


class _Loader(YAML_LOADER):  # type: ignore[valid-type, misc]
    """Refuses a key that stands twice in a mapping: YAML would drop the first condition, and the audience would be larger."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                at = f"line {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"{at}: '{key.value}' stands twice in one mapping; put both below all, each behind a dash")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(file: Path) -> Form:
    """Read one file.

    Raises:
        OnefoldError: it is wrong; a line for each mistake with file, path and remedy.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise OnefoldError(f"{file}: there is no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OnefoldError(f"{file}: not valid YAML: {error}") from error
    return parse(content, str(file))


def parse(content: Any, place: str) -> Form:
    """The form of what a YAML file or a console holds.

    Raises:
        OnefoldError: it is wrong; a line for each mistake with the place, path and remedy.
    """
    try:
        return Form.model_validate(content)
    except ValidationError as error:
        lines = [f"{place}: {_path(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise OnefoldError("\n".join(dict.fromkeys(lines)) + ". docs/audiences.md shows every key") from error


def _path(location: tuple[int | str, ...]) -> str:
    """The way to a mistake; items of a list are counted from 1."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in location) + (": " if location else "")
