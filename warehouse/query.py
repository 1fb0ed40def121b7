"""Questions to the analysts' catalogue: SELECTs, read-only, confined to the files it shows."""

# Annotations that stay text: DuckDB's binding reports its types as leaked where one outlives the interpreter.
from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa

from warehouse.duck import Engine, attach, confine, load_sql, table
from warehouse.errors import WarehouseError

__all__ = ["Session", "check_place", "ends", "query"]


class Session:
    """One version of the catalogue, open for any number of questions.

    The file that was there at the start stays the one that answers, so that numbers of one session fit each other,
    until `refresh` is called. Use it as a context manager.

    Raises:
        WarehouseError: there is no catalogue, or DuckDB cannot read it.
    """

    def __init__(self, catalogue: Path, engine: Engine | None = None) -> None:
        self.catalogue: Final = catalogue
        self._engine: Final = engine
        self._closing = ExitStack()
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def ask(self, sql: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None) -> pa.Table:
        """The answer to one SELECT (also FROM, DESCRIBE, SHOW, SUMMARIZE), or its first `limit` rows.

        `parameters` are bound to the statement's $-names. The statement can neither write nor set anything, and reads
        no file but those behind the views.

        Raises:
            WarehouseError: the text is not one such statement, or DuckDB refuses it.
        """
        try:
            statements = self._connection.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise WarehouseError(
                    f"{sql.strip()[:80]!r} is not one SELECT: the catalogue is read-only "
                    "and answers one question at a time"
                )
            relation = self._connection.sql(_bare(sql), params=dict(parameters) if parameters else None)
            return (relation if limit is None else relation.limit(limit)).to_arrow_table()
        except duckdb.Error as error:
            raise WarehouseError(f"DuckDB refuses the query: {error}") from error

    def ask_named(self, name: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to ``sql/<name>.sql``."""
        return self.ask(load_sql(name), parameters)

    def statements(self, script: str) -> list[str]:
        """A script's statements, one by one.

        Raises:
            WarehouseError: DuckDB cannot parse it.
        """
        try:
            return [statement.query.strip() for statement in self._connection.extract_statements(script)]
        except duckdb.Error as error:
            raise WarehouseError(f"DuckDB refuses the query: {error}") from error

    def interrupt(self) -> None:
        """End the question that another thread is asking; it gets a `WarehouseError`."""
        self._connection.interrupt()

    @property
    def superseded(self) -> bool:
        """Whether another file has taken the catalogue's place since it was opened."""
        return self._identity() not in (self._opened, None)

    def refresh(self) -> None:
        """From now on, ask the catalogue that is there now."""
        self._closing.close()
        self._open()

    def _open(self) -> None:
        # Before the file is opened: a swap in between is then reported once too often, not once too few.
        self._opened = self._identity()
        if self._opened is None:
            raise WarehouseError(f"{self.catalogue} is not there: `mmm4rec run` builds the catalogue")
        try:
            self._connection = self._closing.enter_context(attach(self.catalogue, self._engine))
            confine(self._connection, table(self._connection, "catalogue_folders")["path"].to_pylist())
        except duckdb.Error as error:
            self._closing.close()
            raise WarehouseError(f"{self.catalogue} cannot be read as a catalogue: {error}") from error

    def _identity(self) -> tuple[int, int] | None:
        if not self.catalogue.is_file():
            return None
        found = self.catalogue.stat()
        return found.st_ino, found.st_mtime_ns


def query(
    catalogue: Path, sql: str, parameters: Mapping[str, Any] | None = None, engine: Engine | None = None
) -> pa.Table:
    """One question to a session of its own: see `Session.ask`."""
    with Session(catalogue, engine) as session:
        return session.ask(sql, parameters)


def check_place(catalogue: Path, data: Path) -> None:
    """Raise `WarehouseError` if the views read another data folder than `data`, or one that lay elsewhere."""
    with Session(catalogue) as session:
        folders = session.ask_named("catalogue_folders")["path"].to_pylist()
    for folder in folders:
        root = Path(folder).parents[3]  # of <root>/<layer>/<noun>/domain=<domain>/v=<version>
        if root != data:
            raise WarehouseError(
                f"{catalogue} shows the files of {root}: the data folder was moved or copied from there; "
                "`mmm4rec run` builds the catalogue of this one"
            )


def ends(text: str) -> bool:
    """Whether the text ends with the semicolon of a statement, not one in a string or a comment."""
    return _end(text) is not None


def _end(text: str) -> int | None:
    """The byte where the semicolons begin that end the text; comments may follow them."""
    data, end = text.encode(), None
    for start, kind in reversed(duckdb.tokenize(text)):
        if kind == duckdb.token_type.operator and data[start : start + 1] == b";":
            end = start
        elif kind != duckdb.token_type.comment:
            break
    return end


def _bare(sql: str) -> str:
    """A statement without its semicolon and the comments after it, since DuckDB puts text behind it."""
    return sql.encode()[: _end(sql)].decode()
