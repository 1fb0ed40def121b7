"""A raw folder in a bucket, such as s3://bucket/prefix.

Which files there are, and whether one has changed, is told by a listing: names, sizes and ETags. The sha256 of a file
is computed when it is downloaded, and remembered for its name, ETag and size, for other machines too if the store is in
a bucket. Who reads a file gets a local copy of it, because the readers of raw files want plain files
(docs/decisions/0029).
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipelines.data_folder.raw_folder import Look
from warehouse.artifacts.copies import Copies
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.hashes import Hashes
from warehouse.artifacts.kept import Shared
from warehouse.artifacts.objects.client import Client, Found
from warehouse.errors import DataError

__all__ = ["RawBucket"]

_log = logging.getLogger("mmm4rec")
_MOST: Final = 1 << 16
"""Bytes of what machines tell each other of a file."""
_SHA256: Final = re.compile(rb'"sha256": "([0-9a-f]{64})"\}$')


class RawBucket:
    """A raw folder at the address `url`. It is listed once; the sha256 of a file is that of the file as it is now.

    Raises:
        StoreError: this is no address of a bucket.
    """

    path = None

    def __init__(self, url: str, hashes: Hashes, copies: Copies, shared: Shared | None = None) -> None:
        self._client = Client(url)
        self._hashes, self._copies, self._shared = hashes, copies, shared
        self._listed: dict[str, dict[str, Found]] = {}

    def __str__(self) -> str:
        return self._client.url

    def names(self, below: str = "") -> list[str]:
        """See `RawFolder`."""
        return list(self._files(below))

    def has(self, name: str) -> bool:
        """See `RawFolder`."""
        return name in self._files()

    def where(self, name: str) -> str:
        """See `RawFolder`."""
        return f"{self._client.url}/{name}"

    def look(self, name: str) -> Look:
        """See `RawFolder`."""
        return _look(self._files()[name])

    def at_rest(self, name: str, seconds: float) -> bool:
        """See `RawFolder`. An object is there when all of it is."""
        return True

    def may_be_cut(self, name: str) -> bool:
        """See `RawFolder`."""
        return False

    def sha256(self, name: str) -> str:
        """See `RawFolder`."""
        found = self._client.look(name)
        if found is None:
            raise self._gone(name)
        known = self._hashes.recall(self.where(name), _look(found))
        return known or self._told(name, found) or self._copies.add(lambda path: self._download(name, path))

    @contextmanager
    def opened(self, name: str, sha256: str) -> Iterator[Path]:
        """See `RawFolder`."""

        def get(path: Path) -> str:
            if self._download(name, path) != sha256:
                raise StoreError(f"{self.where(name)} changed while it was read: run it again")
            return sha256

        with self._copies.lent(sha256, name, get) as path:
            try:
                yield path
            except DataError as error:
                raise DataError(str(error).replace(str(path), self.where(name))) from error

    def _files(self, below: str = "") -> dict[str, Found]:
        """The files in the folder, or in one in it, by name."""
        if below not in self._listed:
            found = self._client.directly(below or None)
            self._listed[below] = {each.key.rpartition("/")[2]: each for each in found}
        return self._listed[below]

    def _download(self, name: str, path: Path) -> str:
        """Write a file to a path, remember its sha256 for the state that was read, and return it."""
        _log.info("downloading %s", self.where(name))
        got = self._client.download(name, path)
        if got is None:
            raise self._gone(name)
        found, sha256 = got
        self._hashes.remember(self.where(name), _look(found), sha256)
        if self._shared:
            record = self._record(name, found, sha256)
            self._shared.add(self._recorded(name, found), record, _MOST, lambda there: there == record)
        return sha256

    def _told(self, name: str, found: Found) -> str | None:
        """The sha256 that another machine has computed, which is then remembered; None if there is none.

        If it is wrong, reading the file shows that, and corrects it.
        """
        data = self._shared.read(self._recorded(name, found), _MOST) if self._shared else None
        match = _SHA256.search(data) if data else None
        if data is None or match is None:
            return None
        sha256 = match[1].decode()
        if data != self._record(name, found, sha256):
            return None
        self._hashes.remember(self.where(name), _look(found), sha256)
        return sha256

    def _record(self, name: str, found: Found, sha256: str) -> bytes:
        """What machines tell each other of a file."""
        said = {"file": self.where(name), "look": _look(found), "sha256": sha256}
        return json.dumps(said, sort_keys=True).encode()

    def _recorded(self, name: str, found: Found) -> str:
        """The name under which they do."""
        return hashlib.sha256(self._record(name, found, "")).hexdigest()

    def _gone(self, name: str) -> DataError:
        return DataError(f"{self.where(name)} is no longer there: put it back, or remove its domain from domains.yaml")


def _look(found: Found) -> Look:
    """A server without ETags tells at least the time."""
    return [found.bytes, found.tag.get("e_tag", found.modified.isoformat())]
