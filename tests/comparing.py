"""Comparing the tables of homes that should hold the same, whatever happened on the way."""

from collections.abc import Callable, Collection

import duckdb

from dagster_project.lib.home import Home
from dagster_project.lib.state import State

Tables = dict[str, list[tuple]]

# After a run that was disturbed, only this may differ from an undisturbed run of the same inputs.
MAY_DIFFER = {
    "_seq": "numbers the writes of one home; a killed run has taken some",
    "seq": "as _seq",
    "_first_seq": "as _seq",
    "source_seq": "as _seq",
    "run": "as _seq",
    "metric_key": "holds the number of the refresh, which is compared by its place among those that finished",
    "_loaded_at": "wall clock",
    "loaded_at": "wall clock",
    "rejected_at": "wall clock",
    "checked_at": "wall clock",
    "published_at": "wall clock",
    "served_at": "wall clock",
}
_COUNTERS = {
    "staging._sequence": "as _seq",
    "identity._solved": "as _seq",
    "identity._matched": "as _seq",
    "identity._widened": "as _seq",
    "analytics._scored": "as _seq",
    "staging._served": "holds the wall clock",
}

# After another way to the same rows (other files, earlier refreshes), this may differ as well.
_PLACE = {
    "_batch_id": "the file that a row came with: the first of several copies",
    "_source_uri": "as _batch_id",
    "_source_row": "as _batch_id",
    "_version": "ends in _batch_id and _source_row",
    "batch_id": "the last file of a channel",
    "refresh": "the number of the last one",
    "previous_customer_id": "where a record belonged before its customer changed: history",
    "previous_occurred_at": "as previous_customer_id",
    "previous_visitor_id": "as previous_customer_id",
    "previous_thread_id": "as previous_customer_id",
    "_is_revision": "whether a row was there before",
    "cut_from": "how far back the last batch cut a visitor's sessions anew",
    "witness": "one of the records that name an identifier",
    "refused_at": "when a union was first refused",
    "group_id": "one of the customers' ids",
    **dict.fromkeys(("customer_month_id", "interest_id", "member_id", "stage_id"), "made from the customer's id"),
    **dict.fromkeys(
        ("usual", "lower", "upper", "samples", "deviation", "is_anomaly", "anomalous_since"),
        "bands come from the refreshes before",
    ),
}
_HISTORY = {
    "identity._changes": "the ledger of moves",
    "identity.changes": "a view of it",
    "identity._redirects": "ids that were given on the way and merged since",
    "identity.redirects": "a view of them",
    "identity._customer_ids": "every id ever given",
    "identity._runs": "each run of the solver",
    "identity.runs": "a view of them",
    "unified.touched_customers": "who changed by which write",
    "tags.history": "what tags were at each refresh",
    "tags.distribution": "what tags were each day",
    "analytics.touched_customers": "as unified.touched_customers",
    "analytics.profile": "who customers were each day",
    "quality.batch_metrics": "compared as quality.metrics",
    "quality.record_metrics": "compared as quality.metrics",
    "quality.customer_metrics": "compared as quality.metrics",
    "quality.results": "verdicts of every refresh",
}
_TAKEN_BACK = {  # conditions of the rows that count now
    "identity.sightings": "is_current",
    "identity.evidence": "is_current",
    "identity.edges": "is_active",
    "identity.matches": "is_current",
    "identity.profiles": "is_current",
    "identity.nodes": "record_count > 0",
    "identity.records": "identifier_type is not null",
    "unified.customer_attributes": "value is not null",
    "unified.consent_statements": "status is not null",
    "quality.record_identifiers": "is_current",
    "analytics.sentiments": "text_id in (select md5(text) from unified.customer_events)",
    "analytics.service_contacts": "kind is not null",
    "tags.cut_points": "computed_on = (select max(computed_on) from tags.cut_points)",
    # Of the last refresh, and without those that speak of its batches.
    "quality.metrics": "refresh = (select max(refresh) from quality.metrics) "
    "and (metric in ('integration_rate', 'match_rate', 'validity', 'usability', 'largest_customer_share', 'known_customers', "
    "'amount_conversion', 'event_attribution') or metric like 'tag_coverage:%')",
}


def all_tables(home: Home) -> Tables:
    """Every row of every table of the warehouse and of both served files, sorted, but for what `MAY_DIFFER`.

    Rows of refreshes that did not finish are left out.
    """
    finished = _finished(home)

    def column(name: str) -> str | None:
        if name == "refresh":
            return f"list_position({finished}, refresh) as refresh"
        return None if name in MAY_DIFFER else name

    def condition(table: str, columns: Collection[str]) -> str:
        return f"refresh in {finished}" if table.startswith("quality.") and "refresh" in columns else "true"

    with home.connect("comparison") as connection:
        tables = _tables(connection, column, condition, except_for=_COUNTERS)
    for file in ("onefold.duckdb", "onefold_private.duckdb"):
        served = home.serving / "current" / file
        if served.exists():
            with duckdb.connect(str(served.resolve()), read_only=True) as connection:
                found = _tables(connection, column, condition)
            tables |= {f"{file}: {table}": rows for table, rows in found.items()}
    return tables


def _finished(home: Home) -> list[int]:
    with State(home)._transaction() as connection:
        rows = connection.execute("select refresh from refreshes where finished_at is not null order by refresh").fetchall()
    return [number for (number,) in rows]


def present_tables(home: Home, same_ids: bool) -> Tables:
    """What a home's tables say now, sorted, without the way there: files, writes, ids and rows that were given up since.

    Args:
        same_ids: compare customer ids as they are; else each customer goes by the first of its identifiers, as ids depend
            on what was known before.
    """

    def column(name: str) -> str | None:
        if name in ("customer_id", "left_customer_id", "right_customer_id"):
            return f"(select n.name from named as n where n.customer_id = t.{name}) as {name}"
        return None if name in MAY_DIFFER or name in _PLACE else name

    with home.connect("comparison") as connection:
        connection.execute(
            "create or replace temp table named as "
            f"select customer_id, {'customer_id' if same_ids else _NAME} as name from identity.assignments group by 1"
        )
        left_out = {*_COUNTERS, *_HISTORY, *(name for name in _names(connection) if name.startswith("staging."))}
        return _tables(connection, column, lambda table, columns: _TAKEN_BACK.get(table, "true"), except_for=left_out)


# The first identifier that is a customer's own, at least at first: what several share in time has one first holder.
_NAME = "coalesce(min(case when valid_from is null then node_id end), min(node_id))"


def _names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "select table_schema || '.' || table_name from information_schema.tables "
        "where table_catalog = current_catalog() and table_schema not in ('main', 'metrics') order by 1"  # views of the others
    )
    return [name for (name,) in rows.fetchall()]


def _tables(
    connection: duckdb.DuckDBPyConnection,
    column: Callable[[str], str | None],
    condition: Callable[[str, Collection[str]], str],
    except_for: Collection[str] = (),
) -> Tables:
    tables = {}
    for table in _names(connection):
        if table not in except_for:
            names = [name for name, *_ in connection.execute(f"describe {table}").fetchall()]
            columns = ", ".join(shown for name in names if (shown := column(name)))
            query = f"select {columns} from {table} as t where {condition(table, names)} order by all"
            tables[table] = connection.execute(query).fetchall()
    return tables


def differences(found: Tables, wanted: Tables) -> list[str]:
    """A line for each table that differs, with the first rows that only one side has; empty where all are equal."""
    lines = []
    for table in sorted(found.keys() | wanted.keys()):
        ours, theirs = found.get(table), wanted.get(table)
        if ours is None or theirs is None:
            lines.append(f"{table}: is {'missing' if ours is None else 'one too many'}")
        elif ours != theirs:
            extra, missing = _minus(ours, theirs), _minus(theirs, ours)
            lines.append(f"{table}: {len(extra)} rows too many {extra[:3]}, {len(missing)} missing {missing[:3]}")
    return lines


def _minus(rows: list[tuple], others: list[tuple]) -> list[tuple]:
    left = [repr(row) for row in others]
    result = []
    for row in rows:
        if repr(row) in left:
            left.remove(repr(row))
        else:
            result.append(row)
    return result
