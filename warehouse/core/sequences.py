"""core/sequences: the k-core of the interactions, one sequence a user in the order of time, with splits.

SQL reads and hashes; ids become numbers once, the k-core is peeled and the sequences are put in order on arrays of
these numbers, where a round costs a few passes over memory; ids return when the tables are written.
"""

# Annotations that stay text: DuckDB's binding reports its types as leaked where one outlives the interpreter.
from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.artifacts.threads import map_in_order
from warehouse.duck import Engine, connect, pattern, stream, table
from warehouse.errors import DataError
from warehouse.parquet import ROW_GROUP, ParquetSink, rows_of
from warehouse.tables import SPLITS, TABLES

__all__ = ["GlobalTimeSplit", "SequencesSummary", "build_sequences", "k_core"]

SMALLEST_K: Final = 3
"""A test item, a validation item and something to train on."""
_PARTS: Final = 16
"""Parts of the ids that are numbered each by itself (as the SQL says): a part's hash table stays in the cache."""
_ROWS_AT_ONCE: Final = 64 << 20
"""Ids held as text at a time."""

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GlobalTimeSplit:
    """One border in time for all users, as in production: nothing is learned from what lies after it.

    Interactions from `test_from` on are for testing, those from `validation_from` on and before that for validation,
    the rest for training. Unix seconds.
    """

    validation_from: int
    test_from: int

    def __post_init__(self) -> None:
        if not self.validation_from < self.test_from:
            raise DataError("validation_from must lie before test_from: swap them, or move one")


@dataclass(frozen=True)
class SequencesSummary:
    """The k-core and what it left out."""

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
    """Those outside the k-core, and of long sequences those before the last `max_length`."""
    split: str
    """leave_one_out or global_time."""
    validation_from: int | None
    test_from: int | None
    max_length: int | None
    split_sha256: str
    """Identity of the split: see `split_sha256`."""


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
        """U + 1 borders: user u has the interactions starts[u] to starts[u + 1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.users, minlength=len(self.user_ids)))])


def build_sequences(
    interactions: Path,
    out: Path,
    k: int,
    split: GlobalTimeSplit | None = None,
    max_length: int | None = None,
    engine: Engine | None = None,
) -> SequencesSummary:
    """From ``core/interactions`` (a Parquet file) to ``sequences``, ``users``, ``items``, ``interactions``.

    Memory: some 10 bytes an interaction, some 40 an interaction of the k-core.

    Args:
        interactions: the file, with the columns of ``core/interactions/interactions``.
        out: an empty folder.
        k: users and items keep at least this many interactions, 3 or more.
        split: None for leave-one-out: the last interaction of a user is for testing, the last but one for validation.
        max_length: after the k-core, only the last so many interactions of a user stay (3 or more), and the items
            that these leave.
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
    total = rows_of(interactions)
    source = {"interactions": pattern(interactions)}
    with connect(engine, out) as connection, ThreadPoolExecutor(engine.threads) as pool:
        kept = _sieve(stream(connection, "user_hashes", source), total, k, engine.threads)
        # Items are read while users are numbered, times while the k-core is peeled.
        numbered = [
            _numbered(partial(stream, connection, name, source), kept, pool) for name in ("user_ids", "item_ids")
        ]
        (user_ids, users), (item_ids, items) = (finish() for finish in numbered)
        chosen = pool.submit(_chosen, stream(connection, "times_and_ratings", source), kept)
        rounds = int(len(users) < total)
        user_flags, item_flags, more_rounds = k_core(users, items, k, engine.threads)
        if not user_flags.any():
            raise DataError(
                f"no user and item of the {total:,} interactions has {k} interactions with others "
                f"that do: the {k}-core is empty; lower k (at least {SMALLEST_K}) or bring more ratings"
            )
        inside = user_flags[users]
        inside &= item_flags[items]
        users, items = users[inside], items[inside]
        times, ratings = chosen.result()
        times, ratings = times[inside], ratings[inside]
        del kept, inside, chosen
        user_ids, users = _ranked(connection, user_ids, users, user_flags)
        item_ids, items = _ranked(connection, item_ids, items, item_flags)
        order = _in_order(users, times, engine.threads)
        users, items, times, ratings = pool.map(partial(np.take, indices=order), (users, items, times, ratings))
        del order
    core = _Core(user_ids, item_ids, users, items, times, ratings)
    if max_length:
        core = _shortened(core, max_length)
    parts = _parts(core, split)
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
        rounds=rounds + more_rounds,
        dropped_interactions=total - len(core.users),
        split="global_time" if split else "leave_one_out",
        validation_from=split.validation_from if split else None,
        test_from=split.test_from if split else None,
        max_length=max_length,
        split_sha256=sha256.result(),
    )


def k_core(users: Codes, items: Codes, k: int, threads: int = 1) -> tuple[Flags, Flags, int]:
    """The largest set of edges in which every user and every item that occurs, occurs k times or more.

    Removal goes in rounds, items first, until nothing changes; the end does not depend on the order of removal.

    Args:
        users: [E] user of each edge, from 0.
        items: [E] item of each edge, from 0.
        k: the least degree.
        threads: among these the edges are shared out.

    Returns:
        a flag a user [U] and a flag an item [N], whether it is in the k-core, and the number of rounds.
    """
    ends = [users, items]
    counts = [int(codes.max(initial=-1)) + 1 for codes in ends]
    flags = [np.zeros(count, np.bool_) for count in counts]
    shares = [np.array_split(codes, threads) for codes in ends]
    rounds = 0
    with ThreadPoolExecutor(threads) as pool:
        while True:
            edges = sum(map(len, shares[0]))
            for end in (1, 0):
                flags[end] = _occur(shares[end], counts[end], pool) >= k
                kept = list(pool.map(flags[end].take, shares[end]))
                if not all(here.all() for here in kept):
                    rows = list(pool.map(np.flatnonzero, kept))
                    shares = [list(pool.map(np.take, share, rows)) for share in shares]
            if sum(map(len, shares[0])) == edges:
                return flags[0], flags[1], rounds
            rounds += 1


def _occur(shares: Iterable[npt.NDArray[np.integer]], count: int, pool: ThreadPoolExecutor) -> Longs:
    """How often each of the numbers from 0 occurs in all shares."""
    total: Longs = sum(pool.map(partial(np.bincount, minlength=count), shares), np.zeros(count, np.int64))
    return total


def split_sha256(
    user_ids: pa.Array, item_ids: pa.Array, users: Codes, items: Codes, times: Longs, parts: npt.NDArray[np.int8]
) -> str:
    """Who, what, when and in which part: one hash, shared by two data sets exactly if their splits are equal.

    sha256 over, in this order: user ids and item ids, sorted, each ended by a line feed; then of every
    interaction, sorted by (user, step), little-endian: the user's place among the ids (int32, from 0), all
    of them, then the items' (int32), then the times (int64), then the parts (int8: 0 train, 1 validation, 2
    test). Independent of file formats.
    """
    digest = hashlib.sha256()
    for ids in (user_ids, item_ids):
        for start in range(0, len(ids), ROW_GROUP):
            some = ids[start : start + ROW_GROUP]
            digest.update(pc.binary_join(pa.ListArray.from_arrays([0, len(some)], some), "\n")[0].as_buffer())
            digest.update(b"\n")
    for values, kind in ((users, "<i4"), (items, "<i4"), (times, "<i8"), (parts, "<i1")):
        digest.update(np.ascontiguousarray(values, kind).data)
    return digest.hexdigest()


def _sieve(hashes: Iterator[pa.RecordBatch], rows: int, k: int, threads: int) -> Flags:
    """Rows whose user may have k of them: most users have not, and to number their ids would be most of the work.

    Rows are counted in buckets by a part of their user's hash. A bucket holds all rows of its users, so what is below
    k goes for certain; a second part of the hash lets through few of those that the first did.
    """
    values = np.empty(rows, np.uint64)
    end = 0
    for batch in hashes:
        start, end = end, end + batch.num_rows
        values[start:end] = batch["hash"].to_numpy()
    bits = min(max(rows.bit_length() - 2, 4), 27)
    with ThreadPoolExecutor(threads) as pool:
        shares = np.array_split(values, threads)
        del values
        first = _frequent(shares, 0, bits, k, pool)
        shares = list(pool.map(np.compress, first, shares))
        for kept, still in zip(first, _frequent(shares, 32, bits, k, pool), strict=True):
            kept[kept] = still
    return np.concatenate(first)


def _frequent(
    shares: Iterable[npt.NDArray[np.uint64]], first_bit: int, bits: int, k: int, pool: ThreadPoolExecutor
) -> list[Flags]:
    """Whether the bucket of each hash has k rows; its number are some bits of the hash."""

    def number(hashes: npt.NDArray[np.uint64]) -> Longs:
        buckets = hashes << np.uint64(first_bit)
        buckets >>= np.uint64(64 - bits)
        return buckets.view(np.int64)

    buckets = list(pool.map(number, shares))
    return list(pool.map((_occur(buckets, 1 << bits, pool) >= k).take, buckets))


def _numbered(
    read: Callable[[], Iterator[pa.RecordBatch]], kept: Flags, pool: ThreadPoolExecutor
) -> Callable[[], tuple[pa.Array, Codes]]:
    """The ids of the kept rows, in no order, and for each of these rows the number of its id.

    Reads now and numbers in `pool`; what is returned waits for it.
    """
    rows = int(np.count_nonzero(kept))
    parts = np.empty(rows, np.uint8)
    turns = max(1, min(_PARTS, -(-rows // _ROWS_AT_ONCE)))
    encoded: list[Future[tuple[pa.Array, Codes]]] = []
    for turn in range(turns):
        wait(encoded)
        mine = range(_PARTS * turn // turns, _PARTS * (turn + 1) // turns)
        encoded += [pool.submit(_encoded, texts) for texts in _texts_by_part(read(), kept, parts, mine)]

    def finish() -> tuple[pa.Array, Codes]:
        codes = np.empty(rows, np.int32)
        first = 0
        for part, future in enumerate(encoded):
            ids, numbers = future.result()
            codes[parts == part] = numbers + np.int32(first)
            first += len(ids)
        return pa.concat_arrays([future.result()[0] for future in encoded]), codes

    return finish


def _texts_by_part(
    batches: Iterator[pa.RecordBatch], kept: Flags, parts: npt.NDArray[np.uint8], mine: range
) -> list[list[pa.Array]]:
    """The ids of some parts, each part's in the order of the kept rows; fills `parts` for all of these."""
    texts: list[list[pa.Array]] = [[] for _ in mine]
    row = end = 0
    for batch in batches:
        here = np.flatnonzero(kept[row : row + batch.num_rows])
        row, start, end = row + batch.num_rows, end, end + len(here)
        part = batch["part"].to_numpy()[here]
        parts[start:end] = part
        order = np.argsort(part, kind="stable")
        borders = np.searchsorted(part[order], [*mine, mine.stop])
        taken = batch["id"].take(pa.array(here[order[borders[0] : borders[-1]]]))
        for column, (first, last) in zip(texts, pairwise(borders - borders[0]), strict=True):
            column.append(taken[first:last])
    return texts


def _encoded(texts: list[pa.Array]) -> tuple[pa.Array, Codes]:
    """The different texts, and for each one its number among them."""
    encoded = pa.chunked_array(texts, pa.string()).dictionary_encode()
    texts.clear()
    if not encoded.num_chunks:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    # Arrow encodes all chunks with one table, so that the dictionary of any is that of all.
    return encoded.chunk(0).dictionary, np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])


def _chosen(batches: Iterator[pa.RecordBatch], kept: Flags) -> tuple[Longs, npt.NDArray[np.float32]]:
    """Times and ratings of the rows kept."""
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
    """The flagged ids in bytewise order, and the codes as places in that order."""
    ids = ids.take(pa.array(np.flatnonzero(flags)))
    connection.register("ids", pa.table({"id": ids, "place": np.arange(len(ids), dtype=np.int32)}))
    places = table(connection, "ids_in_order")["place"].to_numpy()
    rank = np.empty(len(ids), np.int32)
    rank[places] = np.arange(len(ids), dtype=np.int32)
    renumbered = np.zeros(len(flags), np.int32)
    renumbered[flags] = rank
    return ids.take(pa.array(places)), renumbered[codes]


def _in_order(users: Codes, times: Longs, threads: int) -> Longs:
    """Rows by (user, time, row): two sorts of plain integers, of which each carries its row, beat one of pairs.

    Unsigned, since times go up to LATEST_TIME, which needs all the 32 bits before the row.
    """
    rows = np.arange(len(users), dtype=np.uint64)
    low = np.uint64((1 << 32) - 1)
    by_time = (_sorted(times.view(np.uint64) << np.uint64(32) | rows, threads) & low).view(np.int64)
    by_user = (_sorted(users[by_time].astype(np.uint64) << np.uint64(32) | rows, threads) & low).view(np.int64)
    return by_time[by_user]


def _sorted(values: npt.NDArray[np.uint64], threads: int) -> npt.NDArray[np.uint64]:
    """Sorted in place, by several threads."""
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


def _parts(core: _Core, split: GlobalTimeSplit | None) -> npt.NDArray[np.int8]:
    """Part of each interaction, an index into SPLITS."""
    if split:
        parts = (core.times >= split.validation_from).astype(np.int8) + (core.times >= split.test_from)
        if not (parts == 0).any():
            raise DataError("no interaction lies before validation_from: nothing to train on; set a later date")
        return parts
    parts = np.zeros(len(core.users), np.int8)
    last = core.starts[1:] - 1
    parts[last - 1], parts[last] = SPLITS.index("validation"), SPLITS.index("test")
    return parts


def _write(out: Path, core: _Core, parts: npt.NDArray[np.int8], pool: ThreadPoolExecutor) -> None:
    """Write the four tables; the largest here, its rows made in the pool, the others in the pool."""
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


def _items(core: _Core, parts: npt.NDArray[np.int8]) -> Iterator[dict[str, pa.Array]]:
    training = core.items[parts == SPLITS.index("train")]
    yield {
        "item_index": _indices(core.item_ids),
        "item_id": core.item_ids,
        "interactions": pa.array(np.bincount(core.items)),
        "training_interactions": pa.array(np.bincount(training, minlength=len(core.item_ids))),
    }


def _indices(ids: pa.Array) -> pa.Array:
    return pa.array(np.arange(1, len(ids) + 1, dtype=np.int32))


def _sequences(core: _Core, parts: npt.NDArray[np.int8]) -> Iterator[dict[str, pa.Array]]:
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


def _interactions(core: _Core, starts: Longs, parts: npt.NDArray[np.int8], first: int) -> dict[str, pa.Array]:
    """A row group of the interactions."""
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
