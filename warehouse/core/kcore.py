"""The k-core of users and items on arrays of numbers, and a sieve that removes rows that cannot be in it.

`warehouse.core.numbering` turns ids into these numbers.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Codes", "Flags", "Longs", "k_core", "sieve"]

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


def k_core(users: Codes, items: Codes, k: int, threads: int = 1) -> tuple[Flags, Flags, int]:
    """The largest set of edges in which each user and each item has k edges or more.

    Items and users are removed in rounds, items first, until nothing changes. The result does not depend on the order
    of removal.

    Args:
        users: [E] user of each edge, from 0.
        items: [E] item of each edge, from 0.
        k: the lowest degree.
        threads: the edges are divided among this many threads.

    Returns:
        one flag per user [U] and one per item [N], whether it is in the k-core, and the number of rounds.
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
    """How often each of the numbers from 0 to `count` - 1 occurs in all shares together."""
    total: Longs = sum(pool.map(partial(np.bincount, minlength=count), shares), np.zeros(count, np.int64))
    return total


def sieve(hashes: Iterator[pa.RecordBatch], rows: int, k: int, threads: int) -> Flags:
    """Flag the rows whose user may have k rows or more.

    Most users have fewer, and to number their ids would be most of the work. Rows are counted in buckets by some bits
    of their user's hash. A bucket holds all rows of its users, so a bucket with fewer than k rows holds no user with k
    rows, and its rows can be dropped. A second count, by other bits, drops most of the other rows whose users have
    fewer than k.

    Args:
        hashes: batches with a column `hash`, uint64: the hash of the user of each row.
        rows: the number of rows.
        k: the lowest number of rows of a user.
        threads: the rows are divided among this many threads.

    Returns:
        one flag per row [rows].
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
    """Whether the bucket of each hash has k rows or more; some bits of the hash are the number of its bucket."""

    def number(hashes: npt.NDArray[np.uint64]) -> Longs:
        buckets = hashes << np.uint64(first_bit)
        buckets >>= np.uint64(64 - bits)
        return buckets.view(np.int64)

    buckets = list(pool.map(number, shares))
    return list(pool.map((_occur(buckets, 1 << bits, pool) >= k).take, buckets))
