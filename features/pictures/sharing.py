"""The replies that machines share, where the store is in a bucket.

    <2 hex>/<sha256 of the address>        the file of a reply, as in `replies`
    <2 hex>/<sha256 of the address>-<n>    the reply after the address was forgotten n times
    forgotten.json                         how often each address was forgotten; the largest count that a machine knows

A reply that is there stays: an address that is forgotten is asked under another name. So all machines with the same
counts find the same replies, and the counts are part of the recipe. A machine that learns of a larger count removes its
own reply.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from features.pictures import replies
from features.pictures.decode import MAX_BYTES
from features.pictures.replies import FORGOTTEN, Reply, count_text, described, key_of, parse, parse_counts, place
from warehouse.artifacts.kept import Kept, Shared
from warehouse.artifacts.threads import map_in_order

__all__ = ["Replies", "forget", "times_forgotten"]

_log = logging.getLogger("mmm4rec")

_MOST: Final = MAX_BYTES + (1 << 20)
"""Bytes of the file of a reply."""
_MOST_COUNTS: Final = 256 << 20
_AT_ONCE: Final = 32
"""Replies that are read at the same time."""


class Replies:
    """The replies in a cache, and those that machines share of it. `private`: whether private addresses are allowed.

    Raises:
        FeatureError: the cache cannot be written.
        StoreError: (every method) the bucket cannot be reached, read or written.
    """

    def __init__(self, kept: Kept, private: bool) -> None:
        self._cache, self._shared, self._private = kept.folder, kept.shared, private
        self._times: dict[str, int] = {}
        if self._shared:
            here, self._times = replies.times_forgotten(self._cache), times_forgotten(kept)
            newer = {key: times for key, times in self._times.items() if times > here.get(key, 0)}
            if newer:
                replies.forget(self._cache, newer)
            if here:  # of a time in which this machine shared nothing
                self._shared.change(FORGOTTEN, _MOST_COUNTS, partial(_merged, here))

    def take(self, addresses: Iterable[str]) -> list[str]:
        """Put shared replies of these addresses into the cache; return the addresses that have none."""
        asked = list(addresses)
        if not self._shared:
            return asked
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = map_in_order(pool, partial(self._take, self._shared), asked, 2 * _AT_ONCE)
            return [address for address, there in zip(asked, found, strict=True) if not there]

    def add(self, address: str, reply: Reply) -> None:
        """Store the reply of an address, and share it."""
        line, body = described(address, reply, self._private)
        if self._shared:  # first: what is lost by a kill in between is found again
            self._shared.add(self._name(address), line + body, _MOST, lambda there: _is_of(there, address))
        replies.write_whole(place(self._cache, key_of(address)), line, body)

    def _take(self, shared: Shared, address: str) -> bool:
        data = shared.read(self._name(address), _MOST)
        if data is None:
            return False
        if not _is_of(data, address):
            _log.warning("the shared reply %s of %s is damaged and not used", self._name(address), address[:200])
            return False
        if parse(data, self._private, address) is None:
            return False  # it was refused as a private address, and these are allowed here
        replies.write_whole(place(self._cache, key_of(address)), data)
        return True

    def _name(self, address: str) -> str:
        key = key_of(address)
        times = self._times.get(key, 0)
        return f"{key[:2]}/{key}-{times}" if times else f"{key[:2]}/{key}"


def times_forgotten(kept: Kept) -> dict[str, int]:
    """How often each address was forgotten, on this machine or, if that is more, on another one."""
    counts = replies.times_forgotten(kept.folder)
    if kept.shared and (data := kept.shared.read(FORGOTTEN, _MOST_COUNTS)):
        counts = _largest(counts, parse_counts(data))
    return counts


def forget(kept: Kept, keys: Iterable[str]) -> None:
    """Let the next run ask these addresses again, on every machine."""
    known = times_forgotten(kept)
    counts = {key: known.get(key, 0) + 1 for key in keys}
    if counts:
        if kept.shared:
            kept.shared.change(FORGOTTEN, _MOST_COUNTS, partial(_merged, counts))
        replies.forget(kept.folder, counts)


def _merged(counts: dict[str, int], data: bytes | None) -> bytes | None:
    """The shared counts with these; None if they say nothing new."""
    there = parse_counts(data) if data else {}
    merged = _largest(there, counts)
    return count_text(merged) if merged != there or (data and not there) else None


def _largest(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in one.keys() | other.keys()}


def _is_of(data: bytes, address: str) -> bool:
    return len(data) <= _MOST and parse(data, False, address) is not None
