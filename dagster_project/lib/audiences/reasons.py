"""Why somebody entered or left an audience, in words: which of its conditions made the difference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dagster_project.lib.audiences.form import Rule
from dagster_project.lib.audiences.sql import Condition

FIRST, CONDITIONS, MODEL, DEFINITION, HIGHER = "first", "conditions", "model", "definition", "higher_audience"
_OF_GROUP = "exclusive_group."  # paths of the conditions that priority adds


@dataclass(frozen=True)
class Reason:
    """A code to group by, and a short sentence in both languages."""

    kind: str
    sentence: str
    sentence_zh: str


# The reason that an exclusion has -> why somebody who had it enters when it is gone, and the code of both.
_KEPT_OUT = {
    "no consent": Reason("consent", "consent was given", "已获得同意"),
    "consent denied or withdrawn": Reason("consent", "consent was given", "已获得同意"),
    "suppressed": Reason("suppressed", "no longer suppressed", "已解除禁止联系"),
    "cap": Reason("cap", "under the cap on messages again", "触达次数已低于上限"),
    "control group": Reason("control", "no longer in the control group", "已不在对照组"),
    "restricted tag": Reason("restricted_tag", "no longer kept out for a restricted tag", "不再因受限标签而排除"),
}
_ZH = {
    "no consent": "未获得同意",
    "consent denied or withdrawn": "同意被拒绝或撤回",
    "suppressed": "已列入禁止联系名单",
    "cap": "触达次数已达上限",
    "control group": "进入对照组",
    "restricted tag": "受限标签",
}


def kept_out(reason: str) -> Reason:
    """Why a member left whom an exclusion keeps out now."""
    known = _KEPT_OUT.get(reason)
    return Reason(known.kind if known else reason.replace(" ", "_"), reason, _ZH.get(reason, reason))


def let_in(reason: str) -> Reason:
    """Why somebody entered whom an exclusion kept out until now."""
    return _KEPT_OUT.get(reason) or Reason(reason.replace(" ", "_"), f"no longer kept out: {reason}", f"不再排除：{reason}")


@dataclass(frozen=True)
class _Part:
    """A condition that makes a rule what it is, asked for as it stands, or below a `not`."""

    condition: Condition
    is_asked: bool


class Explainer:
    """The reasons of one declared audience.

    Args:
        conditions: those of the rule in its order, then those that must not hold for another audience of its group.
    """

    def __init__(self, rule: Rule, conditions: Sequence[Condition]) -> None:
        self._rule, self._conditions = rule, conditions

    def entered(self, now: Collection[int], before: Collection[int] | None = None, kind: str = CONDITIONS) -> Reason:
        """Why somebody is in.

        Args:
            now: the numbers of the conditions that hold.
            before: those that held when the audience was last published; None: not known.
            kind: `first` or `definition` where not only conditions made the difference.
        """
        parts = self._changed(self._parts(now, True), now, before)
        if kind == CONDITIONS and parts and all(_is_of_group(part) for part in parts):
            kind = HIGHER
        said = "; ".join(_holding(part) for part in parts)
        said_zh = "；".join(_holding_zh(part) for part in parts)
        start = {FIRST: "first version: ", DEFINITION: "by the new definition: "}.get(kind, "now: ")
        start_zh = {FIRST: "首个版本：", DEFINITION: "按新的定义："}.get(kind, "现在满足：")
        return Reason(kind, start + said, start_zh + said_zh)

    def left(self, now: Collection[int], before: Collection[int] | None = None, kind: str = CONDITIONS) -> Reason | None:
        """Why somebody is in no more; None where the conditions say that they are.

        Args:
            before: as of `entered`, when they were in.
        """
        parts = self._changed(self._parts(now, False), now, before)
        if not parts:
            return None
        if kind == DEFINITION:
            wanted, wanted_zh = "; ".join(_holding(part) for part in parts), "；".join(_holding_zh(part) for part in parts)
            return Reason(kind, f"does not meet the new definition: {wanted}", f"不符合新的定义：{wanted_zh}")
        above = [part for part in parts if _is_of_group(part)]
        own = [part for part in parts if not _is_of_group(part)]
        said, said_zh = [], []
        for is_asked, start, start_zh in ((True, "no longer: ", "不再满足："), (False, "now: ", "现在：")):
            if these := [part.condition for part in own if part.is_asked == is_asked]:
                said.append(start + "; ".join(condition.sentence for condition in these))
                said_zh.append(start_zh + "；".join(condition.sentence_zh for condition in these))
        for part in above:
            name = part.condition.path.removeprefix(_OF_GROUP)
            said.append(f"now in the audience {name}, which comes first in the group")
            said_zh.append(f"现在属于同组中优先的人群 {name}")
        return Reason(kind if own else HIGHER, "; ".join(said), "；".join(said_zh))

    def _changed(self, parts: list[_Part], now: Collection[int], before: Collection[int] | None) -> list[_Part]:
        """Those that were otherwise before; all of them where that is not known or says nothing."""
        if before is None:
            return parts
        changed = [part for part in parts if (part.condition.number in now) != (part.condition.number in before)]
        return changed or parts

    def _parts(self, holding: Collection[int], wanted: bool) -> list[_Part]:
        """The conditions that make the whole true, or false; none where it is not what is wanted."""
        numbered = iter(self._conditions)

        def judged(rule: Rule) -> tuple[bool, list[_Part]]:
            """Whether a rule holds, and the conditions that make it so."""
            if rule.leaf is not None:
                condition = next(numbered)
                return condition.number in holding, [_Part(condition, True)]
            if rule.not_ is not None:
                holds, parts = judged(rule.not_)
                return not holds, [_Part(part.condition, not part.is_asked) for part in parts]
            found = [judged(inner) for inner in rule.all_ or rule.any_ or ()]
            holds = all(h for h, _ in found) if rule.all_ else any(h for h, _ in found)
            return holds, [part for h, parts in found if h == holds for part in parts]

        found = [judged(self._rule)]
        found += [(condition.number in holding, [_Part(condition, True)]) for condition in numbered]
        return [part for holds, parts in found if holds == wanted for part in parts]


def _is_of_group(part: _Part) -> bool:
    return part.condition.path.startswith(_OF_GROUP)


def _holding(part: _Part) -> str:
    return part.condition.sentence if part.is_asked else f"not ({part.condition.sentence})"


def _holding_zh(part: _Part) -> str:
    return part.condition.sentence_zh if part.is_asked else f"并非（{part.condition.sentence_zh}）"
