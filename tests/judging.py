"""Permissions to contact as dbt builds them, in a warehouse of a few rows that a test writes."""

from functools import partial

import duckdb

from dagster_project.lib import dbt
from dagster_project.lib.audiences.rendering import rendered, table_of


def judge_permissions(connection: duckdb.DuckDBPyConnection, as_of: str) -> None:
    """Make unified.contact_permissions a view that judges what is written into unified.customer_identifiers and
    unified.consent_statements, which are made empty."""
    connection.execute(
        f"""
        create schema if not exists reference;
        create table reference.contact_channels as from read_csv('{dbt.PROJECT}/seeds/contact_channels.csv');
        create table unified.customer_identifiers (customer_id varchar, identifier_type varchar, identifier_value varchar,
            valid_from timestamp, valid_to timestamp, last_seen_at timestamp, is_person boolean default true,
            identifier_token varchar);
        create table unified.consent_statements (identifier_type varchar, identifier_value varchar,
            purpose varchar default 'marketing', channel varchar default 'any', status varchar, occurred_at timestamp);
        """
    )
    text = "{{ judged_permissions(ref('unified_customer_identifiers'), ref('unified_consent_statements')) }}"
    judged = rendered(dbt.PROJECT, text, {"as_of": as_of}, partial(table_of, dbt.PROJECT))
    connection.execute(f"create view unified.contact_permissions as select judged.*, 15 as _seq from ({judged}) as judged")
