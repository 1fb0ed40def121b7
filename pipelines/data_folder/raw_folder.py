"""The raw folder, in which the raw files of all categories lie: a folder of this machine, or a place in a bucket.

`pipelines.data_folder.raw_files` decides which of its files are read, by their names.
"""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from warehouse.artifacts.files import sha256_file

__all__ = ["LocalFolder", "Look", "RawFolder"]

Look = list[int | str]
"""What shows of a file without reading it; where the content changes, one of these does."""


class RawFolder(Protocol):
    """The raw folder; `str` names it for people.

    Raises:
        StoreError: (every method) it is in a bucket that cannot be reached or read.
    """

    @property
    def path(self) -> Path | None:
        """The folder on this machine; None in a bucket."""

    def names(self, below: str = "") -> list[str]:
        """The names of the files in it, or in the folder `below` in it; none if there is no such folder."""

    def has(self, name: str) -> bool:
        """Whether there is a file with this name."""

    def where(self, name: str) -> str:
        """The place of a file: an absolute path or an address."""

    def look(self, name: str) -> Look:
        """What shows of a file that is there."""

    def at_rest(self, name: str, seconds: float) -> bool:
        """Whether a file has not changed for so long, so that nobody is still copying it."""

    def may_be_cut(self, name: str) -> bool:
        """Whether a file may be there before all of it is."""

    def sha256(self, name: str) -> str:
        """The sha256 of a file's bytes, in hex. It is remembered as long as the file shows no change.

        Raises:
            OSError, DataError: the file cannot be read.
        """

    def opened(self, name: str, sha256: str) -> AbstractContextManager[Path]:
        """The file as a plain one, with its name, until the end of the block. Errors in the block name its place.

        Raises:
            StoreError: it is in a bucket, and has another sha256 now.
        """


class LocalFolder:
    """A raw folder on this machine; `sha256` hashes a file. One that changes while it is read shows that by its sha256
    afterwards."""

    def __init__(self, path: Path, sha256: Callable[[Path], str] = sha256_file) -> None:
        self.path: Path = path
        self._sha256 = sha256

    def __str__(self) -> str:
        return str(self.path)

    def names(self, below: str = "") -> list[str]:
        """See `RawFolder`."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path / below) as entries:
            return [entry.name for entry in entries if entry.is_file()]
        return []

    def has(self, name: str) -> bool:
        """See `RawFolder`."""
        return (self.path / name).is_file()

    def where(self, name: str) -> str:
        """See `RawFolder`."""
        return str((self.path / name).absolute())

    def look(self, name: str) -> Look:
        """See `RawFolder`. The change time is in it, because only that reveals another file with the same size and a
        preserved time."""
        status = (self.path / name).stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    def at_rest(self, name: str, seconds: float) -> bool:
        """See `RawFolder`. The change time is used, because a copy program cannot set it back."""
        return time.time() - (self.path / name).stat().st_ctime >= seconds

    def may_be_cut(self, name: str) -> bool:
        """See `RawFolder`."""
        return True

    def sha256(self, name: str) -> str:
        """See `RawFolder`."""
        return self._sha256(self.path / name)

    def opened(self, name: str, sha256: str) -> AbstractContextManager[Path]:
        """See `RawFolder`."""
        return nullcontext(self.path / name)
