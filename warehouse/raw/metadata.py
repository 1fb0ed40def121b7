"""raw/metadata: the product file of a category, read line by line into a table.

A line is a JSON object or, in older files, a Python literal. Fields may be missing, empty, a string where a list is
usual, or a list of lists. A picture address without a scheme, `//host/...`, gets https. Text stays as scraped;
`warehouse.core.items` cleans it.

`read_line` defines what a product is, in plain code. Most lines do not go through it: `warehouse.raw.records` decodes
many at a time into `_Fields`, which holds the usual shapes of the fields that are kept, and these become columns
together.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.artifacts.progress import Progress
from warehouse.parquet import ROW_GROUP, ParquetSink
from warehouse.raw import causes
from warehouse.raw.lines import Quarantine, blocks
from warehouse.raw.records import LONGEST_LINE, SURROGATE, Batch, decode, read_record, usual_ids
from warehouse.tables import TABLES

__all__ = ["MetadataSummary", "ingest_metadata"]

LONGEST_ID: Final = 255
DEEPEST: Final = 32

_TABLE: Final = TABLES["raw/metadata/metadata"]
_ROW_GROUP: Final = ROW_GROUP // 15
"""Rows per row group: fewer than usual, because a product with a long description takes some kilobytes."""
_LAYOUT: Final = "a metadata file has one JSON object with an asin per line"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class MetadataSummary:
    """What became of the lines of a metadata file: lines = rows + quarantined."""

    lines: int
    rows: int
    quarantined: int
    python_literals: int
    """Rows that were Python literals, not JSON."""
    reasons: dict[str, int] = field(default_factory=dict)


class MetadataLine(NamedTuple):
    """One line of a metadata file."""

    item_id: str
    title: str
    brand: str
    description: list[str]
    categories: list[str]
    image_urls: list[str]
    price: str = ""


class _Fields(msgspec.Struct, gc=False):
    """The fields of a product in their usual shapes. `read_line` reads products with other shapes."""

    asin: str
    title: str | None = None
    brand: str | None = None
    description: str | list[str] | None = None
    category: list[str] | None = None
    categories: list[str] | None = None
    imageURLHighRes: list[str] | None = None  # noqa: N815
    imageURL: list[str] | None = None  # noqa: N815
    image: list[str] | None = None
    imUrl: str | None = None  # noqa: N815
    price: str | None = None


_DECODER: Final = msgspec.json.Decoder(_Fields)


def ingest_metadata(source: Path, out: Path, progress: Progress | None = None) -> MetadataSummary:
    """Turn ``meta_CATEGORY.json`` (plain or gzip) into ``metadata.parquet`` and ``quarantine.parquet``.

    Both are sorted by line. The file is streamed: memory does not grow with its size.

    Raises:
        DataError: the file is missing, empty, cut off or damaged, or hardly any of its lines is a product.
    """
    with (
        ParquetSink(out / "metadata.parquet", _TABLE, _ROW_GROUP) as metadata,
        Quarantine(
            out / "quarantine.parquet",
            TABLES["raw/metadata/quarantine"],
            source,
            "product",
            _LAYOUT,
            lambda lines: causes.of_records(lines, ["asin"]),
        ) as quarantine,
    ):
        literals = 0
        for block in blocks(source, LONGEST_LINE, progress):
            for batch in decode(block, _DECODER):
                literals += _read_the_rest(batch, quarantine)
                metadata.write(_table(batch))
        if not metadata.rows:
            raise quarantine.refusal(f"none of its {quarantine.total:,} lines is")
        return MetadataSummary(
            metadata.rows + quarantine.total,
            metadata.rows,
            quarantine.total,
            literals,
            dict(sorted(quarantine.reasons.items())),
        )


def read_line(line: bytes) -> tuple[MetadataLine, bool] | str:
    """One line as a product, and whether it was a Python literal; or the reason why it is not a product."""
    read = read_record(line)
    if isinstance(read, str):
        return read
    record, is_literal = read
    item_id = record.get("asin")
    if not isinstance(item_id, str) or not item_id:
        return "asin is missing or not text"
    if _CONTROL.search(item_id) or SURROGATE.search(item_id):
        return "control character in the asin"
    if len(item_id.encode()) > LONGEST_ID:
        return "asin is too long"
    pictures = (record.get(name) for name in ("imageURLHighRes", "imageURL", "image", "imUrl"))
    return MetadataLine(
        item_id,
        " ".join(_texts(record.get("title"))),
        " ".join(_texts(record.get("brand"))),
        list(_texts(record.get("description"))),
        list(dict.fromkeys(_texts(record.get("category") or record.get("categories")))),
        list(dict.fromkeys(_address(url) for value in pictures for url in _texts(value))),
        _price(record.get("price")),
    ), is_literal


def _price(value: Any) -> str:
    """A price as text; a number as it is written, even if it cannot be a price."""
    return str(value) if type(value) in (int, float) else " ".join(_texts(value))


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a value of any shape, without blank texts; unpaired surrogates become U+FFFD."""
    if isinstance(value, str):
        if value and not value.isspace():
            yield SURROGATE.sub("\ufffd", value)
    elif isinstance(value, list | tuple) and depth < DEEPEST:
        for part in value:
            yield from _texts(part, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        yield str(value)  # a title such as 1984; NaN, infinity and huge numbers are left out


def _address(text: str) -> str:
    """An address without blanks around it; one without a scheme, `//host/picture`, gets https."""
    text = text.strip()
    return f"https:{text}" if text.startswith("//") else text


def _read_the_rest(batch: Batch[_Fields], quarantine: Quarantine) -> int:
    """Read the undecoded lines with `read_line`: fill in the products, set the others aside, and count the literals."""
    if None not in batch.records and usual_ids([fields.asin for fields in batch.records if fields]):
        return 0
    literals = 0
    places = [n for n, fields in enumerate(batch.records) if fields is None or not usual_ids([fields.asin])]
    lines = batch.lines()
    for place in places:
        line = lines[place]
        match read_line(line):
            case str(reason):
                quarantine.add(batch.first_line + place, reason, line)
                batch.records[place] = None
            case product, is_literal:
                item_id, title, brand, description, categories, image_urls, price = product
                batch.records[place] = _Fields(
                    item_id, title, brand, description, categories, None, image_urls, price=price
                )
                literals += is_literal
    return literals


def _table(batch: Batch[_Fields]) -> pa.RecordBatch:
    """The products of a batch as rows, with the values that `read_line` gives."""
    rows = [fields for fields in batch.records if fields is not None]
    lines = [line for line, fields in enumerate(batch.records, batch.first_line) if fields is not None]
    pictures = [
        (row.imageURLHighRes or []) + (row.imageURL or [])
        if row.image is None and row.imUrl is None
        else [*(row.imageURLHighRes or ()), *(row.imageURL or ()), *(row.image or ()), row.imUrl or ""]
        for row in rows
    ]
    image_urls = _lists([dict.fromkeys(urls) for urls in pictures])
    if not _is_visible(image_urls.values).all() or pc.any(pc.starts_with(image_urls.values, "//")).as_py():
        image_urls = _lists([dict.fromkeys(map(_address, urls)) for urls in pictures])
    return pa.RecordBatch.from_arrays(
        [
            pa.array(lines, pa.int64()),
            pa.array([row.asin for row in rows], pa.string()),
            pa.array([_text(row.title) for row in rows], pa.string()),
            pa.array([_text(row.brand) for row in rows], pa.string()),
            _lists([[row.description] if type(row.description) is str else row.description or () for row in rows]),
            _lists([dict.fromkeys(row.category or row.categories or ()) for row in rows]),
            image_urls,
            pa.array([_text(row.price) for row in rows], pa.string()),
        ],
        schema=_TABLE,
    )


def _text(value: str | None) -> str:
    return value if value and not value.isspace() else ""


def _lists(values: Sequence[Collection[str]]) -> pa.ListArray:
    """Collections of texts as a column of lists, without blank texts."""
    texts = list(chain.from_iterable(values))
    column = pa.array(texts, pa.string())
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=offsets[1:])
    blank = [place for place in np.flatnonzero(~_is_visible(column)).tolist() if not _text(texts[place])]
    if blank:
        kept = np.ones(len(texts), bool)
        kept[blank] = False
        column = column.filter(pa.array(kept))
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)[offsets]
    return pa.ListArray.from_arrays(pa.array(offsets), column)


def _is_visible(texts: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Whether each text begins and ends with a visible ASCII character, so that it is not blank and needs no strip."""
    _, offsets, data = texts.buffers()
    if not data:
        return np.zeros(len(texts), bool)
    bounds = np.frombuffer(offsets, np.int32)[: len(texts) + 1]
    codes = np.frombuffer(data, np.uint8)
    edges = (codes.take(bounds[:-1], mode="clip"), codes.take(bounds[1:] - 1, mode="clip"))
    visible = [(edge > ord(" ")) & (edge < 0x7F) for edge in edges]
    return (bounds[:-1] < bounds[1:]) & visible[0] & visible[1]
