"""raw/ratings: the ratings file of a category, read line by line into a table.

A line is ``item,user,rating,unix time``, without a header and without quoting. Arrow reads whole blocks of lines. A
block that it refuses is halved again and again; small blocks are read line by line by `read_line`, which defines what a
rating is, in plain code. So a bad line costs only a little time, and every line of the file ends up either in the table
or, with a reason, in the quarantine. `warehouse.raw.rating_rows` has what all files of ratings share.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from warehouse.artifacts.progress import Progress
from warehouse.artifacts.threads import available_cores, map_in_order
from warehouse.raw import causes
from warehouse.raw.lines import Block, Quarantine, blocks
from warehouse.raw.rating_rows import (
    Rating,
    RatingsSummary,
    checked,
    checked_at_once,
    number,
    read_line_by_line,
    write_ratings,
)

__all__ = ["ingest_ratings"]

LONGEST_LINE: Final = 64 << 10
_LINE_BY_LINE_BYTES: Final = 32 << 10


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
