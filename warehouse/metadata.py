"""raw/metadata: the product file of a category, line by line, as a table.

A line is a JSON object or, in older files, a Python literal; fields may be missing, empty, a string where a
list is usual, or a list of lists. Text stays as scraped: cleaning is the business of `warehouse.items`.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from warehouse.errors import WarehouseError
from warehouse.parquet import ParquetSink
from warehouse.raw import Block, Progress, Quarantine, blocks
from warehouse.tables import TABLES

__all__ = ["MetadataSummary", "ingest_metadata"]

LONGEST_LINE: Final = 4 << 20
LONGEST_ID: Final = 255
LONGEST_LITERAL: Final = 256 << 10
DEEPEST: Final = 32

_TABLE: Final = TABLES["raw/metadata/metadata"]
_BATCH: Final = 8192
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BRACKET: Final = re.compile(rb"[\[{(]|[\]})]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class MetadataSummary:
    """What became of the lines of a metadata file: lines = rows + quarantined."""

    lines: int
    rows: int
    quarantined: int
    python_literals: int
    """Rows that were Python literals, not JSON."""
    reasons: dict[str, int] = field(default_factory=dict)


class Product(NamedTuple):
    """One line of a metadata file."""

    item_id: str
    title: str
    brand: str
    description: list[str]
    categories: list[str]
    image_urls: list[str]


def ingest_metadata(source: Path, out: Path, progress: Progress | None = None) -> MetadataSummary:
    """Turn ``meta_CATEGORY.json`` (plain or gzip) into ``metadata.parquet`` and ``quarantine.parquet``.

    Both are sorted by line. Streams: memory does not grow with the file.

    Raises:
        WarehouseError: the file is missing, empty, cut or damaged, or none of its lines is a product.
    """
    with (
        ParquetSink(out / "metadata.parquet", _TABLE) as metadata,
        Quarantine(out / "quarantine.parquet", TABLES["raw/metadata/quarantine"]) as quarantine,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a Python literal
        warnings.simplefilter("ignore", DeprecationWarning)  # the same, before Python 3.12
        literals = 0
        for block in blocks(source, LONGEST_LINE, progress):
            for lines in _batches(block):
                rows: list[tuple[int, *tuple[Any, ...]]] = []
                for number, line in lines:
                    match read_line(line):
                        case str(reason):
                            quarantine.add(number, reason, line)
                        case product, is_literal:
                            rows.append((number, *product))
                            literals += is_literal
                if rows:
                    columns = zip(zip(*rows, strict=True), _TABLE.types, strict=True)
                    arrays = [pa.array(column, kind) for column, kind in columns]
                    metadata.write(pa.RecordBatch.from_arrays(arrays, schema=_TABLE))
        if not metadata.rows:
            raise WarehouseError(
                f"{source}: none of its {quarantine.total:,} lines is a product ({quarantine.reasons}); "
                "a metadata file has one JSON object with an asin a line: point to that file"
            )
        return MetadataSummary(
            metadata.rows + quarantine.total,
            metadata.rows,
            quarantine.total,
            literals,
            dict(sorted(quarantine.reasons.items())),
        )


def read_line(line: bytes) -> tuple[Product, bool] | str:
    """One line as a product, and whether it was a Python literal; or the reason why it is none."""
    if len(line) > LONGEST_LINE:
        return "line is too long"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    is_literal = False
    try:
        record = json.loads(text)
    except RecursionError:
        return "nested too deeply"
    except ValueError:
        record = _read_literal(line, text)
        is_literal = True
        if isinstance(record, str):
            return record
    if not isinstance(record, dict):
        return "not an object"
    item_id = record.get("asin")
    if not isinstance(item_id, str) or not item_id:
        return "asin is missing or not text"
    if _CONTROL.search(item_id) or _SURROGATE.search(item_id):
        return "control character in the asin"
    if len(item_id.encode()) > LONGEST_ID:
        return "asin is too long"
    pictures = (record.get(name) for name in ("imageURLHighRes", "imageURL", "image", "imUrl"))
    return Product(
        item_id,
        " ".join(_texts(record.get("title"))),
        " ".join(_texts(record.get("brand"))),
        list(_texts(record.get("description"))),
        list(dict.fromkeys(_texts(record.get("category") or record.get("categories")))),
        list(dict.fromkeys(url.strip() for value in pictures for url in _texts(value))),
    ), is_literal


def _read_literal(line: bytes, text: str) -> dict[Any, Any] | str:
    """A line as a Python dictionary of literals, or the reason why it is none.

    Length and nesting are bounded before Python's parser sees it.
    """
    if not (line.startswith(b"{") and line.rstrip().endswith(b"}")):
        return "neither JSON nor a Python literal"
    if len(line) > LONGEST_LITERAL:
        return "Python literal is too long"
    depth = 0
    for bracket in _BRACKET.findall(line):  # those inside strings count too: they seldom open more than they close
        depth += 1 if bracket in b"[{(" else -1
        if depth > DEEPEST:
            return "nested too deeply"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "neither JSON nor a Python literal"
    return value if isinstance(value, dict) else "not an object"


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a value of any shape, without blank ones; surrogates without a partner become U+FFFD."""
    if isinstance(value, str):
        if value and not value.isspace():
            yield _SURROGATE.sub("\ufffd", value)
    elif isinstance(value, list | tuple) and depth < DEEPEST:
        for part in value:
            yield from _texts(part, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        yield str(value)  # a title such as 1984; NaN and what no title can be are left out


def _batches(block: Block) -> Iterator[list[tuple[int, bytes]]]:
    lines = block.data.removesuffix(b"\n").split(b"\n")
    for start in range(0, len(lines), _BATCH):
        yield list(enumerate(lines[start : start + _BATCH], block.first_line + start))
