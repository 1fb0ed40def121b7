"""core/interactions: distinct ratings of items that have metadata, and of those the ones a domain asks for.

Duplicates are found in two steps. Fingerprints of all lines, each with its line packed into the same 64 bits, are
sorted as plain integers, which costs a fraction of grouping the rows themselves; lines that share a fingerprint are
suspects, and only those are compared in full. So the answer is exact, whatever the hash does.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.duck import Engine, connect, pattern, stream, table
from warehouse.errors import WarehouseError
from warehouse.parquet import ParquetSink, rows_of
from warehouse.tables import TABLES

__all__ = ["InteractionsSummary", "Wanted", "build_interactions"]

REASONS: Final = ("", "exact_duplicate", "no_metadata", "below_minimum_rating", "outside_time_window")
"""Why a rating is no interaction, by the numbers of ``judged_ratings.sql``; the first that holds counts."""

Lines = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """Which ratings a domain learns from; None sets no limit."""

    minimum_rating: float | None = None
    """Stars."""
    since: int | None = None
    """Unix seconds, included."""
    until: int | None = None
    """Unix seconds, not included."""


@dataclass(frozen=True)
class InteractionsSummary:
    """What became of the ratings: ratings = interactions + the rejected of each reason."""

    ratings: int
    interactions: int
    rejected: dict[str, int] = field(default_factory=dict)


def build_interactions(
    ratings: Path, items: Path, out: Path, wanted: Wanted | None = None, engine: Engine | None = None
) -> InteractionsSummary:
    """From ``raw/ratings`` and ``core/items`` (Parquet files) to ``interactions`` and ``rejected.parquet``.

    Of rows equal in user, item, rating and time the first line stays (`exact_duplicate`); then items without
    metadata go (`no_metadata`), then what `wanted` excludes. A user who rated an item twice at different times keeps
    both. Memory: some 20 bytes a rating, and the ids of the items.

    Raises:
        WarehouseError: no rating is left.
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
        connection.register("suspects", pa.table({"line": fingerprints.shared(engine.threads)}))
        del fingerprints
        reasons[table(connection, "duplicates", source)["line"].to_numpy()] = REASONS.index("exact_duplicate")
        kept = _write(stream(connection, "ratings_in_order", source), reasons, out)
    counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
    rejected = dict(zip(REASONS[1:], counts[1:], strict=True))
    if not kept:
        raise WarehouseError(
            f"none of the {rows_of(ratings):,} ratings is left ({rejected}): are the two raw files of the same "
            "category, and are minimum_rating, since and until of the domain meant so?"
        )
    return InteractionsSummary(rows_of(ratings), kept, rejected)


class _Fingerprints:
    """Fingerprints of lines, each in one integer with its line; in parts by their first bits, to be sorted apart."""

    _PART_BITS: Final = 4

    def __init__(self, last_line: int) -> None:
        self._line = np.uint64((1 << last_line.bit_length()) - 1)
        self._parts: list[list[npt.NDArray[np.uint64]]] = [[] for _ in range(1 << self._PART_BITS)]

    def add(self, fingerprints: npt.NDArray[np.uint64], lines: Lines) -> None:
        """More lines, in any order."""
        part = (fingerprints >> np.uint64(64 - self._PART_BITS)).astype(np.uint8)
        packed = (fingerprints & ~self._line | lines.view(np.uint64))[np.argsort(part, kind="stable")]
        borders = np.cumsum(np.bincount(part, minlength=len(self._parts)))[:-1]
        for column, values in zip(self._parts, np.split(packed, borders), strict=True):
            column.append(values)

    def shared(self, threads: int) -> Lines:
        """Lines whose fingerprint, as far as it is kept, is also another's. Can be asked once."""
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(self._shared_in, self._parts)))

    def _shared_in(self, part: list[npt.NDArray[np.uint64]]) -> Lines:
        packed = np.concatenate([np.empty(0, np.uint64), *part])
        part.clear()
        packed.sort()
        same = packed[1:] ^ packed[:-1] <= self._line
        suspect = np.zeros(len(packed), np.bool_)
        suspect[1:] = same
        suspect[:-1] |= same
        return (packed[suspect] & self._line).view(np.int64)


def _write(ratings: Iterator[pa.RecordBatch], reasons: npt.NDArray[np.uint8], out: Path) -> int:
    """Every rating into the one or the other file; returns the number of interactions."""
    names = pa.array(REASONS)
    with (
        ParquetSink(out / "interactions.parquet", TABLES["core/interactions/interactions"]) as interactions,
        ParquetSink(out / "rejected.parquet", TABLES["core/interactions/rejected"]) as rejected,
    ):
        for batch in ratings:
            reason = reasons[batch["line"].to_numpy()]
            gone = batch.filter(pa.array(reason > 0))
            rejected.write(gone.append_column("reason", names.take(pa.array(reason[reason > 0]))))
            interactions.write(batch.rename_columns({"line": "position"}).filter(pa.array(reason == 0)))
    return interactions.rows
