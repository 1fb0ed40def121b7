"""Where relative picture paths start: a folder of this machine, or a place in a bucket (:class:`BucketRoot`)."""

import errno
import os
import posixpath
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from features.pictures.decode import MAX_BYTES, PictureError

if TYPE_CHECKING:
    from warehouse.artifacts.objects.client import Client, Found

__all__ = ["BucketRoot", "ImageRoot", "opened"]

_TRIES: Final = 3


class BucketRoot:
    """The pictures below an address such as s3://bucket/prefix. They are listed once, when the first one is asked for.

    Raises:
        StoreError: (every method) the bucket cannot be reached or read.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = Lock()
        self._client: Client | None = None
        self._found: dict[str, Found] = {}

    def read(self, name: str) -> bytes:
        """The bytes of the picture at a path below the address.

        Raises:
            PictureError: unreachable, refused or too_large.
        """
        client, key = self._listed(), _key(name)
        for _ in range(_TRIES):
            found = self._found.get(key)
            if found is None:
                raise PictureError("unreachable", os.strerror(errno.ENOENT))
            if found.bytes > MAX_BYTES:
                raise PictureError("too_large", f"{found.bytes:,} bytes, at most {MAX_BYTES:,}")
            said = client.read(key)
            if said and said[1].get("e_tag") == found.tag.get("e_tag"):
                return said[0]
            now = client.look(key)  # it has changed since it was listed
            if now:
                self._found[key] = now
            else:
                self._found.pop(key, None)
        raise PictureError("unreachable", "it changes again and again")

    def stamp(self, name: str) -> str | None:
        """A text that changes with the picture, as it was listed or read; None if there is none."""
        self._listed()
        try:
            found = self._found.get(_key(name))
        except PictureError:
            return None
        return f"{found.bytes} {found.tag.get('e_tag', found.modified.isoformat())}" if found else None

    def _listed(self) -> "Client":
        from warehouse.artifacts.objects.client import Client

        with self._lock:
            if self._client is None:
                client = Client(self.url)
                self._found = {found.key: found for found in client.listed()}
                self._client = client
            return self._client


ImageRoot = Path | BucketRoot


def opened(place: Path | str) -> ImageRoot:
    """The image root in a folder or at an address. Nothing is read yet."""
    return place if isinstance(place, Path) else BucketRoot(place)


def _key(name: str) -> str:
    """The name of the object at a path."""
    path = posixpath.normpath(name)
    if path.startswith(("/", "../")) or path == "..":
        raise PictureError("refused", "outside the image root")
    return path
