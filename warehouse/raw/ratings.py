"""raw/ratings: the ratings file of a category, read line by line into a table.

A line is ``item,user,rating,unix time``, without a header and without quoting. Arrow reads whole blocks of lines. A
block that it refuses is halved again and again; small blocks are read line by line by `read_line`, which defines what a
rating is, in plain code. So a bad line costs only a little time, and every line of the file ends up either in the table
or, with a reason, in the quarantine.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from warehouse.artifacts.progress import Progress
from warehouse.artifacts.threads import available_cores, map_in_order
from warehouse.parquet import ParquetSink
from warehouse.raw import causes
from warehouse.raw.lines import Block, Causes, Quarantine, blocks
from warehouse.tables import TABLES

__all__ = ["RatingsSummary", "ingest_ratings"]

LONGEST_LINE: Final = 64 << 10
LONGEST_ID: Final = 255
LATEST_TIME: Final = 4_102_444_800
"""2100-01-01. Larger values are not seconds, but milliseconds or noise."""
_EARLIEST_MILLISECONDS: Final = 100_000_000_000
"""1973-03-03 if read as milliseconds; read as seconds, the year 5138."""

_TABLE: Final = TABLES["raw/ratings/ratings"]
_LINE_BY_LINE_BYTES: Final = 32 << 10
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


def ingest_ratings(source: Path, out: Path, progress: Progress | None = None) -> RatingsSummary:
    """Turn ``CATEGORY.csv`` (plain or gzip) into ``ratings.parquet`` and ``quarantine.parquet``.

    Both are sorted by line. The file is streamed: memory does not grow with its size.

    Raises:
        DataError: the file is missing, empty, cut off or damaged, or hardly any of its lines is a rating.
    """

    def read(quarantine: Quarantine) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(available_cores()) as pool:
            for block, batch in map_in_order(pool, _tried, blocks(source, LONGEST_LINE, progress)):
                yield from _rows(block, batch, quarantine)

    layout = "a ratings file has the columns item,user,rating,unix time and no header"
    return write_ratings(source, out, read, "rating", layout, lambda lines: causes.of_ratings(source, lines))


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


def read_line(line: bytes) -> Rating | str:
    """One line, without its line end, as a rating; or the reason why it is not a rating."""
    if len(line) > LONGEST_LINE:
        return "line is too long"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    if line.count(b"\t") == 3:
        return "tabs between the fields, not commas"
    if any(code < 32 for code in line):
        return "control character"
    fields = text.split(",")
    if len(fields) != 4:
        return "semicolons between the fields, not commas" if text.count(";") == 3 else "wrong number of fields"
    item_id, user_id, rating, time = fields
    return checked(item_id, user_id, number(rating), number(time))


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
    if _EARLIEST_MILLISECONDS <= time <= 1000 * LATEST_TIME:
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
    seconds = times.astype(np.int64)
    if not (seconds == times).all():
        return None
    return pa.RecordBatch.from_arrays([lines, item_ids, user_ids, pa.array(rounded), pa.array(seconds)], schema=_TABLE)


def number(text: str) -> float:
    """A text as a number; NaN if it is not a number."""
    try:
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:
        return math.nan


def _as_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


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


def _tried(block: Block) -> tuple[Block, pa.RecordBatch | None]:
    return block, _read_at_once(block)


def _rows(block: Block, batch: pa.RecordBatch | None, quarantine: Quarantine) -> Iterator[pa.RecordBatch]:
    """The rows of a block: the `batch` that was read at once; if that is None, the rows of its halves or lines."""
    if batch is not None:
        yield batch
        return
    middle = block.data.rfind(b"\n", 0, len(block.data) // 2) + 1
    if len(block.data) > _LINE_BY_LINE_BYTES and middle:
        first, second = block.data[:middle], block.data[middle:]
        for half in (Block(block.first_line, first), Block(block.first_line + first.count(b"\n"), second)):
            yield from _rows(half, _read_at_once(half), quarantine)
    else:
        lines = block.data.removesuffix(b"\n").split(b"\n")
        yield read_line_by_line(block.first_line, lines, read_line, quarantine)


def _read_at_once(block: Block) -> pa.RecordBatch | None:
    """The block's rows, or None if a line might not be a rating. Never accepts what `read_line` refuses."""
    data = block.data
    bytes_ = np.frombuffer(data, np.uint8)
    # In a clean block the line feed is the only control character. Arrow would read a carriage return as a line end,
    # and drop a byte order mark. If a line is too long, some window of half the limit contains no line feed.
    window = LONGEST_LINE // 2
    if (
        np.count_nonzero(bytes_ < 32) != np.count_nonzero(bytes_ == 10)
        or data.startswith(b"\xef\xbb\xbf")
        or any(data.find(b"\n", start, start + window) < 0 for start in range(0, len(data) - window, window))
    ):
        return None
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(
                column_names=["item_id", "user_id", "rating", "time"], block_size=1 << 20, use_threads=False
            ),
            pa.csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False),
            pa.csv.ConvertOptions(
                # Both numbers are read as float64, which is exact for every valid time; as an integer Arrow would also
                # accept "0x1F".
                column_types={
                    "item_id": "string",
                    "user_id": "string",
                    "rating": "float64",
                    "time": "float64",
                },
                null_values=[],
                check_utf8=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    lines = np.arange(block.first_line, block.first_line + table.num_rows, dtype=np.int64)
    return checked_at_once(
        pa.array(lines),
        table["item_id"].combine_chunks(),
        table["user_id"].combine_chunks(),
        table["rating"].to_numpy(),
        table["time"].to_numpy(),
    )
