"""Which profiles are compared at all: those that share a value, as long as not too many share it."""

from dataclasses import dataclass

import duckdb

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
    "birth date": ("birth_date", "birth_date || least(given, family)[1]"),
    "address": ("address", "address || least(given, family)[1]"),
    "postcode": ("postal_code", "postal_code || ' ' || family"),
    "given name": ("given", "given || ' ' || birth_date[1:6]"),
    "family name": ("family", "family || ' ' || birth_date[1:6]"),
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


def find_pairs(
    connection: duckdb.DuckDBPyConnection, prepared: str, largest: int, pairs: str, changed: str | None = None
) -> None:
    """Write `_pairs` (join_key_l, join_key_r, match_key): row ids of `prepared` to compare, and the first rule that says so.

    Args:
        largest: profiles that may share a value and be compared by it.
        pairs: the table beside which `keep_blocking` kept what was too common the last time.
        changed: as of `match.predict`; `_touched` (profile_id) are then all profiles whose pairs may be other than before.
    """
    _find_values(connection, prepared, largest)
    if changed:
        _find_touched(connection, prepared, pairs, changed)
    connection.execute(f"create or replace temp table _pairs as {_CHANGED_PAIRS if changed else _ALL_PAIRS}")


def _find_values(connection: duckdb.DuckDBPyConnection, prepared: str, largest: int) -> None:
    """Write what profiles can be compared by: `_values`, of them the too common in `_common`, and the usable as `_keys`."""
    values = " union all ".join(
        f"select rowid as profile, {number} as rule, value, hash(value) as key, "
        f"case when finer is not null then hash(finer, {number}, 1) end as finer_key "
        f"from (select rowid, {value} as value, {finer} as finer from {prepared}) where value is not null"
        for number, (value, finer) in enumerate(BLOCKING.values())
    )
    connection.execute(f"create or replace temp table _values as {values}")
    connection.execute(
        f"""
        create or replace temp table _common as
        with plain as (
            select rule, key, min(value) as value, count(*) as profiles
            from _values group by rule, key having count(*) > {largest}
        ),
        finer as (
            select rule, finer_key as key, min(value) as value, count(*) as profiles
            from _values semi join plain using (rule, key)
            where finer_key is not null group by rule, finer_key having count(*) > {largest}
        )
        from plain union all from finer
        """
    )
    connection.execute(
        """
        create or replace temp table _keys as
        select profile, rule, key from _values anti join _common using (rule, key)
        union all
        select profile, rule, finer_key as key
        from (select * from _values semi join _common using (rule, key) where finer_key is not null) as narrowed
        anti join _common on _common.rule = narrowed.rule and _common.key = narrowed.finer_key
        """
    )


def _find_touched(connection: duckdb.DuckDBPyConnection, prepared: str, pairs: str, changed: str) -> None:
    """Write `_touched`: the changed profiles, and those with a value that is too common since the last time, or no longer."""
    connection.execute(
        f"""
        create or replace temp table _touched as
        with before as (select rule, unnest(common) as common from {pairs}_blocking),
        known as (select rules.number as rule, common.key from before join ({_RULES}) as rules using (rule)),
        turned as (
            (select rule, key from _common except from known) union (from known except select rule, key from _common)
        ),
        by_value as (
            select profile from _values semi join turned using (rule, key)
            union
            select profile from _values semi join turned on turned.rule = _values.rule and turned.key = _values.finer_key
        )
        select coalesce(profile_id, changed.profile_id) as profile_id, profile
        from (select profile_id, rowid as profile from {prepared}) as profiles
        full join (select distinct profile_id from {source(changed)}) as changed using (profile_id)
        where changed.profile_id is not null or profile in (from by_value)
        """
    )


def keep_blocking(connection: duckdb.DuckDBPyConnection, pairs: str, matched_by: str) -> list[Blocked]:
    """After `find_pairs`: keep in `<pairs>_blocking` what was too common, and say how each rule did."""
    connection.execute(
        f"""
        create or replace table {pairs}_blocking as
        with made as (select match_key::int as number, count(*) as comparisons from _pairs group by 1),
        common as (
            select
                rule as number,
                list({{key: key, value: value, profiles: profiles}} order by profiles desc, value, key) as common
            from _common group by 1
        ),
        lost as (
            select rule, value, count(*) as profiles
            from _values semi join _common using (rule, key)
            where finer_key is null or (rule, finer_key) in (select (rule, key) from _common)
            group by all
        ),
        left_out as (
            select rule as number, list({{value: value, profiles: profiles}} order by profiles desc, value) as left_out
            from lost group by 1
        )
        select
            rules.rule,
            coalesce(comparisons, 0) as comparisons,
            coalesce(common, []) as common,
            coalesce(left_out, []) as left_out,
            '{matched_by}' as matched_by
        from ({_RULES}) as rules left join made using (number) left join common using (number) left join left_out using (number)
        order by number
        """
    )
    for table in ("_values", "_common", "_keys"):
        connection.execute(f"drop table {table}")
    rows = connection.execute(f"select rule, comparisons, left_out from {pairs}_blocking").fetchall()
    return [Blocked(rule, made, tuple((each["value"], each["profiles"]) for each in left_out)) for rule, made, left_out in rows]


_RULES = " union all ".join(f"select {number} as number, '{rule}' as rule" for number, rule in enumerate(BLOCKING))

_ALL_PAIRS = """
    select one.profile as join_key_l, other.profile as join_key_r, min(one.rule)::varchar as match_key
    from _keys as one
    join _keys as other on one.rule = other.rule and one.key = other.key and one.profile < other.profile
    group by 1, 2
"""
_CHANGED_PAIRS = """
    select
        least(one.profile, other.profile) as join_key_l,
        greatest(one.profile, other.profile) as join_key_r,
        min(one.rule)::varchar as match_key
    from (select _keys.* from _keys semi join _touched using (profile)) as one
    join _keys as other on one.rule = other.rule and one.key = other.key and one.profile <> other.profile
    group by 1, 2
"""
