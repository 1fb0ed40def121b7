"""core/items: one row per item, with cleaned text.

An item may have several metadata rows with different content. The row with the most filled fields is kept; the fields
are title, brand, description, categories and pictures, after cleaning. If several rows have equally many, the first in
the file is kept. The price is not counted, because sequences and vectors do not depend on it.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.core.prices import Price, read_price
from warehouse.duck import Engine, connect, execute, pattern, table, write_parquet
from warehouse.parquet import ParquetSink, rows_of
from warehouse.tables import TABLES

__all__ = ["ItemsSummary", "build_items", "clean"]

_SCRIPT: Final = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<[a-zA-Z/!][^<>]*(?:>|$)")
_CONTROL_AND_SPACE: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u200b\ufeff\s]+")
_BATCH: Final = 8192


@dataclass(frozen=True)
class ItemsSummary:
    """What became of the metadata rows: metadata_rows = items + duplicate_asin."""

    metadata_rows: int
    items: int
    duplicate_asin: int
    titles_without_text: int
    """Items whose title held only HTML and no text."""
    with_title: int
    with_brand: int
    with_description: int
    with_image_url: int
    with_price: int
    unread_prices: dict[str, int]
    """Items whose price could not be read, by reason."""


def build_items(metadata: Path, out: Path, engine: Engine | None = None) -> ItemsSummary:
    """Make ``items.parquet``, sorted by item_id, and ``rejected.parquet`` from the file of ``raw/metadata``."""
    with connect(engine or Engine(), out) as connection:
        cleaned = out / ".spill" / "cleaned.parquet"
        with ParquetSink(cleaned, TABLES["core/items/items"]) as sink:
            sink.write_all(_cleaned(metadata))
        parameters = {"cleaned": pattern(cleaned)}
        execute(connection, "kept_lines", parameters)
        items = write_parquet(connection, "kept_items", out / "items.parquet", TABLES["core/items/items"], parameters)
        rejected = write_parquet(
            connection, "items_rejected", out / "rejected.parquet", TABLES["core/items/rejected"], parameters
        )
        built = {"items": pattern(out / "items.parquet")}
        (counts,) = table(connection, "items_counts", built).to_pylist()
        unread = {row["reason"]: row["items"] for row in table(connection, "items_unread", built).to_pylist()}
    return ItemsSummary(rows_of(metadata), items, rejected, **counts, unread_prices=unread)


def clean(text: str) -> str:
    """Text without entities, tags, scripts and control characters; runs of white space become one space.

    Entities are decoded first, because scraped text contains escaped tags; this is repeated up to three times. A tag
    that is never closed, as in ``<span class="a-size-medium``, is removed with all text after it. A single ``<``, as in
    ``a < b``, stays.
    """
    for _ in range(3):
        before = text
        if "&" in text:
            text = html.unescape(text)
        if "<" in text:
            text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
        if text == before:
            break
    return _CONTROL_AND_SPACE.sub(" ", text).strip()


def _cleaned(metadata: Path) -> Iterator[pa.RecordBatch]:
    for batch in pq.ParquetFile(metadata).iter_batches(_BATCH):
        rows = batch.to_pydict()
        yield pa.RecordBatch.from_pydict(
            {
                "item_id": batch["item_id"],
                "title": [clean(title) for title in rows["title"]],
                "title_raw": batch["title"],
                "brand": [clean(brand) for brand in rows["brand"]],
                "description": [clean(" ".join(fragments)) for fragments in rows["description"]],
                "description_raw": batch["description"],
                "categories": [list(filter(None, map(clean, path))) for path in rows["categories"]],
                "image_urls": batch["image_urls"],
                "price_raw": batch["price"],
                **_prices(rows["price"]),
                "line": batch["line"],
            },
            schema=TABLES["core/items/items"],
        )


def _prices(texts: list[str]) -> dict[str, list[Any]]:
    """The columns of the prices: the amounts and currencies that were read, and why others could not be read."""
    found = [read_price(text) for text in texts]
    read = [price if isinstance(price, Price) else None for price in found]
    return {
        "price_lowest": [price and price.lowest for price in read],
        "price_highest": [price and price.highest for price in read],
        "price_currency": [price and price.currency for price in read],
        "price_unread": [reason if isinstance(reason, str) else None for reason in found],
    }
