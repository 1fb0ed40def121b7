"""Local copies of files that are elsewhere, by content, so that readers get plain files that nobody changes.

    <root>/<sha256>           a copy
    <root>/.staging, .lock    as in a store in a folder

A copy gets its name when all of it is on disk and its sha256 is known. Who reads one has a link of its own, so copies
may be removed at any time: those that were used longest ago are, when there is more than `limit` bytes. The folder may
be deleted while nothing runs.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from warehouse.artifacts.durable import flush
from warehouse.artifacts.staging import Staging, room_for

__all__ = ["Copies"]

_NAME: Final = re.compile("[0-9a-f]{64}")


class Copies:
    """The copies in the folder `root`; `limit` is in bytes."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._staging = Staging(root)

    def add(self, get: Callable[[Path], str]) -> str:
        """Keep the file that `get` writes to a path; `get` returns its sha256, and so does this.

        Raises:
            StoreError: there is no space, or as `get`.
        """
        with room_for("copying a file from a bucket", self._root):
            self._staging.sweep()
            with self._staging.new() as folder:
                return self._place(folder / "file", get)

    @contextmanager
    def lent(self, sha256: str, name: str, get: Callable[[Path], str]) -> Iterator[Path]:
        """A file of this name with this content, until the end of the block. Without a copy of it, `get` gets one.

        Raises:
            StoreError: there is no space, or as `get`, which has to see to it that it gets this content.
        """
        with self._staging.new() as folder:
            path = folder / name
            with room_for(f"copying {name} from a bucket", self._root):
                if not self._link(sha256, path):
                    self._staging.sweep()
                    self._place(folder / "file", get, path)
            yield path

    def unused(self) -> list[Path]:
        """The copies, all of which may be removed: what is read now is read by another name."""
        return sorted(path for path in self._root.glob("*") if _NAME.fullmatch(path.name))

    def _link(self, sha256: str, path: Path) -> bool:
        """Let a path lead to a copy; False if there is none."""
        with self._staging.lock(), suppress(FileNotFoundError):
            os.link(self._root / sha256, path, follow_symlinks=False)
            os.utime(path)  # it is used now
            return True
        return False

    def _place(self, made: Path, get: Callable[[Path], str], link: Path | None = None) -> str:
        sha256 = get(made)
        made.chmod(0o444)
        flush(made)
        if link:
            os.link(made, link)
        with self._staging.lock():
            self._make_room(made.stat().st_size)
            made.replace(self._root / sha256)
            flush(self._root)
        return sha256

    def _make_room(self, needed: int) -> None:
        """Remove those that were used longest ago, until there is room for so many bytes."""
        found = {path: path.lstat() for path in self.unused()}
        surplus = sum(status.st_size for status in found.values()) + needed - self._limit
        for path in sorted(found, key=lambda path: (found[path].st_mtime_ns, path)):
            if surplus <= 0:
                break
            path.unlink()
            surplus -= found[path].st_size
