"""core/interactions: the distinct ratings of items that have metadata, limited to those that a domain asks for.

Duplicates are found by fingerprints, which are hashes of rows. Each fingerprint and the number of its line share 64
bits, and these are sorted as plain integers, which is much cheaper than grouping the rows themselves. The tables are
written from what the fingerprints say, and during this the rows that share a fingerprint are compared in full. If two
different rows had the same fingerprint, the tables are written again. So the result is exact, even if hashes collide.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.artifacts.threads import map_in_order
from warehouse.core.settings import Wanted
from warehouse.duck import Engine, connect, pattern, stream, table
from warehouse.errors import DataError
from warehouse.parquet import ParquetSink, rows_of
from warehouse.tables import TABLES

__all__ = ["InteractionsSummary", "build_interactions"]

REASONS: Final = ("", "exact_duplicate", "no_metadata", "below_minimum_rating", "outside_time_window")
"""Why a rating is no interaction, at the numbers that ``judged_ratings.sql`` gives; the first reason that applies
counts."""

_ALIKE: Final[dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]]] = {
    "blanks": pc.utf8_trim_whitespace,
    "quotation marks": partial(pc.utf8_trim, characters="'\""),
    "leading zeros, which spreadsheets drop": partial(pc.utf8_ltrim, characters="0"),
    "capitals": pc.utf8_lower,
}
"""What can make two ids differ that mean the same item, and the function that removes it."""

Lines = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InteractionsSummary:
    """What became of the ratings: ratings = interactions + the sum of `rejected`, which counts them by reason."""

    ratings: int
    interactions: int
    rejected: dict[str, int] = field(default_factory=dict)


def build_interactions(
    ratings: Path, items: Path, out: Path, wanted: Wanted | None = None, engine: Engine | None = None
) -> InteractionsSummary:
    """Make ``interactions.parquet`` and ``rejected.parquet`` from the files of ``raw/ratings`` and ``core/items``.

    Of rows that are equal in user, item, rating and time, the first line is kept and the others are rejected as
    `exact_duplicate`. Then ratings of items without metadata are rejected (`no_metadata`), then those that `wanted`
    excludes. If a user rated an item twice at different times, both ratings are kept. Memory: about 20 bytes per
    rating, plus the ids of the items.

    Raises:
        DataError: no rating is left.
    """
    wanted = wanted or Wanted()
    engine = engine or Engine()
    source = {"ratings": pattern(ratings)}
    limits = {"minimum_rating": wanted.minimum_rating, "since": wanted.since, "until": wanted.until}
    with connect(engine, out) as connection:
        last: int = table(connection, "last_line", source)["line"][0].as_py()
        reasons = np.zeros(last + 1, np.uint8)
        fingerprints = _Fingerprints(last)
        for batch in stream(connection, "judged_ratings", {**source, **limits, "items": pattern(items)}):
            lines = batch["line"].to_numpy()
            reasons[lines] = batch["reason"].to_numpy()
            fingerprints.add(batch["fingerprint"].to_numpy(), lines)
        suspects, repeats = fingerprints.repeated(engine.threads)
        del fingerprints
        others = reasons[suspects]
        while True:
            reasons[suspects] = np.where(repeats, REASONS.index("exact_duplicate"), others)
            kept, rows = _write(ratings, reasons, suspects, out, engine.threads)
            connection.register("suspects", rows)
            found = np.isin(suspects, table(connection, "duplicates")["line"].to_numpy())
            if (found == repeats).all():
                break
            repeats = found
    counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
    rejected = dict(zip(REASONS[1:], counts[1:], strict=True))
    if not kept and not any(rejected[reason] for reason in REASONS[3:]):
        raise DataError(
            f"none of the {rows_of(ratings):,} ratings is of an item that has metadata: {_mismatch(ratings, items)}"
        )
    if not kept:
        raise DataError(
            f"none of the {rows_of(ratings):,} ratings is left ({_counted(rejected)}): check that the two "
            "raw files are of the same category, and check minimum_rating, since and until of the domain"
        )
    return InteractionsSummary(rows_of(ratings), kept, rejected)


def _counted(rejected: Mapping[str, int]) -> str:
    """The reasons that occur, in words: 12 exact duplicate, 3 below minimum rating."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in rejected.items() if count)


def _mismatch(ratings: Path, items: Path) -> str:
    """Why no rating finds its item: an id from each file, and the likely cause. Looks at the first ratings only."""
    with pq.ParquetFile(ratings) as file:
        rated = file.read_row_group(0, columns=["item_id", "user_id"])
    known = pq.read_table(items, columns=["item_id"])["item_id"]
    shown = (
        f"the first rating is of {rated['item_id'][0].as_py()!r} by {rated['user_id'][0].as_py()!r}, and an item with "
        f"metadata is {known[0].as_py()!r}"
    )
    if pc.any(pc.is_in(rated["user_id"], known)).as_py():
        return f"{shown}; the ratings have user and item swapped: put the item first"
    for cause, alike in _ALIKE.items():
        if pc.any(pc.is_in(alike(rated["item_id"]), alike(known))).as_py():
            have = {"ratings": rated["item_id"], "metadata": known}
            having = [name for name, ids in have.items() if pc.any(pc.not_equal(alike(ids), ids)).as_py()]
            where = f"{cause}, and only the {having[0]} have them" if len(having) == 1 else cause
            return f"{shown}; they differ only in {where}: fix the file that has the wrong form"
    return f"{shown}; check that the two raw files are of the same category"


class _Fingerprints:
    """Fingerprints of lines, each packed with its line into one integer.

    They are kept in parts by their first bits, so that each part can be sorted separately.
    """

    BITS = 64
    _PART_BITS: Final = 6

    def __init__(self, last_line: int) -> None:
        self._line = np.uint64((1 << last_line.bit_length()) - 1)
        self._parts: list[list[npt.NDArray[np.uint64]]] = [[] for _ in range(1 << self._PART_BITS)]
        self._whole = np.empty(last_line + 1, np.uint64)

    def add(self, fingerprints: npt.NDArray[np.uint64], lines: Lines) -> None:
        """Add lines, in any order."""
        fingerprints = fingerprints & np.uint64((1 << self.BITS) - 1)
        self._whole[lines] = fingerprints
        part = (fingerprints >> np.uint64(self.BITS - self._PART_BITS)).astype(np.uint8)
        packed = (fingerprints & ~self._line | lines.view(np.uint64))[np.argsort(part, kind="stable")]
        borders = np.cumsum(np.bincount(part, minlength=len(self._parts)))[:-1]
        for column, values in zip(self._parts, np.split(packed, borders), strict=True):
            column.append(values)

    def repeated(self, threads: int) -> tuple[Lines, npt.NDArray[np.bool_]]:
        """The lines that share their fingerprint with another line, ascending, and which of them repeat an earlier one.

        Call it only once.
        """
        with ThreadPoolExecutor(threads) as pool:
            lines = np.sort(np.concatenate(list(pool.map(self._suspects, self._parts))))
        # In the packed integers the line replaced some bits of the fingerprint: now all bits are compared.
        fingerprints = self._whole[lines]
        order = np.argsort(fingerprints, kind="stable")
        repeats = np.zeros(len(lines), np.bool_)
        repeats[order[1:]] = fingerprints[order[1:]] == fingerprints[order[:-1]]
        first = np.zeros(len(lines), np.bool_)
        first[order[:-1]] = repeats[order[1:]]
        accused = repeats | first
        return lines[accused], repeats[accused]

    def _suspects(self, part: list[npt.NDArray[np.uint64]]) -> Lines:
        packed = np.concatenate([np.empty(0, np.uint64), *part])
        part.clear()
        packed = packed[self._occur_repeatedly(packed)]
        packed.sort()
        same = packed[1:] ^ packed[:-1] <= self._line
        suspect = np.zeros(len(packed), np.bool_)
        suspect[1:] = same
        suspect[:-1] |= same
        return (packed[suspect] & self._line).view(np.int64)

    def _occur_repeatedly(self, packed: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which integers share some of their bits, their bucket, with another one: about a sixth.

        Only these must be sorted; to sort all would be most of the work. Each integer writes its place into its
        bucket. If it then reads another place there, both integers share the bucket.
        """
        bits = min(len(packed).bit_length() + 2, 64 - self._PART_BITS - int(self._line).bit_length())
        buckets = packed << np.uint64(self._PART_BITS)
        buckets >>= np.uint64(64 - bits)
        places = np.arange(len(packed), dtype=np.int32)
        last = np.empty(1 << bits, np.int32)
        last[buckets.view(np.int64)] = places
        found = last[buckets.view(np.int64)]
        shared: npt.NDArray[np.bool_] = found != places
        shared[found[shared]] = True
        return shared


def _write(
    ratings: Path, reasons: npt.NDArray[np.uint8], suspects: Lines, out: Path, threads: int
) -> tuple[int, pa.Table]:
    """Write every rating to one of the two files; return the number of interactions, and the rows of `suspects`."""
    footer = pq.read_metadata(ratings)
    judge = partial(_judged, ratings, footer, reasons, suspects)
    rows = []
    with (
        ThreadPoolExecutor(threads) as pool,
        ParquetSink(out / "interactions.parquet", TABLES["core/interactions/interactions"]) as interactions,
        ParquetSink(out / "rejected.parquet", TABLES["core/interactions/rejected"]) as rejected,
    ):
        for kept, gone, accused in map_in_order(pool, judge, range(footer.num_row_groups)):
            interactions.write(kept)
            rejected.write(gone)
            rows.append(accused)
    return interactions.rows, pa.concat_tables(rows)


def _judged(
    ratings: Path, footer: pq.FileMetaData, reasons: npt.NDArray[np.uint8], suspects: Lines, group: int
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """One row group, in the order of the file: interactions, rejected ratings with the reason, and the `suspects`."""
    with pq.ParquetFile(ratings, metadata=footer) as file:
        rows = file.read_row_group(group, use_threads=False)
    lines = rows["line"].to_numpy()
    accused = suspects[np.searchsorted(suspects, lines[0]) : np.searchsorted(suspects, lines[-1], "right")]
    reason = reasons[lines]
    gone = np.flatnonzero(reason)
    return (
        rows.rename_columns({"line": "position"}).filter(pa.array(reason == 0)),
        rows.take(pa.array(gone)).append_column("reason", pa.array(REASONS).take(pa.array(reason[gone]))),
        rows.take(pa.array(np.searchsorted(lines, accused))),
    )
