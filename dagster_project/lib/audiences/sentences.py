"""Each condition of an audience in words, English and Chinese: for the model's comments, previews, and why somebody entered."""

from collections.abc import Callable, Iterable
from decimal import Decimal

from dagster_project.lib.audiences import form
from dagster_project.lib.audiences.known import Known

ENGLISH, CHINESE = "en", "zh"


def sentence(leaf: form.Leaf, known: Known, language: str = ENGLISH) -> str:
    """What a condition asks for."""
    return _WORDS[type(leaf)](leaf, known, language == CHINESE)


def whole(rule: form.Rule, known: Known, language: str = ENGLISH) -> str:
    """What all conditions together ask for."""
    if rule.leaf is not None:
        return sentence(rule.leaf, known, language)
    if rule.not_ is not None:
        inner = whole(rule.not_, known, language)
        return f"并非（{inner}）" if language == CHINESE else f"not ({inner})"
    rules = rule.all_ or rule.any_ or ()
    parts = [whole(part, known, language) for part in rules]
    if len(parts) == 1:
        return parts[0]
    left, right = "（）" if language == CHINESE else "()"
    word = {("all", ENGLISH): " and ", ("any", ENGLISH): " or ", ("all", CHINESE): "，且", ("any", CHINESE): "，或"}
    bracketed = [
        f"{left}{words}{right}" if len(part.all_ or part.any_ or ()) > 1 else words
        for part, words in zip(rules, parts, strict=True)
    ]
    return word["all" if rule.all_ else "any", language].join(bracketed)


def number(value: Decimal | int) -> str:
    """A number without needless noughts."""
    return f"{Decimal(value):f}".rstrip("0").rstrip(".") if "." in f"{Decimal(value):f}" else f"{Decimal(value):f}"


def _or(values: Iterable[str], zh: bool) -> str:
    return ("或" if zh else " or ").join(values)


def _between(least: Decimal | int | None, most: Decimal | int | None, zh: bool) -> str:
    if least is not None and most is not None:
        return f"{number(least)} 至 {number(most)}" if zh else f"{number(least)} to {number(most)}"
    if least is not None:
        return f"至少 {number(least)}" if zh else f"at least {number(least)}"
    return f"至多 {number(most)}" if zh else f"at most {number(most)}"


def _tag(leaf: form.Tag, known: Known, zh: bool) -> str:
    info = known.tags[leaf.name]
    label = f"标签“{info.label_zh}”" if zh else info.label
    if leaf.became:
        before = (f"由 {_or(leaf.from_, zh)} " if zh else f" from {_or(leaf.from_, zh)}") if leaf.from_ else ""
        to = _or(leaf.became, zh)
        if zh:
            return f"{label}在最近 {leaf.within_days} 天内{before}变为 {to}"
        return f"{label} became {to}{before} in the last {leaf.within_days} days"
    if leaf.was:
        was = _or(leaf.was, zh)
        if zh:
            return f"{label}在最近 {leaf.within_days} 天内曾为 {was}，现已不是"
        return f"{label} was {was} until some time in the last {leaf.within_days} days"
    text = (f"{label}为 {_or(leaf.is_, zh)}" if zh else f"{label} is {_or(leaf.is_, zh)}") if leaf.is_ else ""
    if not leaf.is_:
        text = f"有{label}" if zh else f"{label} is there"
    if leaf.at_least is not None or leaf.at_most is not None:
        range_ = _between(leaf.at_least, leaf.at_most, zh)
        text += f"，数值{range_}" if zh else f", its number {range_}"
    if leaf.confidence is not None:
        text += f"，置信度至少 {number(leaf.confidence)}" if zh else f", its confidence at least {number(leaf.confidence)}"
    return text


def _event(leaf: form.Event, known: Known, zh: bool) -> str:
    name = _or(leaf.name, zh)
    if leaf.where:
        asked = [f"{column} 为 {_or(v, zh)}" if zh else f"{column} {_or(v, zh)}" for column, v in leaf.where.items()]
        name += f"（{'，'.join(asked)}）" if zh else f" ({', '.join(asked)})"
    window = f"最近 {leaf.within_days} 天内" if zh else f"in the last {leaf.within_days} days"
    if leaf.never:
        return f"{window}没有 {name}" if zh else f"no {name} {window}"
    text = f"{window}有 {name}" if zh else f"{name} {window}"
    if leaf.at_least or leaf.at_most:
        times = _between(leaf.at_least, leaf.at_most, zh)
        text = f"{window} {name} {times} 次" if zh else f"{name} {times} times {window}"
    if leaf.amount_at_least is not None:
        text += f"，金额至少 {number(leaf.amount_at_least)}" if zh else f", for at least {number(leaf.amount_at_least)}"
    if leaf.not_followed_by:
        others = _or(leaf.not_followed_by, zh)
        text += f"，此后没有 {others}" if zh else f", and no {others} since"
    return text


def _funnel(leaf: form.FunnelStep, known: Known, zh: bool) -> str:
    steps = [step.name for step in known.funnels[leaf.name].steps]

    def named(step: str) -> str:
        return steps[(known.step(leaf.name, step) or 1) - 1]

    reached = named(leaf.reached or "1")
    if zh:
        text = f"最近 {leaf.within_days} 天内最近一次进入漏斗“{leaf.name}”时到达“{reached}”"
        return text + (f"但未到达“{named(leaf.not_reached)}”" if leaf.not_reached else "")
    text = f'funnel {leaf.name}, last entered within {leaf.within_days} days, reached "{reached}"'
    return text + (f' but not "{named(leaf.not_reached)}"' if leaf.not_reached else "")


def _trait(leaf: form.Trait, known: Known, zh: bool) -> str:
    name = leaf.name
    if leaf.known is not None:
        if zh:
            return f"{name} {'已知' if leaf.known else '未知'}"
        return f"{name} is {'known' if leaf.known else 'not known'}"
    if isinstance(leaf.is_, bool):
        return f"{name} 为{'是' if leaf.is_ else '否'}" if zh else f"{name} is {'true' if leaf.is_ else 'false'}"
    if leaf.is_:
        return f"{name} 为 {_or(leaf.is_, zh)}" if zh else f"{name} is {_or(leaf.is_, zh)}"
    if leaf.at_least is not None or leaf.at_most is not None:
        range_ = _between(leaf.at_least, leaf.at_most, zh)
        return f"{name} {range_}" if zh else f"{name} is {range_}"
    parts = []
    if leaf.within_days is not None:
        parts.append(f"在最近 {leaf.within_days} 天内" if zh else f"in the last {leaf.within_days} days")
    if leaf.older_than_days is not None:
        parts.append(f"早于 {leaf.older_than_days} 天前" if zh else f"more than {leaf.older_than_days} days ago")
    return f"{name} {'且'.join(parts)}" if zh else f"{name} {' but '.join(parts)}"


def _place(leaf: form.Place, known: Known, zh: bool) -> str:
    asked = [("city", "城市", leaf.city), ("region", "省份", leaf.region), ("country", "国家", leaf.country)]
    if zh:
        return "居住地" + "，".join(f"{label}为 {_or(v, zh)}" for _, label, v in asked if v)
    return "lives in " + ", ".join(f"{label} {_or(v, zh)}" for label, _, v in asked if v)


def _consent(leaf: form.Consent, known: Known, zh: bool) -> str:
    channel = leaf.channel or ("任一渠道" if zh else "some channel")
    return f"同意通过 {channel} 用于 {leaf.purpose}" if zh else f"allows {leaf.purpose} on {channel}"


def _other(leaf: form.Other, known: Known, zh: bool) -> str:
    if zh:
        return f"{'在' if leaf.in_ else '不在'}人群 {leaf.audience} 中"
    return f"{'in' if leaf.in_ else 'not in'} the audience {leaf.audience}"


_WORDS: dict[type, Callable[..., str]] = {
    form.Tag: _tag,
    form.Event: _event,
    form.FunnelStep: _funnel,
    form.Trait: _trait,
    form.Place: _place,
    form.Consent: _consent,
    form.Other: _other,
}
