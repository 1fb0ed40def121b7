"""DuckDB as a query engine: a private instance with fixed limits runs statements from ``sql/`` and writes Parquet.

All SQL that is written in Python is in this module. Everything else is in ``sql/*.sql``, one statement per file, with
values bound as parameters. Identifiers, which cannot be parameters, go through `identifier`.
"""

# Annotations stay text: DuckDB's Python binding reports leaked types if an annotation that holds one of its types
# outlives the interpreter.
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
"""How much all queries of one session together may spill to disk."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Engine:
    """The threads and memory that a build may use. They do not change a byte of the result."""

    threads: int = field(default_factory=available_cores)
    memory: str = "3GB"
    """DuckDB's own limit; if it needs more, it spills to disk."""

    def __post_init__(self) -> None:
        if self.threads < 1 or not re.fullmatch(r"[1-9][0-9]*(MB|GB|MiB|GiB)", self.memory):
            raise DataError(f"{self}: give 1 thread or more and a memory limit such as 3GB")


@contextmanager
def connect(engine: Engine, out: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private in-memory database that spills into a folder below `out`; the folder is removed at the end.

    Raises:
        DataError: DuckDB ran out of memory.
    """
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
    """A new DuckDB file, open for writing, that DuckDB `OLDEST` and newer can read; flushed and closed at the end.

    Everything is one transaction, because DuckDB flushes the file at the end of each transaction, and a catalogue takes
    a hundred statements.
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
    """A DuckDB file, read-only. Data that does not fit into memory is spilled to the folder `spill`, up to `SPILLED`.

    The file is attached to a private in-memory database. Otherwise DuckDB would give a second connection to the same
    path the file of the first connection, even after a new file has replaced it.
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
    """A folder of this process in the system's temporary folder (TMPDIR), removed at the end.

    Leftovers of killed processes are removed first.

    Raises:
        DataError: there is no temporary folder, or the folder for this user in it is not private to this user.
    """
    with ExitStack() as closing:
        try:
            place = Path(tempfile.gettempdir()) / f"mmm4rec-{os.getuid()}"
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
            # Everybody may write to the temporary folder, so another user may have made this name first, or linked it.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise DataError(
                    f"{place} is not a private folder of this user, so no data can be spilled there: "
                    "remove it, or set TMPDIR to another folder"
                )
            staging = Staging(place)
            staging.sweep()
            spill = closing.enter_context(staging.new())
        except OSError as error:
            raise DataError(f"there is no folder for spilled data ({error}): set TMPDIR to one") from error
        yield spill


def confine(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """From now on the connection reads only files below `folder`, and its settings cannot be changed.

    DuckDB resolves links before it decides. It also permits the files that it has open and the folder that it spills
    into. It can write whatever it may read, so the caller must ensure that queries only read.
    """
    # DuckDB checks the path as the view spells it, and then the file that the path leads to.
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
            # A table name in SQL must never refer to a Python variable of the caller.
            "python_enable_replacements": False,
            **more,
        },
    )
    connection.execute("SET enable_progress_bar = false")  # this project shows its own progress bars
    return connection


@cache
def load_sql(name: str) -> str:
    """The statement ``<name>.sql``, from the folder ``sql`` of this package or of a package inside it."""
    return _statements()[name].read_text(encoding="utf-8")


@cache
def _statements() -> dict[str, Path]:
    """The SQL files of the warehouse by name; no two files have the same name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.rglob("sql/*.sql"))}


def identifier(name: str) -> str:
    """`name` in double quotes, as the name of a schema, table or column in SQL.

    Raises:
        DataError: it is not 1 to 64 letters, digits and underscores, or it begins with a digit.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise DataError(f"{name!r} cannot name a table: use letters, digits and underscores")
    return f'"{name}"'


def literal(text: str) -> str:
    """`text` as an SQL string, for statements that cannot have parameters (views, comments)."""
    return "'" + text.replace("'", "''") + "'"


def pattern(path: Path) -> str:
    """A path for DuckDB's readers, escaped because they would expand ``*?[`` in it."""
    return glob.escape(str(path.absolute()))


def execute(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    fragments: Mapping[str, str] | None = None,
) -> None:
    """Run ``sql/<name>.sql``; `fragments` replace its $-names with text from `identifier` and `literal`."""
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
    """Stream the result of ``sql/<name>.sql``, which must have a total order, to Parquet; return the number of rows."""
    with ParquetSink(path, schema) as sink:
        sink.write_all(stream(connection, name, parameters))
    return sink.rows


def stream(
    connection: duckdb.DuckDBPyConnection, name: str, parameters: Mapping[str, Any] | None = None
) -> Iterator[pa.RecordBatch]:
    """The result of ``sql/<name>.sql``, batch by batch."""
    yield from connection.sql(load_sql(name), params=parameters).to_arrow_reader(ROW_GROUP)


def fill(name: str, fragments: Mapping[str, str]) -> str:
    """``sql/<name>.sql`` with its $-names replaced by `fragments`: text from `identifier`, `literal` and `fill`."""
    return Template(load_sql(name)).substitute(fragments)


def qualified(name: str) -> str:
    """``schema.view`` quoted for SQL, even if one of the two is a reserved word."""
    return ".".join(map(identifier, name.split(".")))


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name for a declared type."""
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
