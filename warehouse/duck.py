"""DuckDB as a calculator: a private engine with stated limits, statements from ``sql/``, Parquet out.

Every word of SQL that Python itself speaks is in this module; all else is in ``sql/*.sql``, one statement a
file, values bound as parameters. Identifiers, which no parameter can carry, pass `identifier`.
"""

# Annotations that stay text: DuckDB's binding reports its types as leaked where one outlives the interpreter.
from __future__ import annotations

import glob
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.types as kinds

from warehouse.artifacts.staging import Staging
from warehouse.artifacts.threads import available_cores
from warehouse.errors import DataError
from warehouse.parquet import ROW_GROUP, ParquetSink

__all__ = [
    "SPILLED",
    "Engine",
    "attach",
    "confine",
    "connect",
    "create",
    "execute",
    "fill",
    "identifier",
    "literal",
    "load_sql",
    "pattern",
    "spilling",
    "sql_type",
    "stream",
    "table",
    "write_parquet",
]

OLDEST: Final = "1.2.0"
"""The oldest DuckDB that reads the catalogue."""

SPILLED: Final = "10GB"
"""What questions may spill to disk, all of one session together."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Engine:
    """What a build may use. Nothing here changes a byte of the result."""

    threads: int = field(default_factory=available_cores)
    memory: str = "3GB"
    """DuckDB's own limit; beyond it, it spills to disk."""

    def __post_init__(self) -> None:
        if self.threads < 1 or not re.fullmatch(r"[1-9][0-9]*(MB|GB|MiB|GiB)", self.memory):
            raise DataError(f"{self}: give 1 thread or more and a memory limit such as 3GB")


@contextmanager
def connect(engine: Engine, out: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private in-memory database that spills into a folder below `out`, removed at the end."""
    spill = out / ".spill"
    spill.mkdir()
    connection = _open(engine, temp_directory=str(spill))
    try:
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"DuckDB ran out of its {engine.memory} ({str(error).splitlines()[0]}): raise the memory limit, "
            f"lower the {engine.threads} threads, or free disk below {out}"
        ) from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


@contextmanager
def create(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new DuckDB file that `OLDEST` and newer can read, open for writing; flushed and closed at the end.

    All is one transaction, as DuckDB flushes the file at the end of each: a catalogue takes a hundred statements.
    """
    connection = _open(Engine(), temp_directory="")
    try:
        connection.execute(f"ATTACH {literal(str(path.absolute()))} AS warehouse (STORAGE_VERSION 'v{OLDEST}')")
        connection.execute("USE warehouse")
        connection.begin()
        yield connection
        connection.commit()
    finally:
        connection.close()


@contextmanager
def attach(path: Path, engine: Engine | None = None, spill: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB file, read-only; what does not fit into the memory goes to the folder `spill`, up to `SPILLED`.

    Attached to a private in-memory database, because DuckDB would hand a second connection to the same
    path the first one's file, also after a new file has taken its place.
    """
    connection = _open(engine or Engine(), temp_directory=str(spill) if spill else "", max_temp_directory_size=SPILLED)
    try:
        connection.execute(f"ATTACH {literal(str(path.absolute()))} AS warehouse (READ_ONLY)")
        connection.execute("USE warehouse")
        yield connection
    finally:
        connection.close()


@contextmanager
def spilling() -> Iterator[Path]:
    """A folder of this process in the system's temporary place (TMPDIR), removed at the end.

    What killed processes have left there is removed first.

    Raises:
        DataError: there is no such place, or its part for this user belongs to somebody else.
    """
    with ExitStack() as closing:
        try:
            place = Path(tempfile.gettempdir()) / f"mmm4rec-{os.getuid()}"
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
            # Everybody may write beside it, so another user may have made it first, or linked it elsewhere.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise DataError(
                    f"{place} is no private folder of this user, so nothing can be spilled there: "
                    "remove it, or set TMPDIR"
                )
            staging = Staging(place)
            staging.sweep()
            spill = closing.enter_context(staging.new())
        except OSError as error:
            raise DataError(f"there is no place for spilled data ({error}): set TMPDIR") from error
        yield spill


def confine(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """From now on the connection reads no files but those below `folder`, and no setting can be changed.

    DuckDB follows links before it decides. It adds the files it has open and the folder it spills into; and what may
    be read may be written, so what is asked must be held to reading.
    """
    # DuckDB asks for the path as the view spells it, and again for the file it leads to.
    places = {str(folder.absolute()), str(folder.resolve())}
    allowed = ", ".join(literal(spelling) for spelling in sorted(places | {*map(glob.escape, places)}))
    connection.execute(f"SET allowed_directories = [{allowed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _open(engine: Engine, path: Path | str = ":memory:", **more: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        path,
        config={
            "threads": engine.threads,
            "memory_limit": engine.memory,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            # A table name in SQL is never a variable of the calling Python.
            "python_enable_replacements": False,
            **more,
        },
    )
    connection.execute("SET enable_progress_bar = false")  # the terminal has bars of ours
    return connection


@cache
def load_sql(name: str) -> str:
    """The statement ``<name>.sql``, which stands in the folder ``sql`` of this package or of one inside it."""
    return _statements()[name].read_text(encoding="utf-8")


@cache
def _statements() -> dict[str, Path]:
    """The SQL files of the warehouse by name; no two bear one."""
    return {path.stem: path for path in sorted(Path(__file__).parent.rglob("sql/*.sql"))}


def identifier(name: str) -> str:
    """`name`, if it may stand in SQL unquoted-safe as a schema, table or column name, in double quotes.

    Raises:
        DataError: it holds anything but letters, digits and underscores.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise DataError(f"{name!r} cannot name a table: use letters, digits and underscores")
    return f'"{name}"'


def literal(text: str) -> str:
    """`text` as an SQL string, for the statements that take no parameters (views, comments)."""
    return "'" + text.replace("'", "''") + "'"


def pattern(path: Path) -> str:
    """A path for DuckDB's readers, which would expand ``*?[`` in it."""
    return glob.escape(str(path.absolute()))


def execute(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    fragments: Mapping[str, str] | None = None,
) -> None:
    """Run ``sql/<name>.sql``; `fragments` fill its $-names with text made by `identifier` and `literal`."""
    connection.execute(fill(name, fragments) if fragments else load_sql(name), parameters)


def table(connection: duckdb.DuckDBPyConnection, name: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
    """The result of ``sql/<name>.sql`` in memory."""
    return connection.sql(load_sql(name), params=parameters).to_arrow_table()


def write_parquet(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    path: Path,
    schema: pa.Schema,
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Stream the result of ``sql/<name>.sql``, in a total order, to Parquet; returns the rows."""
    with ParquetSink(path, schema) as sink:
        sink.write_all(stream(connection, name, parameters))
    return sink.rows


def stream(
    connection: duckdb.DuckDBPyConnection, name: str, parameters: Mapping[str, Any] | None = None
) -> Iterator[pa.RecordBatch]:
    """The result of ``sql/<name>.sql``, batch by batch."""
    yield from connection.sql(load_sql(name), params=parameters).to_arrow_reader(ROW_GROUP)


def fill(name: str, fragments: Mapping[str, str]) -> str:
    """``sql/<name>.sql`` with its $-names filled by `fragments`, text made by `identifier`, `literal` and `fill`."""
    return Template(load_sql(name)).substitute(fragments)


def qualified(name: str) -> str:
    """``schema.view`` as it may stand in SQL, whatever words the two are."""
    return ".".join(map(identifier, name.split(".")))


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of a declared type."""
    if kinds.is_list(kind) or kinds.is_fixed_size_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    names = {
        pa.string(): "VARCHAR",
        pa.bool_(): "BOOLEAN",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.float32(): "FLOAT",
        pa.float64(): "DOUBLE",
        pa.timestamp("us"): "TIMESTAMP",
    }
    return names[kind]
