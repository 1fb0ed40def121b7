"""Code versions stored between processes, as Python stores compiled modules.

They are in a file in `__pycache__`. They are valid as long as Python's version and the names, sizes and times of all
sources stay the same. If the folder is not writable, nothing is stored and everything is computed again.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from warehouse.artifacts.durable import replacing

_SOURCES = frozenset({".py", ".sql", ".html"})


class Remembered:
    """The stored code versions for the sources in these folders, in their current state."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._file = Path(importlib.util.cache_from_source(__file__)).with_name("code_versions.json")
        self._state = _state(folders)
        self._known: dict[str, str] = {}
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["state"] == self._state:
                self._known = {str(name): str(version) for name, version in found["versions"].items()}

    def get(self, name: str) -> str | None:
        """A code version, or None."""
        return self._known.get(name)

    def put(self, name: str, version: str) -> None:
        """Store a code version."""
        self._known[name] = version
        if sys.dont_write_bytecode:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as file:
                file.write(json.dumps({"state": self._state, "versions": self._known}).encode())


def _state(folders: Iterable[Path]) -> str:
    """A digest of the sources without reading them. It includes the change time, which nobody can set back."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in _SOURCES):
        status = path.stat()
        digest.update(repr((str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)).encode())
    return digest.hexdigest()
