"""core/sequences: the k-core of the interactions, one sequence a user in the order of time, with splits.

SQL numbers the ids, selects and sorts; the k-core itself is peeled on two integer arrays, where a round
costs a few passes over memory. Leave-one-out: the last interaction of a user is for testing, the last but
one for validation.
"""

# Annotations that stay text: DuckDB's binding reports its types as leaked where one outlives the interpreter.
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.duck import Engine, connect, execute, pattern, table
from warehouse.errors import WarehouseError
from warehouse.parquet import ROW_GROUP, ParquetSink, rows_of
from warehouse.tables import SPLITS, TABLES

__all__ = ["SequencesSummary", "build_sequences", "k_core"]

SMALLEST_K: Final = 3
"""A test item, a validation item and something to train on."""

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]


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
    times: npt.NDArray[np.int64]
    ratings: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    """U + 1 borders: user u has the interactions starts[u] to starts[u + 1]."""

    @property
    def steps(self) -> Codes:
        """Place of each interaction in its user's sequence, from 1."""
        return (np.arange(len(self.users)) - self.starts[self.users] + 1).astype(np.int32)

    @property
    def splits(self) -> npt.NDArray[np.int8]:
        """Part of each interaction, an index into SPLITS."""
        splits = np.zeros(len(self.users), np.int8)
        splits[self.starts[1:] - 2] = SPLITS.index("validation")
        splits[self.starts[1:] - 1] = SPLITS.index("test")
        return splits


def build_sequences(interactions: Path, out: Path, k: int, engine: Engine | None = None) -> SequencesSummary:
    """From ``core/interactions`` (a Parquet file) to ``sequences``, ``users``, ``items``, ``interactions``.

    Args:
        interactions: the file, with the columns of ``core/interactions/interactions``.
        out: an empty folder.
        k: users and items keep at least this many interactions, 3 or more.
        engine: threads and memory.

    Raises:
        WarehouseError: k is below 3, or the k-core is empty.
    """
    if k < SMALLEST_K:
        raise WarehouseError(
            f"k = {k}: a sequence needs a training, a validation and a test item; set k to {SMALLEST_K} or more"
        )
    source = {"interactions": pattern(interactions)}
    with connect(engine or Engine(), out) as connection:
        execute(connection, "frequent_users", source | {"k": k})
        execute(connection, "frequent_items", source | {"k": k})
        execute(connection, "edges", source)
        edges = table(connection, "edge_codes")
        users, items = (edges[name].to_numpy() for name in ("user_code", "item_code"))
        before, frequent = rows_of(interactions), len(users)
        del edges
        user_flags, item_flags, rounds = k_core(users, items, k)
        del users, items
        if not user_flags.any():
            raise WarehouseError(
                f"no user and item of the {before:,} interactions has {k} interactions with others "
                f"that do: the {k}-core is empty; lower k (at least {SMALLEST_K}) or bring more ratings"
            )
        core = _ordered(connection, user_flags, item_flags)
    splits = core.splits
    training = splits == SPLITS.index("train")
    lengths = np.diff(core.starts)
    _write(out, core, splits, training)
    size, user_count, item_count = len(core.users), len(core.user_ids), len(core.item_ids)
    return SequencesSummary(
        k=k,
        users=user_count,
        items=item_count,
        interactions=size,
        training_interactions=int(training.sum()),
        mean_length=size / user_count,
        longest=int(lengths.max()),
        sparsity=1 - size / (user_count * item_count),
        rounds=rounds + (frequent < before),
        dropped_interactions=before - size,
        split_sha256=split_sha256(core.user_ids, core.item_ids, core.users, core.items, core.times, splits),
    )


def k_core(users: Codes, items: Codes, k: int) -> tuple[Flags, Flags, int]:
    """The largest set of edges in which every user and every item that occurs, occurs k times or more.

    Removal goes in rounds until nothing changes; the end does not depend on the order of removal.

    Args:
        users: [E] user of each edge, from 0.
        items: [E] item of each edge, from 0.
        k: the least degree.

    Returns:
        a flag a user [U] and a flag an item [N], whether it is in the k-core, and the number of rounds.
    """
    user_degrees, item_degrees = np.bincount(users), np.bincount(items)
    rounds = 0
    while len(users):
        kept = (user_degrees >= k)[users] & (item_degrees >= k)[items]
        if kept.all():
            break
        user_degrees -= np.bincount(users[~kept], minlength=len(user_degrees))
        item_degrees -= np.bincount(items[~kept], minlength=len(item_degrees))
        users, items = users[kept], items[kept]
        rounds += 1
    return user_degrees >= k, item_degrees >= k, rounds


def split_sha256(
    user_ids: pa.Array,
    item_ids: pa.Array,
    users: Codes,
    items: Codes,
    times: npt.NDArray[np.int64],
    splits: npt.NDArray[np.int8],
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
            digest.update("".join(f"{name}\n" for name in ids[start : start + ROW_GROUP].to_pylist()).encode())
    for values, kind in ((users, "<i4"), (items, "<i4"), (times, "<i8"), (splits, "<i1")):
        digest.update(np.ascontiguousarray(values, kind).data)
    return digest.hexdigest()


def _ordered(connection: duckdb.DuckDBPyConnection, user_flags: Flags, item_flags: Flags) -> _Core:
    connection.register("core_users", _codes("user_code", user_flags))
    connection.register("core_items", _codes("item_code", item_flags))
    edges = table(connection, "ordered_edges")
    # Codes follow the order of the ids, so leaving out the ones outside the core keeps the order.
    users = _renumbered(user_flags)[edges["user_code"].to_numpy()]
    items = _renumbered(item_flags)[edges["item_code"].to_numpy()]
    return _Core(
        user_ids=table(connection, "core_users")["user_id"].combine_chunks(),
        item_ids=table(connection, "core_items")["item_id"].combine_chunks(),
        users=users,
        items=items,
        times=edges["time"].to_numpy(),
        ratings=edges["rating"].to_numpy(),
        starts=np.concatenate([[0], np.cumsum(np.bincount(users))]),
    )


def _codes(name: str, flags: Flags) -> pa.Table:
    return pa.table({name: np.flatnonzero(flags).astype(np.int32)})


def _renumbered(flags: Flags) -> Codes:
    return (np.cumsum(flags) - 1).astype(np.int32)


def _write(out: Path, core: _Core, splits: npt.NDArray[np.int8], training: Flags) -> None:
    tables = {
        "sequences": _sequences(core),
        "users": iter([{"user_index": _indices(core.user_ids), "user_id": core.user_ids}]),
        "items": iter(
            [
                {
                    "item_index": _indices(core.item_ids),
                    "item_id": core.item_ids,
                    "interactions": pa.array(np.bincount(core.items)),
                    "training_interactions": pa.array(np.bincount(core.items[training], minlength=len(core.item_ids))),
                }
            ]
        ),
        "interactions": _interactions(core, splits),
    }
    for name, batches in tables.items():
        with ParquetSink(out / f"{name}.parquet", TABLES[f"core/sequences/{name}"]) as sink:
            sink.write_all(pa.RecordBatch.from_pydict(batch) for batch in batches)


def _indices(ids: pa.Array) -> pa.Array:
    return pa.array(np.arange(1, len(ids) + 1, dtype=np.int32))


def _sequences(core: _Core) -> Iterator[dict[str, pa.Array]]:
    for first in range(0, len(core.user_ids), ROW_GROUP):
        ids = core.user_ids[first : first + ROW_GROUP]
        starts = core.starts[first : first + len(ids) + 1]
        borders = pa.array((starts - starts[0]).astype(np.int32))
        rows = slice(starts[0], starts[-1])
        yield {
            "user_index": pa.array(np.arange(first + 1, first + len(ids) + 1, dtype=np.int32)),
            "user_id": ids,
            "items": pa.ListArray.from_arrays(borders, pa.array(core.items[rows] + np.int32(1))),
            "times": pa.ListArray.from_arrays(borders, pa.array(core.times[rows])),
            "ratings": pa.ListArray.from_arrays(borders, pa.array(core.ratings[rows])),
        }


def _interactions(core: _Core, splits: npt.NDArray[np.int8]) -> Iterator[dict[str, pa.Array]]:
    steps, names = core.steps, pa.array(SPLITS)
    for first in range(0, len(core.users), ROW_GROUP):
        rows = slice(first, first + ROW_GROUP)
        yield {
            "user_index": pa.array(core.users[rows] + np.int32(1)),
            "user_id": core.user_ids.take(pa.array(core.users[rows])),
            "step": pa.array(steps[rows]),
            "item_index": pa.array(core.items[rows] + np.int32(1)),
            "item_id": core.item_ids.take(pa.array(core.items[rows])),
            "time": pa.array(core.times[rows]),
            "rating": pa.array(core.ratings[rows]),
            "split": names.take(pa.array(splits[rows])),
        }
