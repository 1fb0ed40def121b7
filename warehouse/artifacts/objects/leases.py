"""Leases, which tell other processes what this one reads and builds; and the time of the server's clock.

A process has one lease: an object that it writes again after a third of the time for which it is good, and removes at
the end. The age of an object is the difference between two times of the server: when a lease was just written, and when
the object was last written. The clock of a worker is only used to measure how much time has passed.
"""

import json
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from warehouse.artifacts.artifact import Version, is_domain, is_key
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.manifest import VERSION
from warehouse.artifacts.objects.client import Client, Found
from warehouse.artifacts.objects.layout import LEASES
from warehouse.artifacts.objects.terms import Terms

__all__ = ["Hold", "Leases", "Living"]

_log = logging.getLogger("mmm4rec")
_FRESH: Final = 30.0
"""Seconds after which the server's clock is read again."""

_LARGEST: Final = 64 << 20
"""Bytes of a lease. One that names half a million versions has fewer."""

_Item = tuple[Literal["version", "recipe"], Version | str]
"""What a lease names."""


class _Said(msgspec.Struct, frozen=True):
    """The contents of a lease."""

    versions: list[Version]
    recipes: list[str]


@dataclass
class Hold:
    """What one block of a process holds."""

    _leases: "Leases"
    _held: list["_Item"] = field(default_factory=list)

    def versions(self, *versions: Version) -> None:
        """Also hold these versions. They are held when this returns."""
        self._add(*(("version", version) for version in versions))

    def recipe(self, digest: str) -> None:
        """Say that this recipe is built."""
        self._add(("recipe", digest))

    def _add(self, *items: "_Item") -> None:
        self._held += items
        self._leases.add(items)


@dataclass(frozen=True)
class Living:
    """What the leases that are still good say, and the names of leases that ended long ago."""

    versions: frozenset[Version]
    recipes: frozenset[str]
    dead: list[str]


class Leases:
    """The lease of this process on one store, and those of all processes."""

    def __init__(self, client: Client, terms: Callable[[], Terms]) -> None:
        self._client, self._terms = client, terms
        self._key = f"{LEASES}/{uuid.uuid4().hex}"
        self._held: Counter[_Item] = Counter()
        self._lock = threading.RLock()
        self._end: threading.Event | None = None
        self._clock: tuple[datetime, float] | None = None

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Hold versions until the end of the block."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.drop(hold._held)

    def add(self, items: tuple[_Item, ...]) -> None:
        """Hold more. The lease names them when this returns."""
        with self._lock:
            new = [item for item in items if not self._held[item]]
            self._held.update(items)
            if new:
                self._write()
            if self._end is None:
                self._end = threading.Event()
                threading.Thread(target=self._renew, args=(self._end,), name="lease", daemon=True).start()

    def drop(self, items: list[_Item]) -> None:
        """Hold these no longer. If the server does not answer, the lease ends by itself."""
        with self._lock:
            self._held -= Counter(items)
            if self._held:
                return
            if self._end is not None:
                self._end.set()
                self._end = None
                try:
                    self._client.remove(self._key)
                except StoreError as error:
                    _log.warning("a lease could not be removed and ends by itself: %s", error)

    def now(self, fresh: bool = False) -> datetime:
        """The time of the server's clock. It is never ahead of it, and may be some seconds behind."""
        with self._lock:
            if self._clock is None or fresh or _seconds() - self._clock[1] > _FRESH:
                self._write()
                after = _seconds()
                found = self._client.look(self._key)
                if found is None:
                    raise StoreError(f"{self._client.url}: an object that was just written is not there")
                self._clock = found.modified, after
                if not self._held:
                    self._client.remove(self._key)
            told, then = self._clock
            return told + timedelta(seconds=_seconds() - then)

    def living(self) -> Living:
        """What all leases say, this process's too.

        Raises:
            StoreError: a lease that is good cannot be read. So it is not known what its process holds.
        """
        terms, now = self._terms(), self.now(fresh=True)
        versions: set[Version] = set()
        recipes: set[str] = set()
        dead = []
        for found in self._client.listed(LEASES):
            age = (now - found.modified).total_seconds()
            if age > terms.lease:
                dead += [found.key] if age > terms.lease + terms.grace else []
                continue
            if said := self._read(found):
                versions.update(said.versions)
                recipes.update(said.recipes)
        return Living(frozenset(versions), frozenset(recipes), dead)

    def _read(self, found: Found) -> _Said | None:
        """What a lease says; None if it has just ended."""
        read = self._client.read(found.key) if found.bytes <= _LARGEST else (b"", {})
        try:
            return _parse(read[0]) if read else None
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self._client.url}/{found.key} ({found.bytes:,} bytes) is no lease of a process ({error}). So it is "
                f"not known what that process uses, and nothing is removed. In {self._terms().lease / 60:.0f} minutes "
                "the lease has ended, or its process has written it again: try it again then. If it comes back, delete "
                "that object"
            ) from error

    def _write(self) -> None:
        said: dict[str, list[object]] = {"versions": [], "recipes": []}
        for kind, value in self._held:
            said[f"{kind}s"].append(value)
        self._client.write(self._key, json.dumps(said, default=list).encode())

    def _renew(self, end: threading.Event) -> None:
        pause = third = self._terms().lease / 3
        while not end.wait(pause):
            with self._lock:
                if end.is_set():
                    return
                try:
                    self._write()
                    pause = third
                except StoreError as error:
                    pause = third / 4
                    _log.warning("a lease could not be renewed, and is tried again: %s", error)


def _parse(data: bytes) -> _Said:
    """What a lease says. Anybody who may write to the bucket may have written it.

    Raises:
        ValueError: it is no lease.
        RecursionError: it is nested too deeply.
    """
    said = msgspec.json.decode(data, type=_Said)
    for key, domain, version in said.versions:
        if not (is_key(key) and is_domain(domain) and VERSION.fullmatch(version)):
            raise ValueError(f"{key[:40]!r}, {domain[:40]!r}, {version[:40]!r} name no version")
    for digest in said.recipes:
        if not VERSION.fullmatch(digest):
            raise ValueError(f"{digest[:40]!r} names no recipe")
    return said


def _seconds() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
