"""Parquet files that are the same bytes for the same rows, however the rows arrive.

The row groups are cut at a fixed number of rows here, not where a query happens to end a batch: DuckDB's own
COPY moves these borders with the number of threads.
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import WarehouseError

__all__ = ["ROW_GROUP", "ParquetSink", "rows_of"]

ROW_GROUP: Final = 122_880
"""Rows of a row group: 60 of DuckDB's vectors, so that its scans split evenly."""


class ParquetSink:
    """Writes record batches of one table to one file. A context manager; `rows` counts what was written.

    Columns are taken by name and cast to the declared schema; a null in a column declared without nulls is a
    WarehouseError.
    """

    def __init__(self, path: Path, schema: pa.Schema, row_group: int = ROW_GROUP) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._row_group = row_group
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        # Users hardly repeat within a row group: a dictionary of them costs time and saves no space.
        repeated = [field.name for field in schema if field.name != "user_id" and not _is_number(field.type)]
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=1, use_dictionary=repeated, version="2.6"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._write(self._waiting_rows)
        self._writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(self._conform(batch))
        self._waiting_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._waiting_rows >= self._row_group:
            self._write(self._waiting_rows - self._waiting_rows % self._row_group)

    def write_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append the rows of every batch."""
        for batch in batches:
            self.write(batch)

    def _conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for field in self.schema:
            column = batch.column(field.name)
            if not field.nullable and column.null_count:
                raise WarehouseError(
                    f"{self.path.name}: column {field.name} is declared without nulls but "
                    f"{column.null_count} rows have none; this is a fault of the query that fills it"
                )
            columns.append(column if column.type == field.type else column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self.schema)
        if rows:
            self._writer.write_table(table.slice(0, rows), row_group_size=self._row_group)
        rest = table.slice(rows)
        self._waiting, self._waiting_rows = rest.to_batches(), rest.num_rows


def rows_of(path: Path) -> int:
    """Rows of a Parquet file, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
