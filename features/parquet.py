"""Reading and writing the Parquet files whose layouts `features.tables` declares."""

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import FeatureError
from features.tables import CORE_ITEMS, SEQUENCE_ITEMS
from warehouse.artifacts.files import regular

__all__ = ["ROW_GROUP", "read_catalogue", "read_table", "write_table"]

ROW_GROUP: Final = 8192
"""Rows per row group of every file written here."""


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read the columns of `schema` from a Parquet file, cast to their declared types.

    Raises:
        FeatureError: the file is missing, is not Parquet, or lacks a column.
    """
    try:
        present = set(pq.read_schema(regular(path)).names)
        missing = [name for name in schema.names if name not in present]
        if missing:
            raise FeatureError(
                f"{path}: there is no column {', '.join(missing)} (found {', '.join(sorted(present))}); "
                "rebuild the artifact that holds this file"
            )
        return pq.read_table(path, columns=schema.names).select(schema.names).cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(
            f"{path}: cannot be read as Parquet ({error}); rebuild the artifact that holds this file"
        ) from error


def read_catalogue(items: Path, sequence_items: Path, columns: list[str]) -> pa.Table:
    """Columns of core/items for exactly the items of core/sequences, sorted by the bytes of item_id.

    An item that is not in core/items has null in every other column.

    Raises:
        FeatureError: a file cannot be read, or an item_id occurs twice.
    """
    kept = read_table(sequence_items, SEQUENCE_ITEMS)
    known = read_table(items, pa.schema([CORE_ITEMS.field(name) for name in ["item_id", *columns]]))
    for path, ids in ((sequence_items, kept["item_id"]), (items, known["item_id"])):
        if len(ids.unique()) != len(ids):
            raise FeatureError(f"{path}: an item_id occurs twice; rebuild the artifact that holds this file")
    # Arrow's joins do not support list columns, so rows are looked up by the position of their key.
    rows = pc.index_in(kept["item_id"], known["item_id"].combine_chunks())
    table = known.drop_columns("item_id").take(rows).add_column(0, "item_id", kept["item_id"])
    return table.sort_by("item_id")


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write a Parquet file whose bytes depend only on the rows."""
    pq.write_table(table.cast(schema), path, row_group_size=ROW_GROUP, compression="zstd")
