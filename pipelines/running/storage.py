"""Dagster's storage in SQLite, with an event log that opens less: dagster.yaml names it.

Dagster writes an event log of small databases: one for each run, and an index with the events of all runs. For each
event it makes a new SQLAlchemy engine, which compiles every statement anew, and closes the database again, upon which
SQLite writes its journal back into the file. That was a fifth of the processor time of `mmm4rec run`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine

__all__ = ["EventLog", "Storage"]

_RUNS: Final = 8
"""Runs whose engines are kept. A process writes one or two runs; a page of the UI may read hundreds."""


class EventLog(SqliteEventLogStorage):
    """Dagster's event log, which keeps its engines, and the index open.

    The database of a run is closed after each event, as Dagster does it: the UI follows a run by watching its file, and
    SQLite changes the file only then.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:  # one thread at a time, so all of them may use the open index
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            address, options = self.conn_string_for_shard(shard), {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
            if shard == INDEX_SHARD_NAME:
                options["check_same_thread"] = False
                self._engines[shard] = create_engine(address, poolclass=StaticPool, connect_args=options)
            else:
                self._engines[shard] = create_engine(address, poolclass=NullPool, connect_args=options)
            runs = [name for name in self._engines if name != INDEX_SHARD_NAME]
            for name in runs[:-_RUNS]:
                self._engines.pop(name).dispose()
        self._engines.move_to_end(shard)
        return self._engines[shard]

    def dispose(self) -> None:
        """Close the index."""
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()
        super().dispose()


class Storage(DagsterSqliteStorage):
    """Dagster's storage in the folder `base_dir`, with this event log. Its files are Dagster's own."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = EventLog(str(Path(base_dir, "history", "runs")))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """The storage that dagster.yaml describes."""
        return cls.from_local(inst_data=inst_data, **config_value)
