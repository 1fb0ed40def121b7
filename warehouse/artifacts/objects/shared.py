"""What machines share of their caches, as objects below `cache/` in the bucket of a store.

It is no part of any version, and no collection touches it: what was costly stays until a person deletes it. An object
is written only if there is none, or in place of the state that was read and found bad, so that any number of machines
may add at once. One that is there is there as a whole, whenever its writer was killed.
"""

import logging
from collections.abc import Callable
from typing import Final

from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.objects.client import Client

__all__ = ["SharedObjects"]

_log = logging.getLogger("mmm4rec")
_TRIES: Final = 20
"""How often an object is changed again because others were faster."""


class _TooLargeError(Exception):
    """There are more bytes than anybody has added."""


class SharedObjects:
    """The objects below a prefix. See `Shared`."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client, self._prefix = client, prefix

    def below(self, folder: str) -> "SharedObjects":
        """See `Shared`."""
        return SharedObjects(self._client, self._key(folder))

    def names(self) -> dict[str, int]:
        """See `Shared`."""
        start = len(self._prefix) + 1
        return {found.key[start:]: found.bytes for found in self._client.listed(self._prefix)}

    def read(self, name: str, most: int) -> bytes | None:
        """See `Shared`."""
        held = bytearray()

        def begin() -> Callable[[bytes], None]:
            held.clear()
            return take

        def take(piece: bytes) -> None:
            held.extend(piece)
            if len(held) > most:
                raise _TooLargeError

        try:
            return bytes(held) if self._client.stream(self._key(name), begin) else None
        except _TooLargeError:
            _log.warning("%s/%s is not used: it has more than %s bytes", self._client.url, self._key(name), f"{most:,}")
            return None

    def add(self, name: str, data: bytes, most: int, good: Callable[[bytes], bool]) -> None:
        """See `Shared`."""
        key = self._key(name)
        found = self._client.look(key)  # first, because a refused write reads what is there, whatever its size
        if found is None:
            self._client.create(key, data)  # if another machine is faster, its one is as good
            return
        there = self.read(name, most) if found.bytes <= most else None
        if there is None or not good(there):
            self._client.replace(key, data, found.tag)

    def change(self, name: str, most: int, change: Callable[[bytes | None], bytes | None]) -> None:
        """See `Shared`."""
        key = self._key(name)
        for _ in range(_TRIES):
            found = self._client.look(key)
            data = change(self.read(name, most) if found else None)
            if data is None:
                return
            tag = self._client.replace(key, data, found.tag) if found else self._client.create(key, data)
            if tag is not None:
                return
        raise StoreError(f"{self._client.url}/{key} is changed by others again and again: run it again")

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"
