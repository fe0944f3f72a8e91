"""Why each of those entered or left who do with one publication; costs as much as they are many."""

from dataclasses import dataclass

import duckdb

from dagster_project.lib import dbt
from dagster_project.lib.audiences import project, reasons, sql
from dagster_project.lib.audiences.definitions import fingerprint
from dagster_project.lib.audiences.preview import Asker, Then
from dagster_project.lib.audiences.reasons import CONDITIONS, DEFINITION, FIRST, MODEL, Explainer, Reason
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home


@dataclass(frozen=True)
class Situation:
    """What a publication finds.

    Attributes:
        made_from: fingerprint of the model's SQL, where it is made from YAML.
        as_of: of the refresh, ISO 8601 in UTC.
        before: the last publication; None: there is none, or none is known.
        is_first: the audience has no version yet.
        is_redefined: the audience has another definition since the last publication.
        is_stopped: nothing is published but that those go who may not stay.
    """

    audience: str
    made_from: str | None
    as_of: str
    before: Then | None
    is_first: bool
    is_redefined: bool
    is_stopped: bool


# Whatever is known without asking for conditions; `detail` is the reason of an exclusion, `other` another customer.
_CAUSES = """
create or replace temp table causes as
with splits as (
    select from_customer_id, to_customer_id from identity.changes
    where kind = 'split' and _seq > $seq and from_customer_id <> to_customer_id
),

-- Whoever was in and had records of theirs go elsewhere.
split_off as (
    select from_customer_id as customer_id, min(to_customer_id) as other from splits
    semi join difference on difference.customer_id = from_customer_id group by 1
),

split_from as (
    select to_customer_id as customer_id, min(from_customer_id) as other from splits
    semi join members on members.customer_id = from_customer_id group by 1
),

merged_into as (
    select from_customer_id as customer_id, to_customer_id as other from identity.redirects
    semi join difference on difference.customer_id = from_customer_id
),

merged_with as (
    select to_customer_id as customer_id, min(from_customer_id) as other from identity.redirects
    semi join members on members.customer_id = from_customer_id
    where _seq > $seq group by 1
),

gone as (
    select customer_id from difference anti join unified.customers using (customer_id) where operation = 'remove'
),

back as (
    select customer_id, max_by(left_kind, left_at) as left_kind from audiences.memberships
    semi join difference using (customer_id)
    where audience = $audience and left_at is not null group by customer_id
),

known as (
    select customer_id, reason from audiences.exclusions where audience = $audience and destination is null
),

found as (
    select
        difference.operation,
        difference.customer_id,
        case
            when operation = 'remove' then case
                when wanted.reason is not null then 'kept out'
                when gone.customer_id is not null and merged_into.other is not null then 'merged'
                when gone.customer_id is not null then 'gone'
                when $is_stopped then 'no consent'
                when split_off.other is not null then 'split' end
            when merged_with.other is not null then 'merged'
            when split_from.other is not null then 'split'
            when back.left_kind in ('merged', 'gone') then 'restored'
            when known.reason is not null then 'let in'
        end as cause,
        case when operation = 'remove' then wanted.reason else known.reason end as detail,
        case when operation = 'remove' then coalesce(merged_into.other, split_off.other)
            else coalesce(merged_with.other, split_from.other) end as other,
        wanted.conditions as now,
        members.conditions as before
    from difference
    left join wanted using (customer_id)
    left join members using (customer_id)
    left join gone using (customer_id)
    left join merged_into using (customer_id)
    left join merged_with using (customer_id)
    left join split_off using (customer_id)
    left join split_from using (customer_id)
    left join back using (customer_id)
    left join known using (customer_id)
)

select * from found
"""
_WITHOUT_CONDITIONS = {
    ("remove", "merged"): Reason("merged", "merged into {other}", "已并入 {other}"),
    ("remove", "gone"): Reason("gone", "there is no record of the customer any more", "已无该客户的记录"),
    ("remove", "no consent"): Reason("consent", "no consent", "未获得同意"),
    ("add", "merged"): Reason("merged", "merged with {other}, who was in", "与原成员 {other} 合并"),
    ("add", "split"): Reason("split", "split off from {other}, who was in", "由原成员 {other} 拆分而来"),
    ("add", "restored"): Reason("restored", "there are records of the customer again", "该客户的记录已恢复"),
}
_UNKNOWN = Reason("gone", "no known customer any more", "已不是实名客户")


def explain(home: Home, connection: duckdb.DuckDBPyConnection, situation: Situation) -> None:
    """Make the temporary table `explained` (operation, customer_id, kind, reason, reason_zh) of the table `difference`.

    It reads the temporary tables `wanted`, `members` and `difference` of the publication, and the exclusions of the last one.
    """
    seq = situation.before.seq if situation.before else 2**62
    connection.execute(_CAUSES, {"audience": situation.audience, "seq": seq, "is_stopped": situation.is_stopped})
    explainer = _explainer(home, connection, situation)
    combinations = connection.execute("select distinct operation, cause, detail, now, before from causes").fetchall()
    worded = []
    for given in combinations:
        reason = _reason(*given, explainer, situation)
        worded.append((*given, reason.kind, reason.sentence, reason.sentence_zh))
    names = ("operation", "cause", "detail", "now", "before", "kind", "reason", "reason_zh")
    connection.execute(
        f"create or replace temp table worded as select {', '.join(f'unnest(?::varchar[]) as {name}' for name in names)}",
        [[row[place] for row in worded] for place in range(len(names))],
    )
    connection.execute(
        """
        create or replace temp table explained as
        select
            causes.operation, causes.customer_id, kind,
            replace(reason, '{other}', coalesce(other, '')) as reason,
            replace(reason_zh, '{other}', coalesce(other, '')) as reason_zh
        from causes
        inner join worded
            on worded.operation = causes.operation and worded.cause is not distinct from causes.cause
            and worded.detail is not distinct from causes.detail and worded.now is not distinct from causes.now
            and worded.before is not distinct from causes.before
        """
    )


def _reason(
    operation: str,
    cause: str | None,
    detail: str | None,
    now: str | None,
    before: str | None,
    explainer: Explainer | None,
    situation: Situation,
) -> Reason:
    if known := _WITHOUT_CONDITIONS.get((operation, cause or "")):
        return known
    if detail is not None and cause in ("kept out", "let in"):
        return reasons.kept_out(detail) if operation == "remove" else reasons.let_in(detail)
    kind = FIRST if situation.is_first else DEFINITION if situation.is_redefined else CONDITIONS
    if explainer is None:
        found = _of_model(operation, kind)
    elif operation == "add":
        found = explainer.entered(_numbers(now) or set(), _numbers(before), kind)
    elif now is None:
        found = _UNKNOWN
    else:
        before_that = None if kind == DEFINITION else _numbers(before)  # numbers of other conditions
        found = explainer.left(_numbers(now) or set(), before_that, kind) or _of_model(operation, kind)
    if cause == "split":
        return Reason("split", f"records went to {{other}}; {found.sentence}", f"部分记录已归 {{other}}；{found.sentence_zh}")
    return found


def _of_model(operation: str, kind: str) -> Reason:
    if operation == "add":
        start, start_zh = {
            FIRST: ("first version: ", "首个版本："),
            DEFINITION: ("the definition was changed: ", "定义已变更："),
        }.get(kind, ("", ""))
        return Reason(kind if start else MODEL, f"{start}selected by the model", f"{start_zh}被模型选中")
    if kind == DEFINITION:
        return Reason(DEFINITION, "the definition was changed: no longer selected by the model", "定义已变更：不再被模型选中")
    return Reason(MODEL, "no longer selected by the model", "不再被模型选中")


def _numbers(conditions: str | None) -> set[int] | None:
    return None if conditions is None else {int(number) for number in conditions.split(",") if number}


def _explainer(home: Home, connection: duckdb.DuckDBPyConnection, situation: Situation) -> Explainer | None:
    """What speaks of the audience's conditions, once `causes` has which hold for whom; None where there are none.

    The conditions of those who left are asked for, and for who entered those that held at the last publication.
    """
    left, entered = connection.execute(
        """
        select count(*) filter (operation = 'remove' and (cause is null or cause = 'split')),
            count(*) filter (operation = 'add' and cause is null) from causes
        """
    ).fetchone()
    if situation.made_from is None or not (left or entered):
        return None
    name, known = situation.audience, dbt.names_for_audiences(home)
    try:
        forms = project.load(dbt.PROJECT, known)
    except OnefoldError:  # somebody is writing it just now
        return None
    if name not in forms:
        return None
    conditions = sql.conditions(forms[name], known, project.above(name, forms))
    if fingerprint(sql.model(name, forms[name], conditions)) != situation.made_from:
        return None
    variables = dbt.project_variables(home)

    def judge(operation: str, column: str, as_of: str, then: Then | None) -> None:
        connection.execute(
            f"create or replace temp table asked as select customer_id from causes where operation = '{operation}' "
            "and (cause is null or cause = 'split')"
        )
        asker = Asker(
            connection, dbt.PROJECT, known, forms, {**variables, "as_of": as_of}, among="asked", is_built=True, then=then
        )
        asker.members(name)
        connection.execute(
            f"update causes set {column} = judged.conditions from temp.judged_{name} as judged "
            f"where causes.customer_id = judged.customer_id and causes.operation = '{operation}'"
        )

    if left:
        judge("remove", "now", situation.as_of, None)
    then = situation.before
    if entered and then and not situation.is_first and not situation.is_redefined and _has_events_of(connection, then):
        judge("add", "before", str(then.as_of), then)
    return Explainer(forms[name].who, conditions)


def _has_events_of(connection: duckdb.DuckDBPyConnection, then: Then) -> bool:
    """Whether events still bear the number of the write that they came with: a full refresh gives all a new one."""
    first = connection.execute("select min(_seq) from unified.customer_events").fetchone()[0]
    return first is not None and first <= then.seq
