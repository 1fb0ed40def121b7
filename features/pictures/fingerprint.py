"""A fingerprint that shows whether the pictures of a domain may have changed, without network requests. It decides
whether item_images is stale."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from features.parquet import read_catalogue
from features.pictures import replies, sharing
from features.pictures.decode import PictureError
from features.pictures.replies import is_web
from features.pictures.roots import BucketRoot, ImageRoot
from features.pictures.sources import DEFAULT, read_source
from features.settings import Fetching
from warehouse.artifacts.kept import Kept

__all__ = ["image_fingerprint"]

_AT_ONCE: Final = 32
"""Pictures in a bucket that are read at the same time."""


def image_fingerprint(
    items_parquet: Path,
    sequence_items_parquet: Path,
    image_root: ImageRoot | None,
    cache: Path | Kept | None = None,
    fetching: Fetching = DEFAULT,
) -> str:
    """Sha256 over every address of every item and the state of its picture, without requests.

    It changes if :func:`features.pictures.item_images.collect_images` could have another result from the same tables.
    For a file, the state is its content, or why there is none. Hashes of files are stored in `cache`, and are used as
    long as size, times and inode of the file stay the same; in a bucket, size and ETag. For an http(s) address, the
    state is how often it was forgotten, so a download does not change the fingerprint.
    """
    digest = hashlib.sha256()
    catalogue = read_catalogue(items_parquet, sequence_items_parquet, ["image_urls"])
    urls = [url for urls in catalogue["image_urls"].to_pylist() for url in urls or []]
    kept = Kept.of(cache) if cache else None
    forgotten = sharing.times_forgotten(kept) if kept and fetching.http and any(map(is_web, urls)) else {}
    hashes = _FileHashes(image_root, kept.folder if kept else None)
    if isinstance(image_root, BucketRoot):
        hashes.ask({url for url in urls if not is_web(url)})
    for url in urls:
        if is_web(url):
            times = forgotten.get(replies.key_of(url), 0) if forgotten else 0
            found = f"{times} {fetching.private_addresses}" if fetching.http else "off"
        else:
            found = hashes.of(url)
        digest.update(f"{url}\0{found}\0".encode())
    hashes.keep()
    return digest.hexdigest()


class _FileHashes:
    """Hashes of files, stored in the cache in one file per image root."""

    _SCHEMA = pa.schema([("url", pa.string()), ("stamp", pa.string()), ("sha256", pa.string())])
    """`stamp`: the result of :meth:`_stamp` when the file had this hash."""
    _SETTLED = 2 * 10**9
    """Nanoseconds. A file that changed more recently may change again and keep the same time."""

    def __init__(self, image_root: ImageRoot | None, cache: Path | None) -> None:
        self._root = image_root
        self._file: Path | None = None
        self._known: dict[str, tuple[str, str]] = {}
        self._new = False
        if image_root and cache:
            place = image_root.absolute() if isinstance(image_root, Path) else image_root.url
            name = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
            self._file = cache / f"files-{name}.parquet"
            try:
                table = pq.read_table(self._file, page_checksum_verification=True).select(self._SCHEMA.names)
                columns = (column.to_pylist() for column in table.cast(self._SCHEMA).columns)
                self._known = {url: (stamp, digest) for url, stamp, digest in zip(*columns, strict=True)}
            except (OSError, KeyError, pa.ArrowException):
                pass  # missing or damaged: the files are hashed again

    def of(self, url: str) -> str:
        """The sha256 of the file at an address, or the status that says why it cannot be read."""
        known = self._known.get(url)
        stamp = self._stamp(url) if self._file else None
        if known and known[0] == stamp:
            return known[1]
        try:
            found = hashlib.sha256(read_source(url, self._root)).hexdigest()
        except PictureError as error:
            return error.status
        if stamp and stamp == self._stamp(url) and self._settled(stamp):
            self._known[url] = stamp, found
            self._new = True
        return found

    def ask(self, urls: Iterable[str]) -> None:
        """Hash these, many at a time, because each waits for a server."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            deque(pool.map(self.of, urls), maxlen=0)

    def _settled(self, stamp: str) -> bool:
        return isinstance(self._root, BucketRoot) or time.time_ns() - int(stamp.rpartition(" ")[2]) > self._SETTLED

    def _stamp(self, url: str) -> str | None:
        """A text that changes with the file: device, inode, size, times. None for a file:// address or a missing file,
        whose hash is not stored."""
        if isinstance(self._root, BucketRoot):
            return self._root.stamp(url)
        try:
            found = os.stat(os.path.join(self._root or "", url))  # noqa: PTH116, PTH118 - 100,000 times
        except (OSError, ValueError):
            return None
        return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    def keep(self) -> None:
        """Store the hashes if there are new ones."""
        if self._new and self._file:
            rows = [(url, *self._known[url]) for url in sorted(self._known)]
            table = pa.table(list(map(list, zip(*rows, strict=True))), schema=self._SCHEMA)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
            replies.write_whole(self._file, sink.getvalue())
