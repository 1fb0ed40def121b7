"""Writes Parquet files that have the same bytes for the same rows, whatever the sizes of the batches.

Every row group has a fixed number of rows and does not depend on where a query ends a batch. (DuckDB's own COPY changes
these borders with the number of threads.) A separate thread encodes a row group while the caller prepares the next.
"""

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import DataError

__all__ = ["ROW_GROUP", "ParquetSink", "rows_of"]

ROW_GROUP: Final = 122_880
"""Rows per row group: 60 of DuckDB's vectors, so that its scans split evenly."""


_FILE_ORDER: Final = ("line", "position")
"""Columns that number the lines of a raw file."""
_GROUPS_IN_FLIGHT: Final = 2
"""Row groups that may wait for the writing thread: enough to keep it busy, and few enough to limit memory."""


class ParquetSink:
    """Writes record batches of one table to one file. A context manager; `rows` counts the rows written.

    Columns are taken by name and cast to the declared schema. A null in a column that is declared without nulls raises
    a DataError.
    """

    def __init__(self, path: Path, schema: pa.Schema, row_group: int = ROW_GROUP) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._row_group = row_group
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        # If rows are in the order of a raw file, the smallest and largest id of a row group exclude nothing from a
        # scan, and to compute them takes a tenth of the time.
        in_file_order = schema.names[0] in _FILE_ORDER
        encodings = {field.name: encoding for field in schema if (encoding := _encoding(field))}
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[f.name for f in schema if f.name not in encodings and _repeats(f)],
            column_encoding=encodings,
            write_statistics=[f.name for f in schema if not _is_text(f)] if in_file_order else True,
            version="2.6",
        )
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._in_flight: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self._write(self._waiting_rows)
                self._wait(0)
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._writer.close()

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows."""
        self._waiting.append(self._conform(rows))
        self._waiting_rows += rows.num_rows
        self.rows += rows.num_rows
        if self._waiting_rows >= self._row_group:
            self._write(self._waiting_rows - self._waiting_rows % self._row_group)

    def write_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append the rows of every batch."""
        for batch in batches:
            self.write(batch)

    def _conform(self, rows: pa.RecordBatch | pa.Table) -> pa.Table:
        columns = []
        for field in self.schema:
            column = rows.column(field.name)
            if not field.nullable and column.null_count:
                raise DataError(
                    f"{self.path.name}: column {field.name} is declared without nulls but "
                    f"{column.null_count} rows have no value; this is a fault of the query that fills it"
                )
            columns.append(column if column.type == field.type else column.cast(field.type))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _write(self, rows: int) -> None:
        table = pa.concat_tables([self.schema.empty_table(), *self._waiting])
        if rows:
            self._wait(_GROUPS_IN_FLIGHT)
            group = table.slice(0, rows)
            self._in_flight.append(self._thread.submit(self._encode, group))
        rest = table.slice(rows)
        self._waiting, self._waiting_rows = [rest], rest.num_rows

    def _encode(self, group: pa.Table) -> None:
        # Without `combine_chunks`, pages would end where batches end.
        self._writer.write_table(group.combine_chunks(), self._row_group)

    def _wait(self, most: int) -> None:
        """Wait until at most `most` row groups are in flight; an error of the thread is raised here."""
        while len(self._in_flight) > most:
            self._in_flight.popleft().result()


def rows_of(path: Path) -> int:
    """Rows of a Parquet file, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def _encoding(field: pa.Field) -> str | None:
    """The encoding of a column for which neither a dictionary nor plain values are good; None for other columns."""
    if field.name == "user_id":
        # Users hardly repeat within a row group, so a dictionary costs time and saves no space. Lengths stored apart
        # from the text take half the time of plain strings, to write and to read.
        return "DELTA_LENGTH_BYTE_ARRAY"
    return "DELTA_BINARY_PACKED" if field.name in _FILE_ORDER else None


def _is_text(field: pa.Field) -> bool:
    return bool(pa.types.is_string(field.type))


def _repeats(field: pa.Field) -> bool:
    """Whether a column's values repeat within a row group, so that a dictionary of them saves time and space."""
    is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    return not is_number or field.name == "time"
