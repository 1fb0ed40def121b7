"""raw/ratings from reviews: ``CATEGORY_5.json``, line by line, as the same table as the ratings-only file.

A line is a JSON object or, in older files, a Python literal, with ``asin``, ``reviewerID``, ``overall`` (stars) and
``unixReviewTime`` (seconds); text, votes and the rest are not read. What a rating is, `warehouse.ratings` says for
both files. The 5-core of these files is theirs, not ours: `warehouse.sequences` filters them like any other.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from warehouse.errors import WarehouseError
from warehouse.parquet import ParquetSink
from warehouse.ratings import Rating, RatingsSummary, checked, checked_at_once, ingest_ratings
from warehouse.raw import Progress, Quarantine, blocks
from warehouse.records import LONGEST_LINE, SURROGATE, Batch, decode, read_record, usual_ids
from warehouse.tables import TABLES

__all__ = ["ingest_either", "ingest_reviews"]

_TABLE: Final = TABLES["raw/ratings/ratings"]


class _Fields(msgspec.Struct, gc=False):
    """The fields of a review in their usual shapes. What has another shape is left to `read_line`."""

    asin: str
    reviewerID: str  # noqa: N815
    overall: float
    unixReviewTime: float  # noqa: N815


_DECODER: Final = msgspec.json.Decoder(_Fields)


def ingest_either(source: Path, out: Path, progress: Progress | None = None) -> RatingsSummary:
    """`ingest_reviews` of a file that is named ``.json`` or ``.json.gz``, `ingest_ratings` of any other."""
    reviews = source.name.endswith((".json", ".json.gz"))
    return (ingest_reviews if reviews else ingest_ratings)(source, out, progress)


def ingest_reviews(source: Path, out: Path, progress: Progress | None = None) -> RatingsSummary:
    """Turn ``CATEGORY_5.json`` (plain or gzip) into ``ratings.parquet`` and ``quarantine.parquet``.

    Both are sorted by line. Streams: memory does not grow with the file.

    Raises:
        WarehouseError: the file is missing, empty, cut or damaged, or none of its lines is a review.
    """
    with (
        ParquetSink(out / "ratings.parquet", _TABLE) as ratings,
        Quarantine(out / "quarantine.parquet", TABLES["raw/ratings/quarantine"]) as quarantine,
    ):
        for block in blocks(source, LONGEST_LINE, progress):
            for batch in decode(block, _DECODER):
                ratings.write(_read_at_once(batch) or _read_line_by_line(batch, quarantine))
        if not ratings.rows:
            raise WarehouseError(
                f"{source}: none of its {quarantine.total:,} lines is a review ({quarantine.reasons}); a review file "
                "has one JSON object with asin, reviewerID, overall and unixReviewTime a line: point to that file"
            )
        return RatingsSummary(
            ratings.rows + quarantine.total,
            ratings.rows,
            quarantine.total,
            dict(sorted(quarantine.reasons.items())),
        )


def read_line(line: bytes) -> Rating | str:
    """One line, without its end, as a rating; or the reason why it is none."""
    read = read_record(line)
    if isinstance(read, str):
        return read
    record, _ = read
    item_id, user_id = record.get("asin"), record.get("reviewerID")
    if not (isinstance(item_id, str) and isinstance(user_id, str)):
        return "asin or reviewerID is missing or not text"
    if any(ord(character) < 32 for character in item_id + user_id) or SURROGATE.search(item_id + user_id):
        return "control character"
    return checked(item_id, user_id, _number(record.get("overall")), _number(record.get("unixReviewTime")))


def _number(value: Any) -> float:
    """A number as float; anything else, truth values and text among it, is NaN."""
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


def _read_line_by_line(batch: Batch[_Fields], quarantine: Quarantine) -> pa.RecordBatch:
    rows: list[tuple[int, str, str, float, int]] = []
    for number, line in enumerate(batch.lines(), batch.first_line):
        match read_line(line):
            case str(reason):
                quarantine.add(number, reason, line)
            case rating:
                rows.append((number, *rating))
    columns = zip(*rows, strict=True) if rows else [()] * len(_TABLE)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _TABLE.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_TABLE)
