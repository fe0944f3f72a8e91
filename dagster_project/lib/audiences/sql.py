"""An audience as the SQL of a dbt model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_project.lib.audiences import form
from dagster_project.lib.audiences.known import Known, Trait
from dagster_project.lib.audiences.sentences import CHINESE, number, sentence


@dataclass(frozen=True)
class Condition:
    """One condition of an audience: where it stands in the file, what it asks in words, and its SQL.

    `source` is the query of a CTE with the customers for whom it holds, or does not where it `is_negated`; without one
    `expression` judges a row of unified.customers.
    """

    number: int
    path: str
    sentence: str
    sentence_zh: str
    source: str | None = None
    expression: str | None = None
    is_negated: bool = False

    @property
    def name(self) -> str:
        return f"condition_{self.number}"

    @property
    def judged(self) -> str:
        """The column of `judged`: true or false, never null."""
        if self.source is None:
            return f"coalesce({self.expression}, false) as {self.name}"
        return f"{self.name}.customer_id is {'' if self.is_negated else 'not '}null as {self.name}"


def conditions(audience: form.Form, known: Known, above: Sequence[str] = ()) -> list[Condition]:
    """The conditions in the order of the file, then one for each audience `above` it in its exclusive group."""
    leaves = [*audience.who.leaves(), *((f"exclusive_group.{n}", form.Other(not_in=n)) for n in above)]
    found = []
    for place, (path, leaf) in enumerate(leaves, start=1):
        words = sentence(leaf, known), sentence(leaf, known, CHINESE)
        if isinstance(leaf, form.Trait):
            found.append(Condition(place, path, *words, expression=_trait(leaf, known.traits[leaf.name])))
        elif isinstance(leaf, form.Place):
            found.append(Condition(place, path, *words, expression=_place(leaf, known)))
        else:
            source, is_negated = _SOURCES[type(leaf)](leaf, known)
            found.append(Condition(place, path, *words, source=source, is_negated=is_negated))
    return found


def model(name: str, audience: form.Form, asked: Sequence[Condition], members_only: bool = True) -> str:
    """The model's text.

    Args:
        asked: what `conditions` gives of the audience.
        members_only: without it, every known customer has a row, which says which conditions hold.
    """
    ctes = [
        f"-- {comment(c.sentence)}{' (those for whom it does not hold)' if c.is_negated else ''}\n"
        f"{c.name} as (\n{_indented(c.source)}\n)"
        for c in asked
        if c.source is not None
    ]
    columns = ["customers.customer_id"]
    for c in asked:
        note = f"  -- {comment(c.sentence)}" if c.source is None else ""
        columns.append(c.judged + ("," if c is not asked[-1] else "") + note)
    columns[0] += ","
    joins = [f"left join {c.name} on {c.name}.customer_id = customers.customer_id" for c in asked if c.source is not None]
    known_customers = "from {{ ref('unified_customers') }} as customers"
    judged = "\n".join(["select", *(f"    {c}" for c in columns), known_customers, *joins, "where customers.is_known"])
    ctes.append(f"judged as (\n{_indented(judged)}\n)")
    numbers = ",\n".join(f"        case when {c.name} then '{c.number}' end" for c in asked)
    last = [
        "select",
        "    customer_id,",
        f"    concat_ws(',',\n{numbers}) as conditions,",
        f"    {_is_control(name, audience.control)} as is_control",
        "from judged",
    ]
    if members_only:
        last.append(f"where {_combined(audience, asked)}")
    else:
        last.insert(1, f"    {_combined(audience, asked)} as is_member,")
    head = (
        f"-- {comment(audience.label)}. Grain: one known customer for whom the conditions hold. Made from\n"
        f"-- dbt/audiences/{name}.yaml: change it there. `conditions` has the numbers of those that hold.\n\n"
    )
    # The first comment stands before `with`, as it does for people.
    first = re.sub(r"^((?:--[^\n]*\n)*)", r"\1with ", ctes[0], count=1)
    return head + ",\n\n".join([first, *ctes[1:]]) + "\n\n" + "\n".join(last) + "\n"


def comment(text: str) -> str:
    """A text in one line, without what dbt would read as Jinja."""
    return re.sub(r"[\s{}\x00-\x1f\x7f-\x9f]+", " ", text).strip()


def _combined(audience: form.Form, asked: Sequence[Condition]) -> str:
    """How the rule joins its conditions, and those that its group adds."""
    names = iter(c.name for c in asked)

    def joined(rule: form.Rule, inner: bool) -> str:
        if rule.leaf is not None:
            return next(names)
        if rule.not_ is not None:
            return f"not {joined(rule.not_, True)}"
        parts = [joined(part, True) for part in rule.all_ or rule.any_ or ()]
        text = (" and " if rule.all_ else " or ").join(parts)
        return f"({text})" if inner and len(parts) > 1 else text

    rule = audience.who
    added = len(asked) - len(list(rule.leaves()))
    first = joined(rule, added > 0)
    return " and ".join([first, *names])


def _is_control(name: str, control: form.Control | None) -> str:
    """Whether a customer is among the share: by the first eight digits of a hash, so that it never changes."""
    if control is None:
        return "false"
    bound = min(max(round(control.share * 2**32), 1), 2**32 - 1)
    return f"substr(md5(concat_ws('|', customer_id, '{control.salt or name}')), 1, 8) < '{bound:08x}'"


def _tag(leaf: form.Tag, known: Known) -> tuple[str, bool]:
    if leaf.was:
        return (
            "select distinct customer_id\n"
            "from {{ ref('tags_history') }}\n"
            f"where tag = '{leaf.name}' and value in ({_list(leaf.was)})"
            f"\n    and {{{{ within_days('valid_to', {leaf.within_days}) }}}}"
            "\n    and customer_id not in ("
            "\n        select customer_id from {{ ref('tags_history') }}"
            f"\n        where tag = '{leaf.name}' and value in ({_list(leaf.was)}) and valid_to is null)",
            False,
        )
    if leaf.became:
        before = f"\n    and previous_value in ({_list(leaf.from_)})" if leaf.from_ else ""
        return (
            "select customer_id\n"
            "from {{ ref('tags_history') }}\n"
            f"where tag = '{leaf.name}' and value in ({_list(leaf.became)}) and valid_to is null"
            f"{before}\n    and {{{{ within_days('valid_from', {leaf.within_days}) }}}}\n"
            "    -- what was found when the tag was first worked out had begun before\n"
            f"    and valid_from > (select min(valid_from) from {{{{ ref('tags_history') }}}} where tag = '{leaf.name}')",
            False,
        )
    asked = [f"tag = '{leaf.name}'"]
    if leaf.is_:
        asked.append(f"value in ({_list(leaf.is_)})")
    asked += _bounds("number_value", leaf.at_least, leaf.at_most)
    if leaf.confidence is not None:
        asked.append(f"coalesce(confidence, 1) >= {number(leaf.confidence)}")
    return f"select customer_id\nfrom {{{{ ref('tags_customer_tags') }}}}\nwhere {' and '.join(asked)}", False


def _event(leaf: form.Event, known: Known) -> tuple[str, bool]:
    counted = [f"event_name in ({_list(leaf.name)})"]
    products = []
    for column, values in leaf.where.items():
        if column in ("category", "brand"):
            products.append(f"{column} in ({_list(values)})")
        else:
            counted.append(f"{column} in ({_list(values)})")
    if products:
        counted.append(
            f"product_id in (select product_id from {{{{ ref('cleaned_catalog_products') }}}} where {' and '.join(products)})"
        )
    read, count, amount = "\n    and ".join(counted), "count(*)", "sum(amount_base)"
    having = []
    if leaf.not_followed_by:
        is_counted = " and ".join(counted)
        either = dict.fromkeys([*leaf.name, *leaf.not_followed_by])
        read = f"event_name in ({_list(either)})"
        count, amount = f"count(case when {is_counted} then 1 end)", f"sum(case when {is_counted} then amount_base end)"
        others = f"max(case when event_name in ({_list(leaf.not_followed_by)}) then occurred_at end)"
        last = f"max(case when {is_counted} then occurred_at end)"
        having.append(f"{last}\n        > coalesce({others}, {{{{ long_ago() }}}})")
    least, most, is_negated = leaf.at_least, leaf.at_most, False
    if most and not least:  # who did it not at all has no row to be counted
        least, most, is_negated = most + 1, None, True
    if least and least > 1:
        having.append(f"{count} >= {least}")
    if most:
        having.append(f"{count} <= {most}")
    if leaf.amount_at_least is not None:
        having.append(f"{amount} >= {number(leaf.amount_at_least)}")
    lines = [
        "select customer_id",
        "from {{ ref('unified_customer_events') }}",
        "where customer_id is not null and {{ is_customer_traffic() }}",
        f"    and {{{{ within_days('occurred_at', {leaf.within_days}) }}}}",
        f"    and {read}",
        "group by customer_id",
    ]
    if having:
        lines.append("having " + "\n    and ".join(having))
    return "\n".join(lines), is_negated or leaf.never


def _funnel(leaf: form.FunnelStep, known: Known) -> tuple[str, bool]:
    def step(named: str) -> str:
        # By name, since another home may have put a step before it.
        return f"{{{{ funnel_step('{leaf.name}', '{named}') }}}}"

    asked = ["recency = 1"]
    if leaf.reached is not None:
        asked.append(f"furthest_step >= {step(leaf.reached)}")
    if leaf.not_reached is not None:
        asked.append(f"furthest_step < {step(leaf.not_reached)}")
    return (
        "select customer_id\n"
        "from (\n"
        "    select\n"
        "        customer_id, furthest_step,\n"
        "        row_number() over (partition by customer_id order by step_1_at desc, entry_id) as recency\n"
        "    from {{ ref('analytics_funnel_entries') }}\n"
        f"    where funnel = '{leaf.name}' and {{{{ within_days('step_1_at', {leaf.within_days}) }}}}\n"
        ") as entries\n" + "where " + "\n    and ".join(asked),
        False,
    )


def _trait(leaf: form.Trait, trait: Trait) -> str:
    column = f"customers.{leaf.name}"
    if trait.kind == "age":
        if leaf.known is not None:
            return f"customers.birth_date is {'not ' if leaf.known else ''}null"
        # Who was born on this day so many years ago is so old today.
        parts = []
        if leaf.at_least is not None:
            parts.append(f"customers.birth_date <= {{{{ years_ago({int(leaf.at_least)}) }}}}")
        if leaf.at_most is not None:
            parts.append(f"customers.birth_date > {{{{ years_ago({int(leaf.at_most) + 1}) }}}}")
        return " and ".join(parts)
    if leaf.known is not None:
        return f"{column} is {'not ' if leaf.known else ''}null"
    if isinstance(leaf.is_, bool):
        return column if leaf.is_ else f"not {column}"
    if leaf.is_:
        return f"{column} in ({', '.join(leaf.is_) if trait.kind == 'number' else _list(leaf.is_)})"
    bounds = _bounds(column, leaf.at_least, leaf.at_most)
    if leaf.within_days is not None:
        bounds.append(f"{{{{ within_days('{column}', {leaf.within_days}) }}}}")
    if leaf.older_than_days is not None:
        bounds.append(f"{column} <= {{{{ days_ago({leaf.older_than_days}) }}}}")
    return " and ".join(bounds)


def _place(leaf: form.Place, known: Known) -> str:
    asked = []
    if leaf.city:
        keys = sorted({key for city in leaf.city for key in known.spellings(city)})
        asked.append(f"{{{{ place_key('customers.city') }}}} in ({_list(keys)})")
    if leaf.region:
        asked.append(f"{{{{ lower_case('customers.region') }}}} in ({_list(r.lower() for r in leaf.region)})")
    if leaf.country:
        asked.append(f"customers.country in ({_list(leaf.country)})")
    return " and ".join(asked)


def _consent(leaf: form.Consent, known: Known) -> tuple[str, bool]:
    channel = f", '{leaf.channel}'" if leaf.channel else ""
    return f"{{{{ consenting('{leaf.purpose}'{channel}) }}}}", False


def _other(leaf: form.Other, known: Known) -> tuple[str, bool]:
    return f"select customer_id from {{{{ ref('audiences_{leaf.audience}') }}}}", leaf.not_in is not None


_SOURCES: dict[type, Callable[..., tuple[str, bool]]] = {
    form.Tag: _tag,
    form.Event: _event,
    form.FunnelStep: _funnel,
    form.Consent: _consent,
    form.Other: _other,
}


def _bounds(column: str, least: object, most: object) -> list[str]:
    asked = []
    if least is not None:
        asked.append(f"{column} >= {number(least)}")
    if most is not None:
        asked.append(f"{column} <= {number(most)}")
    return asked


def _list(values: object) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())
