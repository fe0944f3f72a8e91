"""The tables of publication, also in homes that were made before a column was added."""

import duckdb

_TABLES = """
create schema if not exists audiences;
create table if not exists audiences.memberships (
    audience varchar not null, customer_id varchar not null, entered_at timestamp not null, left_at timestamp,
    version bigint not null
);
create table if not exists audiences.control_memberships (
    audience varchar not null, customer_id varchar not null, entered_at timestamp not null, left_at timestamp,
    version bigint not null
);
create table if not exists audiences.changes (
    audience varchar not null, version bigint not null, operation varchar not null check (operation in ('add', 'remove')),
    customer_id varchar not null, changed_at timestamp not null
);
create table if not exists audiences.exclusions (
    audience varchar not null, customer_id varchar not null, reason varchar not null
);
create table if not exists audiences.publications (
    audience varchar not null, version bigint not null, refresh bigint not null, members bigint not null,
    added bigint not null, removed bigint not null, excluded bigint not null, published_at timestamp not null,
    delivered_to varchar, primary key (audience, version)
);
create table if not exists audiences.deliveries (
    audience varchar not null, destination varchar not null, version bigint not null, status varchar not null,
    adds bigint not null, updates bigint not null, removes bigint not null, accepted bigint not null, rejected bigint not null,
    planned_at timestamp not null, finished_at timestamp, primary key (audience, destination, version)
);
create table if not exists audiences.uplift (
    audience varchar not null, as_of timestamp not null, window_days bigint not null, member_count bigint not null,
    control_count bigint not null, converted_count bigint not null, control_converted_count bigint not null,
    conversion_rate double, control_conversion_rate double, uplift double, uplift_lower double, uplift_upper double,
    is_significant boolean, incremental_conversions double, revenue_per_customer double, control_revenue_per_customer double,
    incremental_revenue_base decimal(18, 4)
);
create table if not exists audiences._published (
    audience varchar not null, definition varchar not null, as_of timestamp not null, _seq bigint not null
)
"""
_ADDED = {
    "memberships": {
        "entered_kind": "varchar",
        "entered_reason": "varchar",
        "entered_reason_zh": "varchar",
        "left_kind": "varchar",
        "left_reason": "varchar",
        "left_reason_zh": "varchar",
        "conditions": "varchar",
    },
    "changes": {"kind": "varchar", "reason": "varchar", "reason_zh": "varchar"},
    "exclusions": {"destination": "varchar", "since": "timestamp"},
}
OWN_TABLES = {"memberships", "control_memberships", "changes", "exclusions", "publications", "deliveries", "uplift"}


def prepare_audiences(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables of publication and their columns, if they are not there."""
    for statement in _TABLES.split(";\n"):
        connection.execute(statement)
    upgrade(connection)


def upgrade(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns that tables lack which are there; rows that were written before have nothing in them."""
    rows = connection.execute(
        "select table_name, column_name from duckdb_columns() "
        "where database_name = current_database() and schema_name = 'audiences'"
    ).fetchall()
    for table, columns in _ADDED.items():
        there = {column for name, column in rows if name == table}
        for column, type_ in columns.items():
            if there and column not in there:
                connection.execute(f"alter table audiences.{table} add column {column} {type_}")
