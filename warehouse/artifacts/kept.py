"""Caches whose contents machines share, where the store is in a bucket.

What is shared is found by content, or by what it answers, and is only ever a copy of what a cache on some machine has.
So it may be deleted at any time, and whoever reads it checks it first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

__all__ = ["Kept", "Shared"]


class Shared(Protocol):
    """Small files that any number of machines add and find, by name. One that is there is whole, as somebody added it.

    Raises:
        StoreError: (every method) the bucket cannot be reached or read; `ReadOnlyError`: it may not be written.
    """

    def below(self, folder: str) -> "Shared":
        """Those in a folder."""

    def names(self) -> dict[str, int]:
        """The names of all, with their bytes."""

    def read(self, name: str, most: int) -> bytes | None:
        """The bytes of one; None if there is none, or if it has more than `most` bytes."""

    def add(self, name: str, data: bytes, most: int, good: Callable[[bytes], bool]) -> None:
        """Write one, unless there is one of at most `most` bytes that is `good`."""

    def change(self, name: str, most: int, change: Callable[[bytes | None], bytes | None]) -> None:
        """Write what `change` makes of what is there; it gets None if there is none, and returns None to leave it. It
        is asked again if another machine was faster."""


@dataclass(frozen=True)
class Kept:
    """The folder of a cache on this machine, and what is shared of it; None: nothing."""

    folder: Path
    shared: Shared | None = None

    def below(self, name: str) -> Self:
        """The cache in a folder of this one."""
        return type(self)(self.folder / name, self.shared.below(name) if self.shared else None)

    @classmethod
    def of(cls, place: "Path | Kept") -> Self:
        """The cache in a folder, with what is shared of it, if anything is."""
        return cls(place.folder, place.shared) if isinstance(place, Kept) else cls(place)
