"""The layouts of the tables that the feature store reads and writes, and the functions for that.

A vector column is declared here without its width, because the encoder decides it. In the files it is a fixed-size list
(:func:`embedding_schema`).
"""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import FeatureError
from warehouse.artifacts.files import regular
from warehouse.artifacts.schema import column as _column

ROW_GROUP = 8192
"""Rows in a row group of every file written here."""

Storage = Literal["float32", "float16"]
"""Number format of vectors in Parquet."""


def embedding_schema(width: int | None = None, storage: Storage = "float32") -> pa.Schema:
    """The schema of text_embeddings and image_embeddings. The key is item_id, and rows are sorted by its bytes.

    Args:
        width: length of every vector; None declares "any width".
        storage: number format of the vectors.
    """
    number = pa.float32() if storage == "float32" else pa.float16()
    vector = pa.list_(number) if width is None else pa.list_(number, width)
    return pa.schema(
        [
            _column("item_id", pa.string(), "Key: the item, as in core/sequences."),
            _column("vector", vector, "Embedding; zeros where present is false."),
            _column("present", pa.bool_(), "Whether the item has this modality: the mask of the vector."),
            _column(
                "content_sha256",
                pa.string(),
                "sha256 of what was encoded: the text, the picture's bytes or the ready vector.",
                nullable=True,
            ),
        ]
    )


CORE_ITEMS = pa.schema(
    [
        _column("item_id", pa.string(), "Key: the item."),
        _column("title", pa.string(), "Title without tags and entities.", nullable=True),
        _column("title_raw", pa.string(), "Title as published.", nullable=True),
        _column("brand", pa.string(), "Brand.", nullable=True),
        _column("description", pa.string(), "Description, fragments joined.", nullable=True),
        _column("image_urls", pa.list_(pa.string()), "Picture addresses, the best first.", nullable=True),
    ]
)
SEQUENCE_ITEMS = pa.schema([_column("item_id", pa.string(), "Key: an item that the k-core kept.")])

ITEM_TEXT = pa.schema(
    [
        _column("item_id", pa.string(), "Key: the item, as in core/sequences; sorted."),
        _column("text", pa.string(), "Published form: Title: ... ; Brand: ... ; Description: ... ; ", True),
        _column("text_clean", pa.string(), "Title, brand and description as plain sentences.", True),
        _column("content_sha256", pa.string(), "sha256 of text_clean in UTF-8.", True),
        _column("present", pa.bool_(), "Whether the item has any text; without, both texts are null."),
    ]
)

ITEM_IMAGES = pa.schema(
    [
        _column("item_id", pa.string(), "Key: the item, as in core/sequences; sorted."),
        _column("status", pa.string(), "ok, or why there is no picture; `mmm4rec pictures` says what each means."),
        _column("url", pa.string(), "Address of the picture used; else the first address tried.", True),
        _column("sha256", pa.string(), "sha256 of the picture's original bytes.", True),
        _column("width", pa.int32(), "Pixels, upright (EXIF orientation applied).", True),
        _column("height", pa.int32(), "Pixels, upright (EXIF orientation applied).", True),
        _column("bytes", pa.int64(), "Size of the original bytes.", True),
        _column("shard", pa.string(), "Tar file that holds the original bytes.", True),
        _column("detail", pa.string(), "What went wrong, address by address.", True),
        _column("offset", pa.int64(), "Where the original bytes begin in the shard.", True),
    ]
)

ACCEPTED: dict[str, pa.Schema] = {"core/items/items": CORE_ITEMS, "core/sequences/items": SEQUENCE_ITEMS}
"""Tables read; their files may hold further columns."""


def _commented(schema: pa.Schema, comment: str) -> pa.Schema:
    return schema.with_metadata({"comment": comment})


TABLES: dict[str, pa.Schema] = {
    "features/item_text/item_text": _commented(
        ITEM_TEXT, "The text of every item of the sequences, as published and cleaned. Key: item_id, sorted"
    ),
    "features/item_images/item_images": _commented(
        ITEM_IMAGES, "What became of every item's picture, and where its bytes lie. Key: item_id, sorted"
    ),
    "features/text_embeddings/text_embeddings": _commented(
        embedding_schema(), "A vector for every item's text. Key: item_id, sorted"
    ),
    "features/image_embeddings/image_embeddings": _commented(
        embedding_schema(), "A vector for every item's picture. Key: item_id, sorted"
    ),
}
"""Tables produced, keyed layer/noun/file stem."""


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
                f"{path}: no column {', '.join(missing)} (found {', '.join(sorted(present))}); "
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
    """
    kept = read_table(sequence_items, SEQUENCE_ITEMS)
    known = read_table(items, pa.schema([CORE_ITEMS.field(name) for name in ["item_id", *columns]]))
    for path, ids in ((sequence_items, kept["item_id"]), (items, known["item_id"])):
        if len(ids.unique()) != len(ids):
            raise FeatureError(f"{path}: an item_id occurs twice; rebuild the artifact that holds this file")
    # Arrow joins carry no list columns, so rows are looked up by position of the key instead.
    rows = pc.index_in(kept["item_id"], known["item_id"].combine_chunks())
    table = known.drop_columns("item_id").take(rows).add_column(0, "item_id", kept["item_id"])
    return table.sort_by("item_id")


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write a Parquet file whose bytes depend only on the rows."""
    pq.write_table(table.cast(schema), path, row_group_size=ROW_GROUP, compression="zstd")
