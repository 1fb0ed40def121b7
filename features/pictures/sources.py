"""The bytes at one address of a picture: what is inside the image root, or the stored reply of a web server."""

import os
import re
import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from features.pictures.decode import MAX_BYTES, PictureError
from features.pictures.replies import recall
from features.pictures.roots import BucketRoot, ImageRoot
from features.settings import Fetching

__all__ = ["DEFAULT", "UnaskedError", "read_source"]

DEFAULT: Final = Fetching()
"""The default settings for requests to the web."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_INLINE: Final = re.compile(r"data:[^,]*,", re.IGNORECASE)
"""The beginning of an address that contains the picture itself."""


class UnaskedError(LookupError):
    """The cache has no reply of this http(s) address yet."""


def read_source(
    url: str, image_root: ImageRoot | None, cache: Path | None = None, fetching: Fetching = DEFAULT
) -> bytes:
    """Bytes at one address: a path relative to `image_root`, a file:// URL inside it, or a stored reply of the web.

    Raises:
        PictureError: unreachable, refused, too_large, or another status of a download.
        LookupError: the http(s) address was not requested yet.
        StoreError: the image root is in a bucket that cannot be reached.
    """
    if _INLINE.match(url):
        raise PictureError(
            "refused", "it contains the picture itself (data:), which is not read: put the picture into a file"
        )
    scheme = _SCHEME.match(url)
    match scheme and scheme[1].lower():
        case None:
            name = url
        case "http" | "https":
            return _read_reply(url, cache, fetching)
        case "file":
            address = urlsplit(url)
            if address.netloc not in ("", "localhost"):
                raise PictureError("refused", f"a file on another host, {address.netloc}")
            name = url2pathname(address.path)
        case other:
            raise PictureError("refused", f"unknown scheme {other}")
    if image_root is None:
        raise PictureError("unreachable", "no image_root is set")
    if isinstance(image_root, BucketRoot):
        return image_root.read(name)
    return _read_inside(image_root, name, MAX_BYTES)


def _read_reply(url: str, cache: Path | None, fetching: Fetching) -> bytes:
    if not fetching.http:
        raise PictureError("unreachable", "http fetching is off")
    reply = recall(cache, url, fetching.private_addresses) if cache else None
    if reply is None:
        raise UnaskedError(url)
    if reply.status != "ok":
        raise PictureError(reply.status, reply.detail or "")
    return reply.body


def _read_inside(root: Path, name: str, max_bytes: int) -> bytes:
    """Bytes of a regular file that is inside `root` after every .. and symbolic link is resolved."""
    try:
        root = root.resolve(strict=True)
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise PictureError("refused", "outside the image root")
        # Opened without blocking, because opening a FIFO would wait for its other end.
        with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PictureError("unreachable", "not a regular file")
            if status.st_size > max_bytes:
                raise PictureError("too_large", f"{status.st_size:,} bytes, at most {max_bytes:,}")
            return stream.read(status.st_size)  # reads nothing from a pseudo-file of size 0
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; a loop of links
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError("unreachable", reason) from error
