"""Ratings files of any size that resemble Amazon's: grouped by item, whole days, heavy-tailed users and items."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["write_items", "write_ratings"]

_DAY: Final = 86_400
_CHUNK: Final = 1 << 20
_DIGITS: Final = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
_USERS_A_ROW: Final = 1 / 2.2
_ITEMS_A_ROW: Final = 1 / 17
_USER_TAIL: Final = 2.75
_ITEM_TAIL: Final = 6
"""The constants above are chosen so that the 5-core keeps the same share as in the five published source domains: 31%
of 45.7M ratings, with 34 ratings per user, and 80 ratings per item (102 in the published domains)."""
_REPEATED: Final = 0.012
"""Share of lines that repeat an earlier line, as in Magazine_Subscriptions."""
_WITHOUT_METADATA: Final = 0.02

Codes = npt.NDArray[np.int64]
Text = npt.NDArray[np.uint8]


def write_ratings(path: Path, rows: int, seed: int = 0) -> None:
    """Write ``item,user,rating,time`` lines. Memory does not grow with `rows`."""
    random = np.random.default_rng(seed)
    users, items = int(rows * _USERS_A_ROW) + 1, int(rows * _ITEMS_A_ROW) + 1
    with path.open("wb") as file:
        for start in range(0, rows, _CHUNK):
            size = min(_CHUNK, rows - start)
            # Lines are grouped by item; the share of the k-th item falls like k^(1/tail - 1).
            item = (items * ((start + np.arange(size)) / rows) ** _ITEM_TAIL).astype(np.int64)
            user = (users * random.random(size) ** _USER_TAIL).astype(np.int64)
            stars = random.choice(5, size, p=[0.08, 0.05, 0.09, 0.18, 0.60]) + 1
            day = 11_000 + (6_800 * random.random(size) ** 0.4).astype(np.int64)
            again = np.flatnonzero(random.random(size) < _REPEATED)
            again = again[again > 0]
            for column in (item, user, stars, day):
                column[again] = column[again - 1]
            file.write(_lines(item, user, stars, day * _DAY).tobytes())


def write_items(path: Path, rows: int) -> None:
    """Write the sorted ids of the items that have metadata: the only column of ``core/items`` that the ratings need."""
    items = int(rows * _ITEMS_A_ROW) + 1
    known = np.flatnonzero(np.random.default_rng(0).random(items) >= _WITHOUT_METADATA)
    text = np.concatenate([np.full((len(known), 1), ord("B"), np.uint8), _ids(known, 9)], axis=1)
    ids = pa.array(np.sort(text.view("S10").ravel())).cast(pa.string())
    pq.write_table(pa.table({"item_id": ids}), path)


def _lines(item: Codes, user: Codes, stars: Codes, time: Codes) -> Text:
    size = len(item)

    def constant(text: bytes) -> Text:
        return np.broadcast_to(np.frombuffer(text, np.uint8), (size, len(text)))

    return np.concatenate(
        [
            constant(b"B"),
            _ids(item, 9),
            constant(b",A"),
            _ids(user, 12),
            constant(b","),
            (stars[:, None] + ord("0")).astype(np.uint8),
            constant(b".0,"),
            _decimal(time, 10),
            constant(b"\n"),
        ],
        axis=1,
    )


def _ids(codes: Codes, width: int) -> Text:
    """Ids of `width` characters: unique for each code, and in no order."""
    bits = int(width * np.log2(36))
    mask = (1 << bits) - 1
    mixed = codes * 0x1E3779B97F4A7C15 & mask
    return _base36((mixed ^ (mixed >> bits // 2)) * 0x5851F42D4C957F2D & mask, width)


def _base36(codes: Codes, width: int) -> Text:
    text = np.empty((len(codes), width), np.uint8)
    for place in range(width - 1, -1, -1):
        codes, digit = np.divmod(codes, 36)
        text[:, place] = _DIGITS[digit]
    return text


def _decimal(values: Codes, width: int) -> Text:
    text = np.empty((len(values), width), np.uint8)
    for place in range(width - 1, -1, -1):
        values, digit = np.divmod(values, 10)
        text[:, place] = digit + ord("0")
    return text
