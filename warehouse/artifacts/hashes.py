"""Cached hashes of raw files, so that a run with nothing to do does not have to read gigabytes.

A hash is cached with the file's size, inode and times. Writing a file, replacing it or resetting its times changes one
of these (the change time cannot be set). Only a second write within the same tick of the file system's clock would not.
Therefore the hash of a file that changed just before it was read is not cached. What shows of a file in a bucket is its
ETag and size (`pipelines.data_folder.raw_bucket`).
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from warehouse.artifacts.durable import replacing
from warehouse.artifacts.files import sha256_file

__all__ = ["Hashes"]

_SETTLED: Final = 2 * 10**9
"""Nanoseconds after a change until another one is sure to show; file systems' clocks tick in up to two seconds."""


class Hashes:
    """The sha256 of files, cached in a folder that may be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sha256(self, path: Path) -> str:
        """The sha256 of the file's bytes, in hex.

        Raises:
            OSError: the file cannot be read.
        """
        name, status = str(path.resolve()), _file_status(path)
        if known := self.recall(name, status):
            return known
        began = time.time_ns()
        digest = sha256_file(path)
        changed = max(status[-2:])
        if _file_status(path) == status and changed < began - _SETTLED:
            self.remember(name, status, digest)
        return digest

    def recall(self, name: str, look: Sequence[int | str]) -> str | None:
        """The hash that is remembered of a file that looked like this; None if there is none. `name` is its path or its
        address."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self._record(name).read_text(encoding="utf-8"))
            if known["look"] == [*look]:
                return str(known["sha256"])
        return None

    def remember(self, name: str, look: Sequence[int | str], sha256: str) -> None:
        """Without a hash remembered the file is read again: no reason to fail where this cannot be written."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._record(name)) as file:
                file.write(json.dumps({"path": name, "look": [*look], "sha256": sha256}).encode())

    def _record(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(name)).hexdigest()}.json"


def _file_status(path: Path) -> list[int]:
    """What shows of a file without reading it; the times come last."""
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_dev, found.st_mtime_ns, found.st_ctime_ns]
