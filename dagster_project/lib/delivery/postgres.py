"""A PostgreSQL table that holds what an audience holds."""

from collections.abc import Sequence
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.types.json import Json

from dagster_project.lib.delivery.destination import ACCEPTED, Operation, Outcome, Refused, Result, Row, Unavailable, rejected

# Somebody has to put right: rights, passwords, missing tables, columns and unique keys (classes of SQLSTATE, and codes).
_CONFIGURATION = ("28", "3D", "3F", "42")
# The row is to blame: a value that the column does not take, or one that a constraint forbids.
_OF_A_ROW = (psycopg.DataError, psycopg.IntegrityError)


class PostgresTable:
    """Upserts and deletes rows by their key, a batch in one transaction.

    The table is made where it is missing, with text columns; one that is there keeps its types and needs a unique key over
    the key columns. A row that the table does not take is rejected alone.
    """

    semantics: Literal["set"] = "set"

    def __init__(self, dsn: str, table: str, columns: tuple[str, ...], keyed_by: tuple[str, ...], batch_size: int) -> None:
        self._dsn, self.batch_size = dsn, batch_size
        self.columns, self.keyed_by = columns, keyed_by
        self._table = sql.Identifier(*table.split("."))
        self._connection: psycopg.Connection | None = None

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Write one batch. PostgreSQL has no use for the key: a row is what it is, however often it is written."""
        try:
            connection = self._connected()
        except psycopg.OperationalError as error:
            if (error.sqlstate or "")[:2] in _CONFIGURATION or "authentication failed" in str(error):
                raise Refused("PostgreSQL does not let in: check user, password and database") from None
            raise Unavailable("no connection to PostgreSQL", is_certain=True) from None
        statement = self._removal() if operation == "remove" else self._upsert(tuple(rows[0]))
        try:
            with connection.transaction():
                results, number = self._write(connection, statement, rows)
            return Outcome(number, results)
        except psycopg.Error as error:
            state = error.sqlstate or ""
            if connection.closed:
                self._connection = None
            if state[:2] in _CONFIGURATION:
                raise Refused(f"PostgreSQL: {_words(error)}; check table, columns, unique key and rights") from None
            raise Unavailable(f"PostgreSQL: {_words(error)}", is_certain=bool(state)) from None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=10)
            try:
                self._make_table(self._connection)
            except psycopg.Error as error:
                self._connection.close()
                raise Refused(f"PostgreSQL: {_words(error)}; create the table, or give the right to") from None
        return self._connection

    def _make_table(self, connection: psycopg.Connection) -> None:
        if connection.execute("select to_regclass(%s)", [self._table.as_string(connection)]).fetchone()[0]:
            return
        columns = [sql.SQL("{} text").format(sql.Identifier(name)) for name in self.columns]
        connection.execute(
            sql.SQL("create table if not exists {} ({}, primary key ({}))").format(
                self._table, sql.SQL(", ").join(columns), _names(self.keyed_by)
            )
        )

    def _write(self, connection: psycopg.Connection, statement: sql.Composed, rows: Sequence[Row]) -> tuple[list[Result], str]:
        number = str(connection.execute("select pg_current_xact_id()").fetchone()[0])
        names = list(rows[0])
        values = [[_value(row[name]) for name in names] for row in rows]
        try:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(statement, values)
            return [ACCEPTED] * len(rows), number
        except _OF_A_ROW:
            return [self._write_one(connection, statement, one) for one in values], number

    def _write_one(self, connection: psycopg.Connection, statement: sql.Composed, values: list[Any]) -> Result:
        try:
            with connection.transaction():  # a savepoint
                connection.execute(statement, values)
        except _OF_A_ROW as error:
            return rejected(_words(error))
        return ACCEPTED

    def _upsert(self, columns: tuple[str, ...]) -> sql.Composed:
        """Of the columns that the rows have: those of a version that was planned before the configuration changed."""
        others = [name for name in columns if name not in self.keyed_by]
        changes = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others]
        action = sql.SQL("do update set {}").format(sql.SQL(", ").join(changes)) if changes else sql.SQL("do nothing")
        return sql.SQL("insert into {} ({}) values ({}) on conflict ({}) {}").format(
            self._table,
            _names(columns),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
            _names(self.keyed_by),
            action,
        )

    def _removal(self) -> sql.Composed:
        keys = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in self.keyed_by]
        return sql.SQL("delete from {} where {}").format(self._table, sql.SQL(" and ").join(keys))


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _value(value: object) -> object:
    return Json(value) if isinstance(value, list | dict) else value


def _words(error: psycopg.Error) -> str:
    """What is wrong, without the values that PostgreSQL quotes in its message."""
    where = error.diag.column_name or error.diag.constraint_name
    name = type(error).__name__
    return f"{name} ({error.sqlstate}, {where})" if where else f"{name} ({error.sqlstate})"
