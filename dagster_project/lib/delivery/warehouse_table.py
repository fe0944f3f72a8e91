"""A table `delivered.<name>` of the warehouse that holds what an audience holds: for those who read DuckDB."""

from collections.abc import Sequence
from typing import Any, Literal

from dagster_project.lib.delivery.destination import ACCEPTED, Operation, Outcome, Row, Unavailable
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.reading import identifier

_PATIENCE = 60.0  # seconds for another writer; a refresh may take longer, then the batch is tried again


class WarehouseTable:
    """Replaces and deletes rows by their key, a batch in one transaction under the home's write lock; all columns are text."""

    semantics: Literal["set"] = "set"

    def __init__(self, home: Home, name: str, columns: tuple[str, ...], keyed_by: tuple[str, ...], batch_size: int) -> None:
        self.home, self.columns, self.keyed_by, self.batch_size = home, columns, keyed_by, batch_size
        self._table = f"delivered.{identifier(name)}"

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Write one batch."""
        names = tuple(rows[0])  # of a version that was planned before the configuration changed, others than `columns`
        every = tuple(dict.fromkeys((*self.columns, *names)))
        columns = [_texts([row[name] for row in rows]) for name in names]
        unnested = ", ".join(f"unnest(?::varchar[]) as {identifier(name)}" for name in names)
        keys = ", ".join(map(identifier, self.keyed_by))
        try:
            with self.home.connect("delivery to a table", _PATIENCE) as connection:
                connection.execute("create schema if not exists delivered")
                declared = ", ".join(f"{identifier(name)} varchar" for name in every)
                connection.execute(f"create table if not exists {self._table} ({declared})")
                for name in every:  # configured since the table was made
                    connection.execute(f"alter table {self._table} add column if not exists {identifier(name)} varchar")
                with transaction(connection):
                    connection.execute(f"create or replace temp table batch as select {unnested}", columns)
                    connection.execute(f"delete from {self._table} where ({keys}) in (select ({keys}) from batch)")
                    if operation != "remove":
                        connection.execute(f"insert into {self._table} by name select * from batch")
        except OnefoldError as error:  # the lock is held by another writer
            raise Unavailable(str(error), is_certain=True) from error
        return Outcome(None, [ACCEPTED] * len(rows))


def _texts(values: list[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]
