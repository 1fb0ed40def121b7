"""Leases: what running processes read and build, for others to see; and the time by the server's clock.

A process has one lease, an object that it writes again before a third of its time is over, and removes at the end. The
age of an object is the time from its last modification to that of a lease just written, both by the server. No worker's
clock is asked, only how much time has passed.
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

from warehouse.artifacts.artifact import Version
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.objects.client import Client
from warehouse.artifacts.objects.layout import LEASES
from warehouse.artifacts.objects.terms import Terms

__all__ = ["Hold", "Leases", "Living"]

_log = logging.getLogger("mmm4rec")
_FRESH: Final = 30.0
"""Seconds for which a look at the server's clock is good; after that it is looked at again."""

_Item = tuple[Literal["version", "recipe"], Version | str]
"""What a lease names."""


@dataclass
class Hold:
    """What one block of a process holds."""

    _leases: "Leases"
    _held: list["_Item"] = field(default_factory=list)

    def versions(self, *versions: Version) -> None:
        """Hold these versions, too, from when this returns."""
        self._add(*(("version", version) for version in versions))

    def recipe(self, digest: str) -> None:
        """Say that this recipe is built."""
        self._add(("recipe", digest))

    def _add(self, *items: "_Item") -> None:
        self._held += items
        self._leases.add(items)


@dataclass(frozen=True)
class Living:
    """What the leases say that are good, and the names of those that have long not been."""

    versions: frozenset[Version]
    recipes: frozenset[str]
    dead: list[str]


class Leases:
    """The lease of this process on one store, and a look at those of all."""

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
        """Hold more. The lease says so when this returns."""
        with self._lock:
            new = [item for item in items if not self._held[item]]
            self._held.update(items)
            if new:
                self._write()
            if self._end is None:
                self._end = threading.Event()
                threading.Thread(target=self._renew, args=(self._end,), name="lease", daemon=True).start()

    def drop(self, items: list[_Item]) -> None:
        """Hold these no longer. Without the server it is only forgotten: the lease then ends by itself."""
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
        """The time by the server's clock: never later than it is there, and by seconds earlier."""
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
        """What all leases say, this process's too."""
        terms, now = self._terms(), self.now(fresh=True)
        versions: set[Version] = set()
        recipes: set[str] = set()
        dead = []
        for found in self._client.listed(LEASES):
            age = (now - found.modified).total_seconds()
            if age > terms.lease:
                dead += [found.key] if age > terms.lease + terms.grace else []
                continue
            said = self._client.read(found.key)
            if said is not None:
                plain = json.loads(said[0])
                versions |= {(key, domain, digest) for key, domain, digest in plain["versions"]}
                recipes |= {*plain["recipes"]}
        return Living(frozenset(versions), frozenset(recipes), dead)

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


def _seconds() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
