"""What an audience would be, as of the last refresh: asked of the served tables; nothing waits or is written."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from dagster_project.lib.audiences import form, project, sql
from dagster_project.lib.audiences.form import Form, suggestion
from dagster_project.lib.audiences.known import CARING, PREFIX, Known
from dagster_project.lib.audiences.rendering import rendered, table_of
from dagster_project.lib.audiences.sentences import CHINESE, whole
from dagster_project.lib.contracts import NAME
from dagster_project.lib.errors import OnefoldError

_SHOWN_TAGS = ("lifecycle", "value_tier", "preferred_channel", "city_tier")


@dataclass(frozen=True)
class Preview:
    """Counts are of known customers.

    Attributes:
        summary: members, how many of them are the control group, of how many known customers.
        conditions: each with its words and for how many customers it holds; none where an analyst wrote the SQL.
        reach: by channel, members with an address for it, who allow the purpose there, and whom one may write to there.
        overlap: with each published audience: its members, how many are in both, and the share of this one.
        values: of some tags: share of the members and of all known customers who have the value.
        examples: some members, with the conditions that hold.
    """

    audience: str
    purpose: str | None
    sentence: str
    sentence_zh: str
    as_of: str
    summary: dict[str, Any]
    conditions: list[dict[str, Any]]
    reach: list[dict[str, Any]]
    overlap: list[dict[str, Any]]
    values: list[dict[str, Any]]
    examples: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Tables of which conditions read only the rows of the customer whom they judge; of tags.history also when it begins.
_OF_CUSTOMERS = (
    "unified_customers",
    "unified_customer_events",
    "unified_contact_permissions",
    "unified_customer_identifiers",
    "tags_customer_tags",
    "analytics_funnel_entries",
)


class Asker:
    """Audiences of a dbt project, asked of one connection whose temporary tables they become.

    Args:
        among: a table of customers; nobody else is judged, and little else is read. By default all known ones are.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        known: Known,
        forms: Mapping[str, Form],
        variables: Mapping[str, Any],
        among: str | None = None,
    ) -> None:
        self._connection, self._folder, self._known, self._forms = connection, folder, known, forms
        self._variables, self._among = variables, among
        self._made: set[str] = set()

    def members(self, name: str) -> str:
        """The table with an audience's members, made with those that it is made from."""
        table = f"temp.{PREFIX}{name}"
        if name in self._made:
            return table
        self._made.add(name)
        if name in self._forms:
            judged = sql.model(name, self._forms[name], self.conditions(name), members_only=False)
            self._execute(f"create or replace temp table judged_{name} as {self._sql(judged)}", name)
            query = f"select customer_id, conditions, is_control from judged_{name} where is_member"
        else:
            query = self.query(name)
        self._execute(f"create or replace temp table {PREFIX}{name} as {query}", name)
        return table

    def query(self, name: str) -> str:
        """The query that dbt builds an audience's table from."""
        if name not in self._forms:
            return rendered(self._folder, self._known.models[name], self._variables, self._whole)  # it may rank customers
        return self._sql(sql.model(name, self._forms[name], self.conditions(name)))

    def conditions(self, name: str) -> list[sql.Condition]:
        return sql.conditions(self._forms[name], self._known, project.above(name, self._forms))

    def holding(self, name: str) -> dict[int, int]:
        """For how many known customers each condition holds."""
        self.members(name)
        rows = self._connection.execute(
            f"select number, count(*) from (select unnest(string_split(conditions, ',')) as number from temp.judged_{name}) "
            "where number <> '' group by number"
        ).fetchall()
        return {int(number): count for number, count in rows}

    def judged(self, name: str, customer: str) -> tuple[bool, set[int]] | None:
        """Whether a customer is a member, and which conditions hold; None if nobody known has this id."""
        self.members(name)
        row = self._connection.execute(
            f"select is_member, conditions from temp.judged_{name} where customer_id = ?", [customer]
        ).fetchone()
        return row and (row[0], {int(number) for number in row[1].split(",") if number})

    def allowing(self, purpose: str, channel: str) -> str:
        """The query of who allows a purpose on a channel."""
        return self._sql(f"{{{{ consenting('{purpose}', '{channel}') }}}}")

    def _sql(self, text: str) -> str:
        return rendered(self._folder, text, self._variables, self._ref)

    def _ref(self, model: str) -> str:
        table = self._whole(model)
        if self._among and model in _OF_CUSTOMERS:
            return f"(select * from {table} where customer_id in (select customer_id from {self._among}))"
        return table

    def _whole(self, model: str) -> str:
        return self.members(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else table_of(self._folder, model)

    def _execute(self, query: str, name: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(query)
        except duckdb.CatalogException as error:
            message = str(error).splitlines()[0]
            raise OnefoldError(f"{name}: {message}; what it reads is served after the next `onefold refresh`") from error


def named(given: str, folder: Path, known: Known) -> tuple[str, dict[str, Form]]:
    """The audience that a name or a file means, and all that are declared, that file's in place of the project's.

    Raises:
        OnefoldError: there is none, or something in it is wrong.
    """
    if given.endswith((".yaml", ".yml")) or "/" in given:
        file = Path(given)
        if not re.fullmatch(NAME, file.stem):
            raise OnefoldError(f"{given}: name the file as the audience, in lower case with underscores, and .yaml")
        draft = form.read(file)
        try:
            return file.stem, project.load(folder, known, {file.stem: draft})
        except OnefoldError as error:  # in the words of the project, where the draft may never have been
            raise OnefoldError(str(error).replace(f"{folder.name}/audiences/{file.stem}.yaml", given)) from error
    name = given.removeprefix(PREFIX)
    forms = project.load(folder, known)
    if name not in forms and name not in known.models:
        names = {*forms, *known.models}
        raise OnefoldError(f"there is no audience '{name}': {suggestion(name, names)}; of a new one give the .yaml file")
    return name, forms


def preview(
    connection: duckdb.DuckDBPyConnection,
    asker: Asker,
    name: str,
    known: Known,
    forms: Mapping[str, Form],
    purpose: str | None,
    tags: Sequence[str] = (),
    examples: int = 5,
) -> Preview:
    """Ask all that a preview shows.

    Args:
        purpose: for which consent is asked; without one nobody is known to allow anything.
        tags: whose values are shown, in place of the usual ones.
    """
    for tag in tags:
        if tag not in known.tags:
            raise OnefoldError(f"there is no tag '{tag}': {suggestion(tag, known.tags)}")
    shown = [tag for tag in tags or _SHOWN_TAGS if tag in known.tags]
    if closed := [tag for tag in shown if known.tags[tag].is_restricted and purpose not in CARING]:
        raise OnefoldError(
            f"restricted tags are for {' and '.join(CARING)}, this audience is for {purpose}: {', '.join(closed)}"
        )
    members = asker.members(name)
    columns = {row[0] for row in connection.execute(f"describe {members}").fetchall()}
    # An analyst's model may name who is no known customer, or somebody twice.
    connection.execute(
        f"create or replace temp table previewed as select distinct customer_id, "
        f"{'conditions' if 'conditions' in columns else 'null::varchar as conditions'}, "
        f"{'is_control' if 'is_control' in columns else 'false as is_control'} "
        f"from {members} semi join unified.customers using (customer_id)"
    )
    summary = _rows(
        connection,
        """
        select
            members, control_group, known_customers, round(members / nullif(known_customers, 0), 4) as share
        from (select count(*) as members, count(*) filter (is_control) as control_group from previewed)
        cross join (select count(*) as known_customers from unified.customers where is_known)
        """,
    )[0]
    declared = forms.get(name)
    holding = asker.holding(name) if declared else {}
    return Preview(
        audience=name,
        purpose=purpose,
        sentence=whole(declared.who, known) if declared else "",
        sentence_zh=whole(declared.who, known, CHINESE) if declared else "",
        as_of=connection.execute("select strftime(as_of, '%Y-%m-%d %H:%M:%S') from serving.version").fetchone()[0],
        summary=summary,
        conditions=[
            {"number": c.number, "condition": c.sentence, "condition_zh": c.sentence_zh, "customers": holding.get(c.number, 0)}
            for c in (asker.conditions(name) if declared else ())
        ],
        reach=[_reach(connection, asker, purpose, channel) for channel in _channels(connection)],
        overlap=_rows(
            connection,
            """
            select audience, count(*) as its_members, count(previewed.customer_id) as in_both,
                round(count(previewed.customer_id) / nullif((select count(*) from previewed), 0), 4) as share_of_this
            from audiences.memberships left join previewed using (customer_id)
            where left_at is null and audience <> $name group by audience order by in_both desc, audience
            """,
            {"name": name},
        )
        if _has_memberships(connection)
        else [],
        values=_rows(
            connection,
            """
            select tag, value, count(previewed.customer_id) as members,
                round(count(previewed.customer_id) / nullif((select count(*) from previewed), 0), 4) as share,
                round(count(*) / nullif((select count(*) from unified.customers where is_known), 0), 4) as share_of_all
            from tags.customer_tags semi join (from unified.customers where is_known) as known using (customer_id)
            left join previewed using (customer_id)
            where list_contains($tags, tag) group by tag, value
            qualify row_number() over (partition by tag order by members desc, value) <= 10
            order by list_position($tags, tag), members desc, value
            """,
            {"tags": shown},
        ),
        examples=_rows(
            connection,
            "select customer_id, conditions, is_control from previewed order by md5(customer_id), customer_id limit $examples",
            {"examples": examples},
        ),
    )


def _channels(connection) -> list[str]:
    rows = connection.execute(
        "select channel from reference.contact_channels group by channel order by bool_or(is_usual) desc, channel"
    ).fetchall()
    return [channel for (channel,) in rows]


def _reach(connection, asker: Asker, purpose: str | None, channel: str) -> dict[str, Any]:
    allowing = asker.allowing(purpose, channel) if purpose else "select null as customer_id where false"
    (row,) = _rows(
        connection,
        f"""
        with holders as (
            select distinct customer_id from unified.customer_identifiers
            semi join (from reference.contact_channels where channel = $channel) as served using (identifier_type)
            where valid_to is null
        ),
        allowing as ({allowing})
        select
            count(holders.customer_id) as with_identifier,
            count(allowing.customer_id) as allowing,
            count(case when holders.customer_id is not null and allowing.customer_id is not null and not is_control then 1 end)
                as reachable
        from previewed
        left join holders using (customer_id)
        left join allowing using (customer_id)
        """,
        {"channel": channel},
    )
    return {"channel": channel, **row}


def _has_memberships(connection) -> bool:
    return bool(
        connection.execute(
            "select 1 from information_schema.tables where table_schema = 'audiences' and table_name = 'memberships'"
        ).fetchall()
    )


def _rows(connection, query: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
