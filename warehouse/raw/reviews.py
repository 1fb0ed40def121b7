"""raw/ratings from reviews: ``CATEGORY_5.json``, read line by line into the same table as the ratings-only file.

A line is a JSON object or, in older files, a Python literal, with ``asin``, ``reviewerID``, ``overall`` (stars) and
``unixReviewTime`` (seconds). If ``unixReviewTime`` is missing, ``reviewTime`` counts (a day, such as ``09 1, 2016``).
Numbers may be texts. The review's text, votes and other fields are not read. `warehouse.raw.rating_rows` defines what
a rating is, for both files. The publisher made the 5-core of these files; `warehouse.core.sequences` still computes the
k-core, as for any other file.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from warehouse.artifacts.progress import Progress
from warehouse.raw import causes
from warehouse.raw.lines import Quarantine, blocks
from warehouse.raw.rating_rows import (
    Rating,
    RatingsSummary,
    checked,
    checked_at_once,
    number,
    read_line_by_line,
    write_ratings,
)
from warehouse.raw.records import LONGEST_LINE, SURROGATE, Batch, decode, read_record, usual_ids

__all__ = ["ingest_reviews"]


class _Fields(msgspec.Struct, gc=False):
    """The fields of a review in their usual shapes. `read_line` reads reviews with other shapes."""

    asin: str
    reviewerID: str  # noqa: N815
    overall: float
    unixReviewTime: float  # noqa: N815


_DECODER: Final = msgspec.json.Decoder(_Fields)
_DAY: Final = re.compile(r"([0-9]{1,2}) ([0-9]{1,2}), ([0-9]{4})", re.ASCII)


def ingest_reviews(source: Path, out: Path, progress: Progress | None = None) -> RatingsSummary:
    """Turn ``CATEGORY_5.json`` (plain or gzip) into ``ratings.parquet`` and ``quarantine.parquet``.

    Both are sorted by line. The file is streamed: memory does not grow with its size.

    Raises:
        DataError: the file is missing, empty, cut off or damaged, or hardly any of its lines is a review.
    """

    def read(quarantine: Quarantine) -> Iterator[pa.RecordBatch]:
        for block in blocks(source, LONGEST_LINE, progress):
            for batch in decode(block, _DECODER):
                rows = _read_at_once(batch)
                yield rows or read_line_by_line(batch.first_line, batch.lines(), read_line, quarantine)

    layout = "a review file has one JSON object with asin, reviewerID, overall and unixReviewTime per line"

    def likely(lines: Sequence[bytes]) -> list[str]:
        return causes.of_records(lines, ["asin", "reviewerID", "overall"])

    return write_ratings(source, out, read, "review", layout, likely)


def read_line(line: bytes) -> Rating | str:
    """One line, without its line end, as a rating; or the reason why it is not a rating."""
    read = read_record(line)
    if isinstance(read, str):
        return read
    record, _ = read
    item_id, user_id = record.get("asin"), record.get("reviewerID")
    if not (isinstance(item_id, str) and isinstance(user_id, str)):
        return "asin or reviewerID is missing or not text"
    if any(ord(character) < 32 for character in item_id + user_id) or SURROGATE.search(item_id + user_id):
        return "control character"
    seconds = record.get("unixReviewTime")
    time = _day(record.get("reviewTime")) if seconds is None else _number(seconds)
    return checked(item_id, user_id, _number(record.get("overall")), time)


def _day(value: Any) -> float:
    """Unix seconds at the beginning of a day in UTC, as in `unixReviewTime`; NaN if the value is not a day."""
    found = _DAY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return float("nan")
    month, day, year = map(int, found.groups())
    try:
        return datetime(year, month, day, tzinfo=UTC).timestamp()
    except ValueError:
        return float("nan")


def _number(value: Any) -> float:
    """A number as float, also if it is written as a text; NaN for anything else, including booleans."""
    if isinstance(value, str):
        return number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _read_at_once(batch: Batch[_Fields]) -> pa.RecordBatch | None:
    """The batch's rows, or None if a line might not be a rating. Never accepts what `read_line` refuses."""
    rows = [row for row in batch.records if row is not None]
    item_ids, user_ids = [row.asin for row in rows], [row.reviewerID for row in rows]
    if len(rows) < len(batch.records) or not (usual_ids(item_ids) and usual_ids(user_ids)):
        return None
    lines = np.arange(batch.first_line, batch.first_line + len(rows), dtype=np.int64)
    return checked_at_once(
        pa.array(lines),
        pa.array(item_ids, pa.string()),
        pa.array(user_ids, pa.string()),
        np.array([row.overall for row in rows], np.float64),
        np.array([row.unixReviewTime for row in rows], np.float64),
    )
