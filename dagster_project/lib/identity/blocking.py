"""Which profiles are compared at all: those that share a value, as long as not too many share it."""

from dataclasses import dataclass

from dagster_project.lib.identity.backend import Backend
from dagster_project.lib.identity.comparable import source

# What two profiles must share to be compared: a value, or, where too many share it, the value and something more.
BLOCKING = {
    "document": ("document", "null"),
    "mailbox": ("mailbox", "email"),
    "phone": ("phone", "concat_ws(' ', phone, given)"),
    "name": (
        "least(given, family) || ' ' || greatest(given, family)",
        "concat_ws(' ', given, family, coalesce(birth_date, city))",
    ),
    "birth date": ("birth_date", "birth_date || substring(least(given, family), 1, 1)"),
    "address": ("address", "address || substring(least(given, family), 1, 1)"),
    "postcode": ("postal_code", "postal_code || ' ' || family"),
    "given name": ("given", "given || ' ' || substring(birth_date, 1, 6)"),
    "family name": ("family", "family || ' ' || substring(birth_date, 1, 6)"),
}


@dataclass(frozen=True)
class Blocked:
    """What one rule of BLOCKING let be compared.

    Attributes:
        comparisons: pairs that it was the first to find.
        left_out: values too common for it, each with how many profiles it therefore did not compare.
    """

    rule: str
    comparisons: int
    left_out: tuple[tuple[str, int], ...]


def find_pairs(backend: Backend, prepared: str, largest: int, pairs: str, changed: str | None = None) -> None:
    """Write `_pairs` (join_key_l, join_key_r, match_key): rows of `prepared` to compare, and the first rule that says so.

    Args:
        largest: profiles that may share a value and be compared by it.
        pairs: the table beside which `keep_blocking` kept what was too common the last time.
        changed: as of `match.predict`; `_touched` (profile_id) are then all profiles whose pairs may be other than before.
    """
    _find_values(backend, prepared, largest)
    if changed:
        _find_touched(backend, prepared, pairs, changed)
    backend.make("_pairs", _CHANGED_PAIRS if changed else _ALL_PAIRS)


def _find_values(backend: Backend, prepared: str, largest: int) -> None:
    """Write what profiles can be compared by: `_values`, of them the too common in `_common`, and the usable as `_keys`."""
    values = " union all ".join(
        f"select profile, {number} as rule, value, {backend.hash}(value) as key, "
        f"case when finer is not null then {backend.hash}(finer, {number}, 1) end as finer_key "
        f"from (select {backend.profile} as profile, {value} as value, {finer} as finer from {prepared}) as profiles "
        "where value is not null"
        for number, (value, finer) in enumerate(BLOCKING.values())
    )
    backend.make("_values", values)
    backend.make(
        "_common",
        f"""
        with plain as (
            select rule, key, min(value) as value, count(*) as profiles
            from _values group by rule, key having count(*) > {largest}
        ),
        finer as (
            select rule, finer_key as key, min(value) as value, count(*) as profiles
            from _values semi join plain using (rule, key)
            where finer_key is not null group by rule, finer_key having count(*) > {largest}
        )
        select * from plain union all select * from finer
        """,
    )
    backend.make(
        "_keys",
        """
        select profile, rule, key from _values anti join _common using (rule, key)
        union all
        select profile, rule, finer_key as key
        from (select * from _values semi join _common using (rule, key) where finer_key is not null) as narrowed
        anti join _common on _common.rule = narrowed.rule and _common.key = narrowed.finer_key
        """,
    )


def _find_touched(backend: Backend, prepared: str, pairs: str, changed: str) -> None:
    """Write `_touched`: the changed profiles, and those with a value that is too common since the last time, or no longer."""
    backend.make(
        "_touched",
        f"""
        with before as (select rule, {backend.each}(common) as common from {pairs}_blocking),
        known as (
            select rules.number as rule, before.common.key as key
            from before join ({_RULES}) as rules on rules.rule = before.rule
        ),
        turned as (
            (select rule, key from _common except select rule, key from known)
            union
            (select rule, key from known except select rule, key from _common)
        ),
        by_value as (
            select profile from _values semi join turned using (rule, key)
            union
            select profile from _values semi join turned on turned.rule = _values.rule and turned.key = _values.finer_key
        )
        select coalesce(profiles.profile_id, changed.profile_id) as profile_id, profiles.profile
        from (select profile_id, {backend.profile} as profile from {prepared}) as profiles
        full join (select distinct profile_id from {source(changed)} as changed) as changed
            on changed.profile_id = profiles.profile_id
        where changed.profile_id is not null or profiles.profile in (select profile from by_value)
        """,
    )


def keep_blocking(backend: Backend, pairs: str, matched_by: str) -> list[Blocked]:
    """After `find_pairs`: keep in `<pairs>_blocking` what was too common, and say how each rule did."""
    backend.replace(
        f"{pairs}_blocking",
        f"""
        with made as (select match_key::int as number, count(*) as comparisons from _pairs group by 1),
        common as (
            select rule as number, {backend.listed(["value", "key", "profiles"], "profiles")} as common from _common group by 1
        ),
        lost as (
            select rule, value, count(*) as profiles
            from (select * from _values semi join _common using (rule, key)) as narrowed
            where finer_key is null
                or exists (
                    select 1 from _common where _common.rule = narrowed.rule and _common.key = narrowed.finer_key
                )
            group by rule, value
        ),
        left_out as (
            select rule as number, {backend.listed(["value", "profiles"], "profiles")} as left_out from lost group by 1
        )
        select
            rules.rule,
            coalesce(made.comparisons, 0) as comparisons,
            coalesce(common.common, {backend.empty}) as common,
            coalesce(left_out.left_out, {backend.empty}) as left_out,
            '{matched_by}' as matched_by
        from ({_RULES}) as rules
        left join made on made.number = rules.number
        left join common on common.number = rules.number
        left join left_out on left_out.number = rules.number
        order by rules.number
        """,
    )
    backend.drop("_values", "_common", "_keys")
    rows = backend.rows(f"select rule, comparisons, left_out from {backend.kept(f'{pairs}_blocking')}")
    found = {rule: Blocked(rule, made, tuple((each["value"], each["profiles"]) for each in lost)) for rule, made, lost in rows}
    return [found[rule] for rule in BLOCKING]


_RULES = " union all ".join(f"select {number} as number, '{rule}' as rule" for number, rule in enumerate(BLOCKING))

_ALL_PAIRS = """
    select one.profile as join_key_l, other.profile as join_key_r, min(one.rule)::string as match_key
    from _keys as one
    join _keys as other on one.rule = other.rule and one.key = other.key and one.profile < other.profile
    group by 1, 2
"""
_CHANGED_PAIRS = """
    select
        least(one.profile, other.profile) as join_key_l,
        greatest(one.profile, other.profile) as join_key_r,
        min(one.rule)::string as match_key
    from (select * from _keys semi join _touched using (profile)) as one
    join _keys as other on one.rule = other.rule and one.key = other.key and one.profile <> other.profile
    group by 1, 2
"""
