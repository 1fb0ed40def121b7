"""core/sequences: the k-core of the interactions, as one sequence per user in the order of time, with splits.

SQL statements read and hash the ids. `numbering` replaces each id by a number once. `kcore` finds the k-core on arrays
of these numbers, where a round costs only a few passes over memory. Then the sequences are sorted and split (`splits`),
and the ids are put back when the tables are written.
"""

# Annotations stay text: DuckDB's Python binding reports leaked types if an annotation that holds one of its types
# outlives the interpreter.
from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.artifacts.threads import map_in_order
from warehouse.core.kcore import Codes, Flags, Longs, k_core, sieve
from warehouse.core.numbering import numbered
from warehouse.core.settings import LEAVE_ONE_OUT, GlobalTimeSplit, SplitName, SplitRule
from warehouse.core.splits import SplitCodes, split_parts, split_sha256
from warehouse.duck import Engine, connect, pattern, stream, table
from warehouse.errors import DataError
from warehouse.parquet import ROW_GROUP, ParquetSink, rows_of
from warehouse.tables import SPLITS, TABLES

__all__ = ["SequencesSummary", "build_sequences"]

SMALLEST_K: Final = 3
"""A test item, a validation item and at least one item to train on."""


@dataclass(frozen=True)
class SequencesSummary:
    """Figures of the k-core, and of what it left out."""

    k: int
    users: int
    items: int
    interactions: int
    training_interactions: int
    mean_length: float
    longest: int
    sparsity: float
    """1 - interactions / (users * items)."""
    rounds: int
    """Rounds of removal until nothing changed."""
    dropped_interactions: int
    """Interactions outside the k-core, and in sequences longer than `max_length` those before the last `max_length`."""
    split: SplitName
    """The rule that was applied."""
    validation_from: int | None
    """Unix seconds; as `test_from`, only with global_time."""
    test_from: int | None
    max_length: int | None
    split_sha256: str
    """Identity of the split: see `warehouse.core.splits.split_sha256`."""


@dataclass(frozen=True)
class _Core:
    """The sequences of all users, end to end. Arrays over interactions, sorted by (user, time, position)."""

    user_ids: pa.Array
    item_ids: pa.Array
    users: Codes
    """0..U-1."""
    items: Codes
    """0..N-1."""
    times: Longs
    ratings: npt.NDArray[np.float32]

    @property
    def starts(self) -> Longs:
        """[U + 1] borders: user u has the interactions from starts[u] to before starts[u + 1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.users, minlength=len(self.user_ids)))])


def build_sequences(
    interactions: Path,
    out: Path,
    k: int,
    split: SplitRule = LEAVE_ONE_OUT,
    max_length: int | None = None,
    engine: Engine | None = None,
) -> SequencesSummary:
    """Make ``sequences``, ``users``, ``items`` and ``interactions`` from the file of ``core/interactions``.

    Memory: about 10 bytes per interaction, and about 40 per interaction of the k-core.

    Args:
        interactions: the file, with the columns of ``core/interactions/interactions``.
        out: an empty folder.
        k: the lowest number of interactions of each user and item in the k-core; 3 or more.
        split: the rule by which interactions are for training, validation and testing.
        max_length: after the k-core, only this many last interactions of each user are kept (3 or more), and only the
            items that still occur.
        engine: threads and memory.

    Raises:
        DataError: k or max_length is below 3, the k-core is empty, or nothing is left to train on.
    """
    for name, value in (("k", k), ("max_length", max_length)):
        if value is not None and value < SMALLEST_K:
            raise DataError(
                f"{name} = {value}: a sequence needs a training, a validation and a test item; "
                f"set {name} to {SMALLEST_K} or more"
            )
    engine = engine or Engine()
    core, rounds = _find_core(interactions, out, k, engine)
    if max_length:
        core = _shortened(core, max_length)
    parts = split_parts(core.times, core.starts, split)
    borders = split if isinstance(split, GlobalTimeSplit) else None
    with ThreadPoolExecutor(engine.threads) as pool:
        sha256 = pool.submit(split_sha256, core.user_ids, core.item_ids, core.users, core.items, core.times, parts)
        _write(out, core, parts, pool)
    return SequencesSummary(
        k=k,
        users=len(core.user_ids),
        items=len(core.item_ids),
        interactions=len(core.users),
        training_interactions=int(np.count_nonzero(parts == SPLITS.index("train"))),
        mean_length=len(core.users) / len(core.user_ids),
        longest=int(np.diff(core.starts).max()),
        sparsity=1 - len(core.users) / (len(core.user_ids) * len(core.item_ids)),
        rounds=rounds,
        dropped_interactions=rows_of(interactions) - len(core.users),
        split=split.name,
        validation_from=borders.validation_from if borders else None,
        test_from=borders.test_from if borders else None,
        max_length=max_length,
        split_sha256=sha256.result(),
    )


def _find_core(interactions: Path, out: Path, k: int, engine: Engine) -> tuple[_Core, int]:
    """The k-core, in order, and the rounds of removal. DuckDB spills into a folder below `out`."""
    total = rows_of(interactions)
    source = {"interactions": pattern(interactions)}
    with connect(engine, out) as connection, ThreadPoolExecutor(engine.threads) as pool:
        kept = sieve(stream(connection, "user_hashes", source), total, k, engine.threads)
        # Items are read while users are numbered, times while the k-core is peeled.
        coming = [numbered(partial(stream, connection, name, source), kept, pool) for name in ("user_ids", "item_ids")]
        (user_ids, users), (item_ids, items) = (finish() for finish in coming)
        chosen = pool.submit(_chosen, stream(connection, "times_and_ratings", source), kept)
        rounds = int(len(users) < total)
        user_flags, item_flags, more_rounds = k_core(users, items, k, engine.threads)
        if not user_flags.any():
            raise DataError(
                f"the {k}-core of the {total:,} interactions is empty: no users and items have {k} interactions with "
                f"each other; lower k (at least {SMALLEST_K}) or add ratings"
            )
        inside = user_flags[users]
        inside &= item_flags[items]
        users, items = users[inside], items[inside]
        times, ratings = chosen.result()
        times, ratings = times[inside], ratings[inside]
        del kept, inside, chosen, coming
        user_ids, users = _ranked(connection, user_ids, users, user_flags)
        item_ids, items = _ranked(connection, item_ids, items, item_flags)
        order = _in_order(users, times, engine.threads)
        users, items, times, ratings = pool.map(partial(np.take, indices=order), (users, items, times, ratings))
    return _Core(user_ids, item_ids, users, items, times, ratings), rounds + more_rounds


def _chosen(batches: Iterator[pa.RecordBatch], kept: Flags) -> tuple[Longs, npt.NDArray[np.float32]]:
    """Times and ratings of the kept rows."""
    size = int(np.count_nonzero(kept))
    times, ratings = np.empty(size, np.int64), np.empty(size, np.float32)
    row = end = 0
    for batch in batches:
        here = kept[row : row + batch.num_rows]
        row, start, end = row + batch.num_rows, end, end + int(np.count_nonzero(here))
        times[start:end] = batch["time"].to_numpy()[here]
        ratings[start:end] = batch["rating"].to_numpy()[here]
    return times, ratings


def _ranked(connection: duckdb.DuckDBPyConnection, ids: pa.Array, codes: Codes, flags: Flags) -> tuple[pa.Array, Codes]:
    """The flagged ids in bytewise order, and each code replaced by the place of its id in that order."""
    ids = ids.take(pa.array(np.flatnonzero(flags)))
    connection.register("ids", pa.table({"id": ids, "place": np.arange(len(ids), dtype=np.int32)}))
    places = table(connection, "ids_in_order")["place"].to_numpy()
    rank = np.empty(len(ids), np.int32)
    rank[places] = np.arange(len(ids), dtype=np.int32)
    renumbered = np.zeros(len(flags), np.int32)
    renumbered[flags] = rank
    return ids.take(pa.array(places)), renumbered[codes]


def _in_order(users: Codes, times: Longs, threads: int) -> Longs:
    """Rows by (user, time, row): two sorts of plain integers that carry their row are faster than one sort of pairs.

    The integers are unsigned, because times up to LATEST_TIME need all 32 bits above those of the row.
    """
    rows = np.arange(len(users), dtype=np.uint64)
    low = np.uint64((1 << 32) - 1)
    by_time = (_sorted(times.view(np.uint64) << np.uint64(32) | rows, threads) & low).view(np.int64)
    by_user = (_sorted(users[by_time].astype(np.uint64) << np.uint64(32) | rows, threads) & low).view(np.int64)
    return by_time[by_user]


def _sorted(values: npt.NDArray[np.uint64], threads: int) -> npt.NDArray[np.uint64]:
    """Sort in place, with several threads, and return the same array."""
    if threads > 1 and len(values) > ROW_GROUP:
        borders = [len(values) * part // threads for part in range(threads + 1)]
        values.partition(borders[1:-1])
        with ThreadPoolExecutor(threads) as pool:
            wait([pool.submit(values[start:stop].sort) for start, stop in pairwise(borders)])
    else:
        values.sort()
    return values


def _shortened(core: _Core, max_length: int) -> _Core:
    """The last `max_length` interactions of each user, and the items that occur in them."""
    kept = np.arange(len(core.users)) >= core.starts[1:][core.users] - max_length
    items = core.items[kept]
    flags = np.bincount(items, minlength=len(core.item_ids)) > 0
    return _Core(
        user_ids=core.user_ids,
        item_ids=core.item_ids.filter(pa.array(flags)),
        users=core.users[kept],
        items=(np.cumsum(flags) - 1).astype(np.int32)[items],
        times=core.times[kept],
        ratings=core.ratings[kept],
    )


def _write(out: Path, core: _Core, parts: SplitCodes, pool: ThreadPoolExecutor) -> None:
    """Write the four tables: the largest in this thread while the pool makes its rows, the others in the pool."""
    users = {"user_index": _indices(core.user_ids), "user_id": core.user_ids}
    small = {"sequences": _sequences(core, parts), "items": _items(core, parts), "users": [users]}
    others = [pool.submit(_write_table, out, name, batches) for name, batches in small.items()]
    make = partial(_interactions, core, core.starts, parts)
    _write_table(out, "interactions", map_in_order(pool, make, range(0, len(core.users), ROW_GROUP)))
    for other in others:
        other.result()


def _write_table(out: Path, name: str, batches: Iterable[dict[str, pa.Array]]) -> None:
    with ParquetSink(out / f"{name}.parquet", TABLES[f"core/sequences/{name}"]) as sink:
        sink.write_all(pa.RecordBatch.from_pydict(batch) for batch in batches)


def _items(core: _Core, parts: SplitCodes) -> Iterator[dict[str, pa.Array]]:
    training = core.items[parts == SPLITS.index("train")]
    yield {
        "item_index": _indices(core.item_ids),
        "item_id": core.item_ids,
        "interactions": pa.array(np.bincount(core.items)),
        "training_interactions": pa.array(np.bincount(training, minlength=len(core.item_ids))),
    }


def _indices(ids: pa.Array) -> pa.Array:
    return pa.array(np.arange(1, len(ids) + 1, dtype=np.int32))


def _sequences(core: _Core, parts: SplitCodes) -> Iterator[dict[str, pa.Array]]:
    counts = {
        name: np.bincount(core.users[parts == SPLITS.index(part)], minlength=len(core.user_ids)).astype(np.int32)
        for name, part in (("training", "train"), ("validation", "validation"))
    }
    all_starts = core.starts
    for first in range(0, len(core.user_ids), ROW_GROUP):
        ids = core.user_ids[first : first + ROW_GROUP]
        starts = all_starts[first : first + len(ids) + 1]
        borders = pa.array((starts - starts[0]).astype(np.int32))
        rows = slice(starts[0], starts[-1])
        yield {
            "user_index": pa.array(np.arange(first + 1, first + len(ids) + 1, dtype=np.int32)),
            "user_id": ids,
            "items": pa.ListArray.from_arrays(borders, pa.array(core.items[rows] + np.int32(1))),
            "times": pa.ListArray.from_arrays(borders, pa.array(core.times[rows])),
            "ratings": pa.ListArray.from_arrays(borders, pa.array(core.ratings[rows])),
            **{name: pa.array(count[first : first + len(ids)]) for name, count in counts.items()},
        }


def _interactions(core: _Core, starts: Longs, parts: SplitCodes, first: int) -> dict[str, pa.Array]:
    """One row group of the interactions, from row `first` on."""
    rows = slice(first, first + ROW_GROUP)
    users, items = core.users[rows], core.items[rows]
    return {
        "user_index": pa.array(users + np.int32(1)),
        "user_id": core.user_ids.take(pa.array(users)),
        "step": pa.array((np.arange(first, first + len(users)) - starts[users] + 1).astype(np.int32)),
        "item_index": pa.array(items + np.int32(1)),
        "item_id": core.item_ids.take(pa.array(items)),
        "time": pa.array(core.times[rows]),
        "rating": pa.array(core.ratings[rows]),
        "split": pa.array(SPLITS).take(pa.array(parts[rows])),
    }
