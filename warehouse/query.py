"""Questions to the analysts' catalogue: one SELECT at a time, read-only, confined to the files it shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from warehouse.duck import Engine, attach, confine, table
from warehouse.errors import WarehouseError

__all__ = ["query"]


def query(
    catalogue: Path, sql: str, parameters: Mapping[str, Any] | None = None, engine: Engine | None = None
) -> pa.Table:
    """The answer to one SELECT (also FROM, DESCRIBE, SHOW, SUMMARIZE) over the catalogue's views.

    `parameters` are bound to the statement's $-names. The statement can neither write nor set anything, and reads no
    file but those behind the views.

    Raises:
        WarehouseError: there is no catalogue, the text is not one such statement, or DuckDB refuses it.
    """
    if not catalogue.is_file():
        raise WarehouseError(f"{catalogue} is not there: `mmm4rec run` builds the catalogue")
    try:
        with attach(catalogue, engine) as connection:
            statements = connection.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise WarehouseError(
                    f"{sql.strip()[:80]!r} is not one SELECT: the catalogue is read-only "
                    "and answers one question at a time"
                )
            confine(connection, table(connection, "catalogue_folders")["path"].to_pylist())
            return connection.sql(sql, params=dict(parameters) if parameters else None).to_arrow_table()
    except duckdb.Error as error:
        raise WarehouseError(f"DuckDB refuses the query: {error}") from error
