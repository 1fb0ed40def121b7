"""Queries to the analysts' catalogue: read-only SELECTs, confined to the files of the data folder.

The catalogue may come from elsewhere, so nothing in it is queried before the connection is confined, and nothing in it
decides what may be read. DuckDB can write wherever it can read. Therefore a query is parsed, and every part of it must
be known to be read-only.
"""

# Annotations stay text: DuckDB's Python binding reports leaked types if an annotation that holds one of its types
# outlives the interpreter.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa

from warehouse.catalogue.macros import MACROS
from warehouse.duck import SPILLED, Engine, attach, confine, load_sql, spilling, table
from warehouse.errors import DataError

__all__ = ["Answer", "Session", "check_place", "ends", "query"]

_STATEMENTS: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""The types of statements inside a query that only read. In WITH, DuckDB also accepts others: COPY, INSERT, ..."""

_FUNCTIONS: Final = frozenset(
    """
    generate_series histogram histogram_values json_each json_tree range repeat repeat_row unnest
    glob parquet_bloom_probe parquet_file_metadata parquet_full_metadata parquet_kv_metadata parquet_metadata
    parquet_scan parquet_schema read_blob read_csv read_csv_auto read_json read_json_auto read_json_objects
    read_json_objects_auto read_ndjson read_ndjson_auto read_ndjson_objects read_parquet read_text sniff_csv
    duckdb_columns duckdb_constraints duckdb_databases duckdb_dependencies duckdb_extensions duckdb_functions
    duckdb_indexes duckdb_keywords duckdb_memory duckdb_optimizers duckdb_schemas duckdb_sequences duckdb_settings
    duckdb_tables duckdb_temporary_files duckdb_types duckdb_views icu_calendar_names pg_timezone_names
    pragma_collations pragma_database_size pragma_metadata_info pragma_platform pragma_show pragma_storage_info
    pragma_table_info pragma_user_agent pragma_version
    """.split()  # noqa: SIM905 - sixty quoted names are harder to read
) | {name.rpartition("/")[2] for name in MACROS}
"""The functions that may stand in FROM. Others run a text as a statement (json_execute_serialized_sql, query), read
any memory address (arrow_scan), or change the state of the database (checkpoint)."""

_BATCH: Final = 2048
"""Rows per part of an answer; the size of a DuckDB vector."""


@dataclass(frozen=True)
class Answer:
    """An answer in parts, each read when it is requested: the whole answer may be larger than the memory.

    Another query to the same session ends it.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in their order; two columns may have the same name."""
        return list(self.schema.names)


class Session:
    """One version of the catalogue, open for any number of queries.

    The session keeps using the file that existed at its start, until `refresh` is called. So the numbers of one session
    are consistent. Use it as a context manager.

    Args:
        catalogue: the DuckDB file.
        engine: threads and memory.
        root: the only folder whose files are read, the root of the store. Default: the folder of the catalogue.

    Raises:
        DataError: there is no catalogue, or DuckDB cannot read it.
    """

    def __init__(self, catalogue: Path, engine: Engine | None = None, root: Path | None = None) -> None:
        self.catalogue: Final = catalogue
        self._engine: Final = engine or Engine()
        self._root: Final = root or catalogue.parent
        self._closing = ExitStack()
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def ask(self, sql: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None) -> pa.Table:
        """The answer to one SELECT (also FROM, DESCRIBE, SHOW, SUMMARIZE), or its first `limit` rows, in memory.

        `parameters` are bound to the statement's $-names. The statement can neither write nor set anything, and reads
        only files below the root.

        Raises:
            DataError: the text is not a single statement of this kind, or DuckDB refuses it.
        """
        with self._in_words():
            relation = self._relation(sql, parameters)
            return (relation if limit is None else relation.limit(limit)).to_arrow_table()

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Like `ask`, but part by part. A DuckDB error may come with any part."""
        with self._in_words():
            reader = self._relation(sql, parameters).to_arrow_reader(_BATCH)

        def batches() -> Iterator[pa.RecordBatch]:
            with self._in_words():
                yield from reader

        return Answer(reader.schema, batches())

    def ask_named(self, name: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to ``sql/<name>.sql``."""
        return self.ask(load_sql(name), parameters)

    def statements(self, script: str) -> list[str]:
        """A script's statements, one by one.

        Raises:
            DataError: DuckDB cannot parse it.
        """
        with self._in_words():
            return [statement.query.strip() for statement in self._connection.extract_statements(script)]

    def interrupt(self) -> None:
        """Stop the query that another thread is running. That thread gets a `DataError`."""
        self._connection.interrupt()

    @property
    def superseded(self) -> bool:
        """Whether another file has replaced the catalogue since it was opened."""
        return self._identity() not in (self._opened, None)

    def refresh(self) -> None:
        """From now on, query the catalogue file that exists now."""
        self._closing.close()
        self._open()

    def _open(self) -> None:
        # Identified before the file is opened: if it is replaced in between, `superseded` is true without need, but
        # never false by mistake.
        self._opened = self._identity()
        if self._opened is None:
            raise DataError(f"there is no {self.catalogue}: `mmm4rec run` builds the catalogue")
        try:
            spill = self._closing.enter_context(spilling())
            self._connection = self._closing.enter_context(attach(self.catalogue, self._engine, spill))
            # A cursor does not USE the catalogue. The catalogue's macros could otherwise replace the functions that
            # parse.
            self._parser = self._connection.cursor()
            confine(self._connection, self._root)
        except duckdb.Error as error:
            self._closing.close()
            raise DataError(f"{self.catalogue} cannot be read as a catalogue: {error}") from error

    def _relation(self, sql: str, parameters: Mapping[str, Any] | None) -> duckdb.DuckDBPyRelation:
        """A query, ready to run, after a check that every part of it only reads."""
        if [found.type for found in self._connection.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
            raise DataError(
                f"{sql.strip()[:80]!r} is not one SELECT: the catalogue is read-only and answers one question at a time"
            )
        question = _bare(sql)
        (parts,) = table(self._parser, "question_parts", {"question": question}).to_pylist()
        statements = {part for part in parts["types"] or () if part.endswith("_NODE")}
        if not statements or statements - _STATEMENTS:
            raise DataError(
                f"{sql.strip()[:80]!r} does more than read: the catalogue is read-only, and WITH takes only SELECTs"
            )
        if unknown := sorted({*(parts["functions"] or ())} - _FUNCTIONS):
            raise DataError(f"{unknown[0]}(...) is not one of the functions that a question may select from")
        return self._connection.sql(question, params=dict(parameters) if parameters else None)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn DuckDB's errors into a `DataError`. Errors while an answer is read arrive as Arrow's exceptions."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise DataError(self._refusal(error)) from error

    def _refusal(self, error: Exception) -> str:
        message = f"DuckDB refuses the query: {error}"
        if "disabled by configuration" in message:
            return f"{message}\nA question can read only the files in {self._root}."
        if "Out of Memory" in message:
            return f"{message}\nA question may take {self._engine.memory} of memory and spill {SPILLED}: ask for less."
        return message

    def _identity(self) -> tuple[int, int] | None:
        if not self.catalogue.is_file():
            return None
        found = self.catalogue.stat()
        return found.st_ino, found.st_mtime_ns


def query(
    catalogue: Path,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    root: Path | None = None,
) -> pa.Table:
    """Run one query in its own session: see `Session` and `Session.ask`."""
    with Session(catalogue, engine, root) as session:
        return session.ask(sql, parameters)


def check_place(catalogue: Path, data: Path, cache: Path | None = None) -> None:
    """Raise `DataError` if the views read another data folder than `data`, or the folder was moved.

    `cache` is the folder for local copies of files in a bucket, from which views may read, too.
    """
    with Session(catalogue) as session:
        folders = session.ask_named("catalogue_folders")["path"].to_pylist()
    for folder in folders:
        root = Path(folder).parents[3]  # of <root>/<layer>/<noun>/domain=<domain>/v=<version>
        if root not in (data, cache):
            raise DataError(
                f"{catalogue} shows the files of {root}: the data folder was moved or copied from there; "
                "`mmm4rec run` builds the catalogue of this one"
            )


def ends(text: str) -> bool:
    """Whether the text ends with the semicolon of a statement, not with one in a string or a comment."""
    return _end(text) is not None


def _end(text: str) -> int | None:
    """The byte at which the text's final semicolons begin; comments may follow them. None if there are none."""
    data, end = text.encode(), None
    for start, kind in reversed(duckdb.tokenize(text)):
        if kind == duckdb.token_type.operator and data[start : start + 1] == b";":
            end = start
        elif kind != duckdb.token_type.comment:
            break
    return end


def _bare(sql: str) -> str:
    """A statement without its final semicolon and the comments after it, because DuckDB appends text to it."""
    return sql.encode()[: _end(sql)].decode()
