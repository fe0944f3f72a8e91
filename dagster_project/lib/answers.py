"""What people ask of a home: its ledger, quality, customers, tags and audiences, as rows."""

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import yaml

from dagster_project.lib import dbt, quality_pages, stops
from dagster_project.lib.audiences.form import Form
from dagster_project.lib.audiences.known import Known
from dagster_project.lib.audiences.preview import Asker, Preview, named, preview
from dagster_project.lib.contracts import YAML_LOADER
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, quoted
from dagster_project.lib.ingest import prepare_warehouse
from dagster_project.lib.quality import band
from dagster_project.lib.settings import Settings

Rows = list[dict[str, Any]]


def truth(home: Home) -> Path:
    """Where a simulation keeps who is who; the pipeline never reads it."""
    return home.path / "simulation"


def simulated(home: Home) -> bool:
    return (truth(home) / "people.csv").exists()


def ledger(home: Home) -> Rows:
    """Rows read, accepted, rejected and duplicate, by channel, over all batches."""
    with home.connect("status", patience=30) as connection:
        prepare_warehouse(connection, {})
        return _rows(
            connection,
            """
            select channel, count(*) filter (status = 'loaded') as files, count(*) filter (status = 'refused') as refused_files,
                sum(rows_read)::bigint as read, sum(rows_accepted)::bigint as accepted, sum(rows_rejected)::bigint as rejected,
                sum(rows_duplicate)::bigint as duplicate, strftime(max(loaded_at), '%Y-%m-%d %H:%M') as last_load
            from staging._loads group by channel order by channel
            """,
        )


def verdicts(home: Home) -> dict[str, Any]:
    """What each suite said last, what is unusual now, also of a refresh that was blocked, and the pages that show it."""
    with home.connect("quality", patience=30) as connection:
        index = quality_pages.write(home, connection)
        unusual = quality_pages.unusual(connection)
        suites = quality_pages.last_verdicts(connection)
    return {"suites": suites, "unusual": [_unusual(row) for row in unusual], "pages": str(index)}


def _unusual(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": row["metric"],
        "channel": row["channel"] if row["identifier_type"] == "*" else f"{row['channel']}, {row['identifier_type']}",
        "value": row["value"],
        "usual": band(row),
        "since": row["anomalous_since"],
    }


def unusual(home: Home) -> Rows:
    """The metrics of the last refresh that are outside their band."""
    rows = _served(
        home,
        """
        select metric, channel, identifier_type, value, usual, lower, upper, anomalous_since from quality.metrics
        where is_anomaly and refresh = (select max(refresh) from quality.metrics)
        order by deviation desc, metric, channel, identifier_type
        """,
    )
    return [_unusual(row) for row in rows]


def quality(home: Home) -> Rows:
    """The rates of the last refresh over all channels and identifiers."""
    return _served(
        home,
        """
        select metric, value, usual, numerator, denominator from quality.metrics
        where channel = '*' and identifier_type = '*' and refresh = (select max(refresh) from quality.metrics)
            and metric in (
                'integration_rate', 'match_rate', 'reject_rate', 'duplicate_rate', 'event_attribution', 'amount_conversion')
        order by metric
        """,
    )


def customers(home: Home) -> Rows:
    """Customers that were found, without bots, staff and tests.

    Against a simulation's truth also how many people they are and how well records are paired.
    """
    found = _served(
        home,
        "select known_customers, customers - known_customers as anonymous_customers from metrics.customers",
    )[0]
    return [found | (_against_truth(home) if simulated(home) else {})]


def _against_truth(home: Home) -> dict[str, Any]:
    """People whose records are with known customers, and pairwise precision and recall of all records that name somebody."""
    from dagster_project.lib.identity.evaluate import evaluate

    records = truth(home) / "records.csv"
    found = evaluate(home, records, examples=0)
    with home.connect("summary", patience=30) as connection:
        (people,) = connection.execute(
            f"""
            select count(distinct person_id)
            from read_csv('{quoted(records)}', all_varchar = true) as truth
            join identity.records on record_key = concat(truth.channel, '_', truth.entity, ':', truth.record_id)
            join unified.customers using (customer_id) where is_known
            """
        ).fetchone()
    return {"true_people": people, "pairwise_precision": found.precision, "pairwise_recall": found.recall}


def tags(home: Home) -> Rows:
    return _served(
        home,
        "select tag, display_name_en, display_name_zh, kind, owner, customer_count as customers, coverage "
        "from tags.catalog order by tag",
    )


def tag_preview(home: Home, tag: str, examples: int = 5) -> dict[str, Any]:
    """What a tag's model gives now, for everybody; nothing is written, so it may be one that no refresh has built yet.

    Returns:
        `summary`: known customers with the tag and in all, coverage, and against what is served as the tag now: customers who
        gain it, lose it, and get another value; `values`: the commonest ones with customers and share; `examples`: customers.

    Raises:
        OnefoldError: there is no such model, it does not compile, or its query fails.
    """
    done = dbt.run(home, ["compile", "--full-refresh", "--select", f"tags_{tag}"], target="duckdb")
    if not done.success:
        raise OnefoldError(dbt.failures(done))
    sql = next((result.node.compiled_code for result in done.result if result.node.name == f"tags_{tag}"), None)
    if sql is None:
        raise OnefoldError(f"there is no model dbt/models/tags/tags_{tag}.sql")
    with home.connect("tag preview", patience=30) as connection:
        try:
            connection.execute(f"create temp table previewed as {sql}")
        except duckdb.Error as error:
            message = str(error).splitlines()[0]
            raise OnefoldError(f"tags_{tag}: {message}. What it reads is there after `onefold refresh`") from error
        summary = _rows(
            connection,
            """
            with known as (from unified.customers where is_known),
            given as (from previewed semi join known using (customer_id)),
            adopted as (select * from tags.customer_tags semi join known using (customer_id) where tag = $tag)
            select
                (select count(*) from given) as known_customers_with_it,
                (select count(*) from known) as known_customers,
                round((select count(*) from given) / nullif((select count(*) from known), 0), 4) as coverage,
                (select count(*) from given anti join adopted using (customer_id)) as gain_it,
                (select count(*) from adopted anti join given using (customer_id)) as lose_it,
                (select count(*) from given join adopted using (customer_id) where given.value <> adopted.value) as get_another
            """,
            {"tag": tag},
        )
        values = _rows(
            connection,
            """
            select value, count(*) as customers, round(count(*) / sum(count(*)) over (), 4) as share,
                round(avg(number_value), 2) as mean_number, round(avg(confidence), 2) as mean_confidence
            from previewed join unified.customers using (customer_id) where is_known
            group by value order by customers desc, value limit 20
            """,
        )
        shown = _rows(
            connection,
            "select customer_id, value, number_value, confidence from previewed "
            "join unified.customers using (customer_id) where is_known order by hash(customer_id) limit $examples",
            {"examples": examples},
        )
    return {"summary": summary[0], "values": values, "examples": shown}


def audience_preview(home: Home, given: str, tags: tuple[str, ...] = (), examples: int = 5) -> Preview:
    """What an audience would be as of the last refresh; nothing is written and nobody waited for.

    Args:
        given: its name, or a file of its YAML, which may be no part of the project yet.
        tags: whose values are shown among the members.

    Raises:
        OnefoldError: there is no such audience, its YAML is wrong, or nothing is served yet.
    """
    known = dbt.names_for_audiences(home)
    name, forms = named(given, dbt.PROJECT, known)
    with private(home) as connection:
        purpose = forms[name].purpose if name in forms else _purpose_of_model(home, name)
        return preview(connection, _asker(home, connection, known, forms), name, known, forms, purpose, tags, examples)


def audience_explain(home: Home, given: str, who: str) -> dict[str, Any]:
    """Which conditions of an audience hold for a customer, as of the last refresh.

    Args:
        who: as for `customer`.

    Raises:
        OnefoldError: there is no such audience or customer, or an analyst wrote the audience's SQL.
    """
    known = dbt.names_for_audiences(home)
    name, forms = named(given, dbt.PROJECT, known)
    if name not in forms:
        raise OnefoldError(f"{name} is the model audiences_{name}.sql and has no conditions to explain; read its SQL")
    with private(home) as connection:
        customer_id = _found(connection, who)
        connection.execute("create temp table asked as select ? as customer_id", [customer_id])
        asker = _asker(home, connection, known, forms, among="asked")
        judged = asker.judged(name, customer_id)
        if judged is None:
            raise OnefoldError(f"{customer_id} is an anonymous visitor, and audiences have known customers only")
        is_member, holding = judged
        rows = [
            {"number": c.number, "holds": c.number in holding, "condition": c.sentence, "condition_zh": c.sentence_zh}
            for c in asker.conditions(name)
        ]
    return {"audience": name, "customer_id": customer_id, "is_member": is_member, "conditions": rows}


def _asker(
    home: Home, connection: duckdb.DuckDBPyConnection, known: Known, forms: dict[str, Form], among: str | None = None
) -> Asker:
    (as_of,) = connection.execute("select as_of from serving.version").fetchone()
    variables = {**dbt.project_variables(home), "as_of": as_of.isoformat(sep=" ", timespec="microseconds")}
    return Asker(connection, dbt.PROJECT, known, forms, variables, among)


def _purpose_of_model(home: Home, name: str) -> str | None:
    """What an analyst's audience is exposed for."""
    for file in (dbt.PROJECT / "models" / "audiences").glob("**/*.y*ml"):
        for exposure in (yaml.load(file.read_text(encoding="utf-8"), Loader=YAML_LOADER) or {}).get("exposures") or []:
            if exposure["name"] == name:
                return ((exposure.get("config") or {}).get("meta") or {}).get("purpose")
    return None


def audiences(home: Home) -> Rows:
    """Each audience's last version."""
    return _served(
        home,
        """
        select audience, version, members, added, removed, excluded, delivered_to from audiences.publications
        qualify row_number() over (partition by audience order by version desc) = 1 order by audience
        """,
    )


def deliveries(home: Home) -> Rows:
    """Every audience at every destination: its last version, what is held there, what waits."""
    with Ledger(home) as ledger:
        return [
            {
                "audience": row["audience"],
                "destination": row["destination"],
                "status": row["status"] if row["state"] == "active" else row["state"],
                "version": row["version"],
                **{name: row[name] for name in ("adds", "updates", "removes", "held", "to_send", "uncertain", "dead_letters")},
                "answered_at": row["answered_at"] and datetime.fromisoformat(row["answered_at"]).replace(tzinfo=None),
            }
            for row in ledger.overview()
        ]


def stopped(home: Home) -> Rows:
    """The audiences that the circuit breaker stopped, and why; those whose approval waits for the next publication included."""
    return [
        {
            "audience": stop.audience,
            "version": stop.version,
            "members": stop.members,
            "would_be": stop.would_be,
            "refresh": stop.refresh,
            "stopped_at": stop.stopped_at,
            "findings": [vars(finding) for finding in stop.findings],
            "approved_by": stop.approved_by,
            "approved_reason": stop.approved_reason,
            "approved_at": stop.approved_at,
        }
        for stop in stops.stopped(home).values()
    ]


def status(home: Home) -> dict[str, Any]:
    """The last finished refresh, by part."""
    content: dict[str, Any] = {"channels": ledger(home), "legitimate_interest": list(Settings.of(home).legitimate_interest)}
    if (home.serving / "current").exists():
        content |= {
            "quality": quality(home),
            "unusual": unusual(home),
            "customers": customers(home),
            "tags": tags(home),
            "audiences": audiences(home),
            "deliveries": deliveries(home),
        }
        if (pages := home.quality / "index.html").exists():
            content["next"] = [f"History and trends of quality: {pages}"]
        if held := stopped(home):
            content["stopped"] = held
    else:
        content["next"] = ["Nothing is served yet: run `onefold refresh`."]
    return content


def summary(home: Home) -> dict[str, Any]:
    """The status, with what to open next."""
    served = home.serving / "current" / "onefold.duckdb"
    content = status(home)
    return content | {
        "next": [
            *content.get("next", []),
            f"Open {served} with a BI tool or DuckDB (read-only), see the files below {home.deliveries},",
            "try `onefold customer email:…` and `onefold rejected list`, then `make dev` for the Dagster UI.",
        ]
    }


def customer(home: Home, who: str) -> dict[str, Any]:
    """One customer's profile, identifiers, tags, consents, where they may be contacted, latest sessions and events.

    Args:
        who: a customer id, also one that was merged away, or `<identifier type>:<value>`.

    Raises:
        OnefoldError: nobody has this id or identifier.
    """
    with private(home) as connection:
        id_ = {"id": _found(connection, who)}
        return {
            "profile": _rows(connection, "select * from unified.customers where customer_id = $id", id_)[0],
            "identifiers": _rows(
                connection,
                "select identifier_type, identifier_value, valid_from, valid_to, first_seen_at, last_seen_at, sources "
                "from unified.customer_identifiers where customer_id = $id order by 1, 2, 3 nulls first",
                id_,
            ),
            "tags": _rows(
                connection,
                "select tag, value, number_value, confidence from tags.customer_tags where customer_id = $id order by tag",
                id_,
            ),
            "consents": _rows(
                connection,
                "select purpose, channel, status, as_of from unified.consents where customer_id = $id order by 1, 2",
                id_,
            ),
            "permissions": _rows(
                connection,
                "select purpose, channel, identifier_type, identifier_value, is_allowed, reason, as_of "
                "from unified.contact_permissions where customer_id = $id order by 1, 2, 3 nulls first, 4",
                id_,
            ),
            "sessions": _rows(
                connection,
                "select started_at, channel, traffic, duration_seconds, page_views, order_count, amount_base "
                "from unified.sessions where customer_id = $id order by started_at desc limit 10",
                id_,
            ),
            "events": _rows(
                connection,
                "select occurred_at, channel, event_name, amount_base from unified.customer_events "
                "where customer_id = $id order by occurred_at desc limit 15",
                id_,
            ),
        }


def _found(connection: duckdb.DuckDBPyConnection, who: str) -> str:
    """The customer whom an id or identifier means.

    Raises:
        OnefoldError: nobody has it.
    """
    found = connection.execute(
        """
        with found as (
            select to_customer_id as customer_id, 1 as trust, null as until from identity.redirects
            where from_customer_id = $who
            union all
            select customer_id, 2, null from unified.customers where customer_id = $who
            union all  -- one that several share in time leads to who has it last
            select customer_id, 3, valid_to from unified.customer_identifiers
            where concat(identifier_type, ':', identifier_value) = $who or identifier_value = $who
        )
        select customer_id from found order by trust, until desc nulls first limit 1
        """,
        {"who": who},
    ).fetchone()
    if not found:
        raise OnefoldError(
            f"nobody is known as '{who}'; give a customer id, or <type>:<value> in its normal form, such as "
            "email:li@example.com or phone:+8613812345678"
        )
    return found[0]


def reviews(home: Home, limit: int) -> Rows:
    """What nobody has decided: likely unions, then refused ones that records ask for, then those of shared things."""
    with private(home) as connection:
        return _rows(
            connection,
            """
            select
                concat(left_type, ':', left_value) as one, concat(right_type, ':', right_value) as other,
                case when through_type is not null then concat(through_type, ':', through_value) end as through,
                detail as reason, match_probability as probability, refused_at,
                left_customer_id as customer, right_customer_id as other_customer
            from identity.reviews
            order by through_type is not null, match_probability desc nulls last, refused_at desc, one, other limit $limit
            """,
            {"limit": limit},
        )


def common_values(home: Home, limits: dict[str, int]) -> Rows:
    """Identifiers that stand on records with ten times as many values of another type as one customer may have.

    Args:
        limits: by identifier type, how many values of it a customer may have; other types are not looked at.
    """
    most = " ".join(f"when '{quoted(name)}' then {10 * limit}" for name, limit in limits.items())
    with private(home) as connection:
        return _rows(
            connection,
            f"""
            with ends as (
                select left_type as identifier_type, left_value as identifier_value, right_type as other_type
                from identity.edges where is_active
                union all
                select right_type, right_value, left_type from identity.edges where is_active
            )
            select identifier_type, identifier_value, count(*) as values, other_type as of_type
            from ends group by all having count(*) > case other_type {most} end
            order by values desc, identifier_type, identifier_value limit 1000
            """,
        )


def private(home: Home) -> duckdb.DuckDBPyConnection:
    """The served tables with contact data, for reading.

    Raises:
        OnefoldError: nothing is served yet.
    """
    file = home.serving / "current" / "onefold_private.duckdb"
    if not file.exists():
        raise OnefoldError(f"{home.path} has not served anything yet; run `onefold refresh`")
    # Resolved once: the link may be switched between two looks.
    return duckdb.connect(str(file.resolve()), read_only=True)


def _served(home: Home, query: str) -> Rows:
    with private(home) as connection:
        return _rows(connection, query)


def _rows(connection: duckdb.DuckDBPyConnection, query: str, values: dict[str, Any] | None = None) -> Rows:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
