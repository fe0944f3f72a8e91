"""Dagster's history of a home in SQLite, its event log kept open."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetKeyTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, StaticPool, create_engine, event, inspect

_BUSY_SECONDS = 300.0  # to wait for another process that writes
_RUNS_KEPT_OPEN = 4


class EventLog(SqliteEventLogStorage):
    """One connection to the index and to each of the last runs, in place of a new one for each statement.

    The last connection that closes makes SQLite fold its journal away, and Dagster's own log opens and closes some five for
    each event: it took two fifths of a refresh of small tables. With `synchronous = normal` a power cut may take the last
    events along, and leaves the databases whole.
    """

    _engines: OrderedDict[str, Engine] | None = None
    _asset_key_columns: set[str] | None = None

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            try:
                with engine.connect() as connection, connection.begin():
                    yield connection
            except BaseException:
                self._close(shard)  # of a full disk, say: the next one begins anew
                raise

    def _engine(self, shard: str) -> Engine:
        if self._engines is None:
            self._engines = OrderedDict()
        engine = self._engines.get(shard)
        if engine is None:
            engine = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=StaticPool,
                connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
            )
            event.listen(engine, "connect", lambda connection, _: connection.execute("pragma synchronous = normal"))
            self._engines[shard] = engine
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
        self._engines.move_to_end(shard)
        for old in [name for name in self._engines if name != INDEX_SHARD_NAME][:-_RUNS_KEPT_OPEN]:
            self._close(old)
        return engine

    @cache  # noqa: B019 - as many as the process has instances of Dagster
    def has_table(self, table_name: str) -> bool:
        """Asked for with every event of a check."""
        return super().has_table(table_name)

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        """Asked for with every event of an asset."""
        if self._asset_key_columns is None:
            self._asset_key_columns = {column["name"] for column in inspect(conn).get_columns(AssetKeyTable.name)}
        return column_name in self._asset_key_columns

    def _close(self, shard: str) -> None:
        if self._engines and (engine := self._engines.pop(shard, None)):
            with suppress(Exception):
                engine.dispose()

    def _close_all(self) -> None:
        with self._db_lock:
            for shard in list(self._engines or ()):
                self._close(shard)

    def wipe(self) -> None:
        self._close_all()  # the files go
        super().wipe()

    def dispose(self) -> None:
        super().dispose()
        self._close_all()


class History(DagsterSqliteStorage):
    """Dagster's storage in SQLite, with this event log; named in dagster.yaml."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = EventLog(str(Path(base_dir, "history", "runs")))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: dict[str, str]) -> Self:
        return cls.from_local(inst_data=inst_data, **config_value)
