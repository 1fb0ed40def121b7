"""What all readers of ratings share: what a rating is, whatever its file looks like, and the writing of raw/ratings.

The reader of a format turns each of its lines into a rating with `checked`, or many lines at once with
`checked_at_once`, and passes the rows to `write_ratings`. `warehouse.raw.lines` cuts a file into lines;
`warehouse.raw.records` decodes lines that hold JSON.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.parquet import ParquetSink
from warehouse.raw.lines import Causes, Quarantine
from warehouse.tables import TABLES

__all__ = [
    "EARLIEST_MILLISECONDS",
    "EARLIEST_SECONDS",
    "LATEST_TIME",
    "Rating",
    "RatingsSummary",
    "checked",
    "checked_at_once",
    "number",
    "read_line_by_line",
    "write_ratings",
]

LONGEST_ID: Final = 255
LATEST_TIME: Final = 4_102_444_800
"""2100-01-01. Larger values are not seconds, but milliseconds or noise."""
EARLIEST_SECONDS: Final = 100_000_000
"""1973-03-03. Below it, a number is no time of a shop's rating; above it, none of stars."""
EARLIEST_MILLISECONDS: Final = 100_000_000_000
"""1973-03-03 if read as milliseconds; read as seconds, the year 5138."""

_TABLE: Final = TABLES["raw/ratings/ratings"]
_NUMBER: Final = re.compile(r"[ \t]*[-+.0-9eE]+[ \t]*")


@dataclass(frozen=True)
class RatingsSummary:
    """What became of the lines of a ratings file: lines = rows + quarantined."""

    lines: int
    rows: int
    quarantined: int
    reasons: dict[str, int] = field(default_factory=dict)


class Rating(NamedTuple):
    """One line of a ratings file; the rating is rounded to float32."""

    item_id: str
    user_id: str
    rating: float
    time: int


def write_ratings(
    source: Path,
    out: Path,
    read: Callable[[Quarantine], Iterator[pa.RecordBatch]],
    kind: str,
    layout: str,
    likely: Causes,
) -> RatingsSummary:
    """Write the rows of `read` to ``ratings.parquet``, and the lines that it sets aside to ``quarantine.parquet``.

    Raises:
        DataError: hardly any line of `source` is a `kind`. The message quotes `layout`, what a good file looks like,
            and what is `likely` wrong with the first unreadable lines.
    """
    with (
        ParquetSink(out / "ratings.parquet", _TABLE) as ratings,
        Quarantine(
            out / "quarantine.parquet", TABLES["raw/ratings/quarantine"], source, kind, layout, likely
        ) as quarantine,
    ):
        ratings.write_all(read(quarantine))
        if not ratings.rows:
            raise quarantine.refusal(f"none of its {quarantine.total:,} lines is")
        return RatingsSummary(
            ratings.rows + quarantine.total,
            ratings.rows,
            quarantine.total,
            dict(sorted(quarantine.reasons.items())),
        )


def checked(item_id: str, user_id: str, rating: float, time: float) -> Rating | str:
    """These values as a rating, or the reason why they are not a rating, whatever file they come from."""
    if not item_id or not user_id:
        return "empty id"
    if max(len(item_id.encode()), len(user_id.encode())) > LONGEST_ID:
        return "id is too long"
    rating = _as_float32(rating)
    if not math.isfinite(rating):
        return "rating is not a finite number"
    if not time.is_integer():
        return "time is not a whole number"
    if rating >= EARLIEST_SECONDS > time:
        return "rating and time are swapped"
    if EARLIEST_MILLISECONDS <= time <= 1000 * LATEST_TIME:
        return "time is in milliseconds, not in seconds"
    if not 0 <= time <= LATEST_TIME:
        return "time is out of range"
    return Rating(item_id, user_id, rating, int(time))


def checked_at_once(
    lines: pa.Int64Array,
    item_ids: pa.StringArray,
    user_ids: pa.StringArray,
    ratings: npt.NDArray[np.float64],
    times: npt.NDArray[np.float64],
) -> pa.RecordBatch | None:
    """The same as `checked` for whole columns; None if they hold any value that `checked` refuses."""
    for ids in (item_ids, user_ids):
        lengths = pc.min_max(pc.binary_length(ids)).as_py()
        if lengths["min"] == 0 or lengths["max"] > LONGEST_ID:
            return None
    with np.errstate(over="ignore"):
        rounded = ratings.astype(np.float32)
    if not (np.isfinite(rounded).all() and (times >= 0).all() and (times <= LATEST_TIME).all()):
        return None
    if ((rounded >= EARLIEST_SECONDS) & (times < EARLIEST_SECONDS)).any():
        return None
    seconds = times.astype(np.int64)
    if not (seconds == times).all():
        return None
    return pa.RecordBatch.from_arrays([lines, item_ids, user_ids, pa.array(rounded), pa.array(seconds)], schema=_TABLE)


def read_line_by_line(
    first_line: int, lines: Iterable[bytes], read: Callable[[bytes], Rating | str], quarantine: Quarantine
) -> pa.RecordBatch:
    """The lines that `read` accepts, as rows; the others are set aside."""
    rows: list[tuple[int, str, str, float, int]] = []
    for number, line in enumerate(lines, first_line):
        match read(line):
            case str(reason):
                quarantine.add(number, reason, line)
            case rating:
                rows.append((number, *rating))
    columns = zip(*rows, strict=True) if rows else [()] * len(_TABLE)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _TABLE.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_TABLE)


def number(text: str) -> float:
    """A text as a number; NaN if it is not a number."""
    try:
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:
        return math.nan


def _as_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
