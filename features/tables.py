"""The layouts of the tables that the feature store reads and writes. `features.parquet` has the functions for that.

A vector column is declared here without its width, because the encoder decides it. In the files it is a fixed-size list
(:func:`embedding_schema`).
"""

from typing import Literal

import pyarrow as pa

from warehouse.artifacts.schema import column as _column

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
            _column("vector", vector, "Embedding; all zeros if present is false."),
            _column("present", pa.bool_(), "Whether the item has this modality: the mask of the vector."),
            _column(
                "content_sha256",
                pa.string(),
                "sha256 of the encoded content: the text, the picture's bytes or the ready-made vector.",
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
        _column("present", pa.bool_(), "Whether the item has any text; if not, both texts are null."),
    ]
)

ITEM_IMAGES = pa.schema(
    [
        _column("item_id", pa.string(), "Key: the item, as in core/sequences; sorted."),
        _column("status", pa.string(), "ok, or why there is no picture; `mmm4rec pictures` explains each status."),
        _column(
            "url",
            pa.string(),
            "Address of the picture; if there is no picture, the first address that was tried.",
            True,
        ),
        _column("sha256", pa.string(), "sha256 of the picture's original bytes.", True),
        _column("width", pa.int32(), "Width in pixels after the EXIF orientation was applied.", True),
        _column("height", pa.int32(), "Height in pixels after the EXIF orientation was applied.", True),
        _column("bytes", pa.int64(), "Size of the original bytes.", True),
        _column("shard", pa.string(), "Tar file that holds the original bytes.", True),
        _column("detail", pa.string(), "The problem of each address that failed.", True),
        _column("offset", pa.int64(), "Byte position in the shard at which the original bytes begin.", True),
    ]
)

ACCEPTED: dict[str, pa.Schema] = {"core/items/items": CORE_ITEMS, "core/sequences/items": SEQUENCE_ITEMS}
"""The tables that are read; their files may have further columns."""


def _commented(schema: pa.Schema, comment: str) -> pa.Schema:
    return schema.with_metadata({"comment": comment})


TABLES: dict[str, pa.Schema] = {
    "features/item_text/item_text": _commented(
        ITEM_TEXT, "The text of every item of the sequences, in the published form and cleaned. Key: item_id, sorted"
    ),
    "features/item_images/item_images": _commented(
        ITEM_IMAGES, "The status of every item's picture, and where its bytes are stored. Key: item_id, sorted"
    ),
    "features/text_embeddings/text_embeddings": _commented(
        embedding_schema(), "A vector for every item's text. Key: item_id, sorted"
    ),
    "features/image_embeddings/image_embeddings": _commented(
        embedding_schema(), "A vector for every item's picture. Key: item_id, sorted"
    ),
}
"""The tables that are written, by layer/noun/file stem."""
