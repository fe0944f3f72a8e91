"""All audiences of a dbt project that are declared in YAML: read, checked against what there is, and written as models."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dagster_project.lib.audiences import form, sentences, sql
from dagster_project.lib.audiences.form import Form, suggestion
from dagster_project.lib.audiences.known import CARING, EVENT_COLUMNS, PREFIX, Known, of_project
from dagster_project.lib.contracts import NAME
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.funnels import Funnel

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ASKS = {
    "text": {"is", "known"},
    "private": {"known"},
    "number": {"is", "at_least", "at_most", "known"},
    "age": {"at_least", "at_most", "known"},
    "boolean": {"is", "known"},
    "time": {"within_days", "older_than_days", "known"},
}


def folder(project: Path) -> Path:
    return project / "audiences"


def made(project: Path) -> Path:
    """Where the models are written that are made from YAML; not in git."""
    return project / "models" / "audiences" / "made"


def known(project: Path, tags: Collection[str], funnels: Mapping[str, Funnel]) -> Known:
    return of_project(project, made(project), tags, funnels)


def load(project: Path, there_is: Known, instead: Mapping[str, Form] | None = None) -> dict[str, Form]:
    """Every declared audience by name, checked.

    Args:
        instead: audiences that are not, or not yet, what a file of the project says.

    Raises:
        OnefoldError: something is wrong in any of them; a line for each mistake with file, path and remedy.
    """
    forms, problems = dict(instead or {}), []
    for file in sorted(folder(project).glob("*.y*ml")):
        place = str(file.relative_to(project.parent))
        if not re.fullmatch(NAME, file.stem) or file.suffix != ".yaml":
            problems.append(f"{place}: name the file as the audience, in lower case with underscores, and .yaml")
        elif file.stem not in forms:
            try:
                forms[file.stem] = form.read(file)
            except OnefoldError as error:
                problems.append(str(error).replace(str(file), place))
    if not problems:  # names that a broken file would have had are not unknown
        problems = list(mistakes(forms, there_is, project))
    if problems:
        raise OnefoldError("\n".join(problems))
    return dict(sorted(forms.items()))


def above(name: str, forms: Mapping[str, Form]) -> list[str]:
    """The audiences that have their customers before this one does, the first of its exclusive group first."""
    own = forms[name]
    if own.exclusive_group is None:
        return []
    others = [(-(f.priority or 0), n) for n, f in forms.items() if f.exclusive_group == own.exclusive_group]
    return [n for priority, n in sorted(others) if -priority > (own.priority or 0)]


def reads(name: str, forms: Mapping[str, Form]) -> list[str]:
    """The audiences that one is made from: those of its conditions, then those above it."""
    named = [leaf.audience for _, leaf in forms[name].who.leaves() if isinstance(leaf, form.Other)]
    return list(dict.fromkeys([*named, *above(name, forms)]))


def mistakes(forms: Mapping[str, Form], there_is: Known, project: Path) -> Iterator[str]:
    """What is wrong with names and with how audiences stand to each other."""
    for name, audience in sorted(forms.items()):
        place = f"{folder(project).relative_to(project.parent)}/{name}.yaml"
        if name in there_is.models:
            yield f"{place}: there is a model audiences_{name}.sql; an audience is declared once, rename or delete one"
        for path, leaf in audience.who.leaves():
            for problem in _mistakes(leaf, forms, there_is):
                yield f"{place}: {path}.{problem}"
        for other, theirs in forms.items():
            same = audience.exclusive_group is not None and theirs.exclusive_group == audience.exclusive_group
            if same and other > name and theirs.priority == audience.priority:
                yield (
                    f"{place}: priority: {other} has {audience.priority} in the group {audience.exclusive_group}, too; "
                    "give each its own, the greater comes first"
                )
    yield from _cycles(forms, project)
    for name, audience in sorted(forms.items()):
        if audience.purpose not in CARING and (found := restricted(name, forms, there_is)):
            through = "; ".join(f"{tag} ({'its own condition' if by == name else f'through {by}'})" for tag, by in found)
            yield (
                f"{folder(project).relative_to(project.parent)}/{name}.yaml: purpose: restricted tags are for "
                f"{' and '.join(CARING)} and never for {audience.purpose}: {through}; take them out, or change the purpose"
            )


def restricted(name: str, forms: Mapping[str, Form], there_is: Known) -> list[tuple[str, str]]:
    """Restricted tags that an audience is made from, each with the audience that asks for it."""
    found, waiting, seen = [], [name], {name}
    while waiting:
        current = waiting.pop(0)
        if current not in forms:
            found += [(tag, current) for tag in there_is.restricted(there_is.models.get(current, ""))]
            continue
        asked = {leaf.name for _, leaf in forms[current].who.leaves() if isinstance(leaf, form.Tag)}
        found += [(tag, current) for tag in sorted(asked) if tag in there_is.tags and there_is.tags[tag].is_restricted]
        new = [other for other in reads(current, forms) if other not in seen]
        seen.update(new)
        waiting += new
    return found


def texts(forms: Mapping[str, Form], there_is: Known) -> dict[str, str]:
    """The files below `made`, by name: a model for each audience, and one YAML with their descriptions and exposures."""
    files, models, exposures = {}, [], []
    for name, audience in sorted(forms.items()):
        asked = sql.conditions(audience, there_is, above(name, forms))
        words = sql.comment(audience.description or f"{sentences.whole(audience.who, there_is)}.")
        described = words[0].upper() + words[1:]
        files[f"{PREFIX}{name}.sql"] = sql.model(name, audience, asked)
        models.append(
            {
                "name": f"{PREFIX}{name}",
                "description": described,
                "columns": [
                    {"name": "customer_id", "description": "The customer.", "data_tests": ["unique", "not_null"]},
                    {"name": "conditions", "description": "Numbers of the conditions that hold, with commas between."},
                    {
                        "name": "is_control",
                        "description": "Whether the customer is in the control group.",
                    },
                ],
            }
        )
        meta: dict[str, Any] = {
            "purpose": audience.purpose,
            "display_name_zh": audience.label_zh,
            "made_from": f"{name}.yaml",
            "priority": audience.priority,
            "exclusive_group": audience.exclusive_group,
            "control_share": audience.control and audience.control.share,
            "ignores_cap": audience.ignores_cap or None,
            "band": audience.band and audience.band.model_dump(exclude_unset=True),
            "fresh": _fresh(audience),
            "conditions": [
                {"number": c.number, "path": c.path, "en": sql.comment(c.sentence), "zh": sql.comment(c.sentence_zh)}
                for c in asked
            ],
        }
        exposures.append(
            {
                "name": name,
                "label": audience.label,
                "type": "application",
                "description": described,
                "owner": {"name": audience.owner.name, "email": audience.owner.email},
                "depends_on": [f"ref('{PREFIX}{name}')"],
                "config": {"meta": {key: value for key, value in meta.items() if value is not None}},
            }
        )
    if files:
        head = "# Made from dbt/audiences/ by every command that reads the dbt project.\n"
        content = {"models": models, "exposures": exposures}
        files["made.yml"] = head + yaml.dump(content, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=128)
    return files


def _fresh(audience: Form) -> dict[str, Any] | None:
    """What is declared, with the channels that conditions name: without them it is not known who did it or did not."""
    declared = audience.fresh.model_dump(mode="json", exclude_unset=True) if audience.fresh else {}
    named = [c for _, leaf in audience.who.leaves() if isinstance(leaf, form.Event) for c in leaf.where.get("channel", ())]
    channels = list(dict.fromkeys([*declared.get("channels", ()), *named]))
    return declared | ({"channels": channels} if channels else {}) or None


def write(project: Path, names: Callable[[], Known]) -> None:
    """Bring the models up to the YAML: write what differs, delete what no file declares any more.

    Args:
        names: gives what there is; asked only if an audience is declared.

    Raises:
        OnefoldError: something is wrong in the YAML; nothing is written then.
    """
    target = made(project)
    wanted = {}
    if any(folder(project).glob("*.y*ml")):
        there_is = names()
        wanted = texts(load(project, there_is), there_is)
    for file in target.glob("*"):
        if file.name not in wanted and not file.name.startswith("."):
            file.unlink(missing_ok=True)  # another process may bring it up as well
    for name, content in wanted.items():
        file = target / name
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            target.mkdir(parents=True, exist_ok=True)
            draft = target / f".{name}.{os.getpid()}"
            draft.write_text(content, encoding="utf-8")
            draft.replace(file)


def _mistakes(leaf: form.Leaf, forms: Mapping[str, Form], there_is: Known) -> Iterator[str]:
    match leaf:
        case form.Tag():
            if leaf.name not in there_is.tags:
                yield f"name: there is no tag '{leaf.name}': {suggestion(leaf.name, there_is.tags)}"
        case form.Event():
            for key, names in (("name", leaf.name), ("not_followed_by", leaf.not_followed_by or ())):
                for name in names:
                    if name not in there_is.events:
                        yield (
                            f"{key}: there is no event '{name}': {suggestion(name, there_is.events)}; an event of your own "
                            "needs a row in dbt/seeds/event_vocabulary.csv"
                        )
            for column in leaf.where:
                if column not in EVENT_COLUMNS:
                    yield f"where: there is no column '{column}' to ask: {suggestion(column, EVENT_COLUMNS)}"
        case form.FunnelStep():
            if leaf.name not in there_is.funnels:
                yield f"name: there is no funnel '{leaf.name}': {suggestion(leaf.name, there_is.funnels)}"
                return
            names = [step.name for step in there_is.funnels[leaf.name].steps]
            numbers = []
            for key, named in (("reached", leaf.reached), ("not_reached", leaf.not_reached)):
                if named is not None and there_is.step(leaf.name, named) is None:
                    yield f"{key}: the funnel {leaf.name} has no step '{named}': {suggestion(named, names)}"
                elif named is not None:
                    numbers.append(there_is.step(leaf.name, named) or 0)
            if len(numbers) == 2 and numbers[1] <= numbers[0]:
                yield f"not_reached: '{leaf.not_reached}' does not come after '{leaf.reached}': nobody can fit"
        case form.Trait():
            yield from _trait_mistakes(leaf, there_is)
        case form.Other():
            names = {*forms, *there_is.models}
            if leaf.audience not in names:
                key = "in" if leaf.in_ else "not_in"
                yield f"{key}: there is no audience '{leaf.audience}': {suggestion(leaf.audience, names)}"


def _trait_mistakes(leaf: form.Trait, there_is: Known) -> Iterator[str]:
    trait = there_is.traits.get(leaf.name)
    if trait is None:
        hint = f"it is a tag: write tag: {{name: {leaf.name}, …}}" if leaf.name in there_is.tags else None
        yield f"name: there is no trait '{leaf.name}': {hint or suggestion(leaf.name, there_is.traits)}"
        return
    can = _ASKS[trait.kind]
    if wrong := leaf.asks - can:
        what = "it is private" if trait.kind == "private" else f"it is a {trait.kind}"
        yield f"{', '.join(sorted(wrong))}: {leaf.name} cannot be asked so: {what}; there is {', '.join(sorted(can))}"
    elif leaf.is_ is not None and isinstance(leaf.is_, bool) != (trait.kind == "boolean"):
        expected = "true or false" if trait.kind == "boolean" else f"a {trait.kind}: write its values in quotes"
        yield f"is: {leaf.name} is {expected}"
    elif trait.kind == "number" and isinstance(leaf.is_, tuple):
        for value in leaf.is_:
            if not re.fullmatch(r"-?\d{1,15}(\.\d{1,4})?", value):
                yield f"is: '{value}' is no number"
    elif trait.kind == "age":
        for value in (leaf.at_least, leaf.at_most):
            if value is not None and (value != int(value) or not 0 <= value <= 150):
                yield f"{value} is no age in whole years"


def _cycles(forms: Mapping[str, Form], project: Path) -> Iterator[str]:
    """Audiences that are made from themselves; each circle once, at its first name."""
    for name in sorted(forms):
        way, found = [name], None
        waiting = [(name, iter(reads(name, forms)))]
        seen = {name}
        while waiting and found is None:
            _, others = waiting[-1]
            other = next(others, None)
            if other is None:
                waiting.pop()
                way.pop()
            elif other == name:
                found = [*way, name]
            elif other in forms and other not in seen:
                seen.add(other)
                way.append(other)
                waiting.append((other, iter(reads(other, forms))))
        if found and name == min(found):
            yield (
                f"{folder(project).relative_to(project.parent)}/{name}.yaml: made from itself: {' reads '.join(found)}; "
                "take a condition out, or change a priority (an audience reads those above it in its exclusive group)"
            )
