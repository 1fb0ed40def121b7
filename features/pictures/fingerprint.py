"""A fingerprint that shows whether the pictures of a domain may have changed, without network requests. It decides
whether item_images is stale."""

import hashlib
import os
import re
import time
from collections import deque
from collections.abc import Collection, Mapping
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
from warehouse.artifacts.kept import Kept, Shared

__all__ = ["image_fingerprint"]

_AT_ONCE: Final = 32
"""Pictures in a bucket that are read at the same time."""
_MOST: Final = 1 << 30
"""Bytes of shared hashes."""
_SHA256: Final = re.compile("[0-9a-f]{64}")


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
    hashes = _FileHashes(image_root, kept)
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
    """Hashes of files, stored in the cache in one file per image root. Those of a place in a bucket are shared."""

    _SCHEMA = pa.schema([("url", pa.string()), ("stamp", pa.string()), ("sha256", pa.string())])
    """`stamp`: the result of :meth:`_stamp` when the file had this hash."""
    _SETTLED = 2 * 10**9
    """Nanoseconds. A file that changed more recently may change again and keep the same time."""

    def __init__(self, image_root: ImageRoot | None, kept: Kept | None) -> None:
        self._root = image_root
        self._file: Path | None = None
        self._shared: Shared | None = None
        self._known: dict[str, tuple[str, str]] = {}
        self._new = self._own = False
        if image_root and kept:
            place = image_root.absolute() if isinstance(image_root, Path) else image_root.url
            name = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
            self._file = kept.folder / f"files-{name}.parquet"
            self._known = self._parse(self._file)
            self._shared = kept.shared if isinstance(image_root, BucketRoot) else None

    def _parse(self, source: Path | pa.BufferReader) -> dict[str, tuple[str, str]]:
        """The hashes in a file; none if it is missing or damaged: then the files are hashed again."""
        try:
            table = pq.read_table(source, page_checksum_verification=True).select(self._SCHEMA.names)
            columns = (column.to_pylist() for column in table.cast(self._SCHEMA).columns)
            return {url: (stamp, digest) for url, stamp, digest in zip(*columns, strict=True)}
        except (OSError, KeyError, pa.ArrowException):
            return {}

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
            self._new = self._own = True
        return found

    def ask(self, urls: Collection[str]) -> None:
        """Hash these, many at a time, because each waits for a server. What another machine has hashed is not read."""
        stamps = {url: self._stamp(url) for url in urls}
        unknown = {url: stamp for url, stamp in stamps.items() if stamp and self._known.get(url, ("",))[0] != stamp}
        if unknown and self._shared and self._file and (data := self._shared.read(self._file.name, _MOST)):
            told = self._parse(pa.BufferReader(data))
            right = {url: told[url] for url, stamp in unknown.items() if url in told and told[url][0] == stamp}
            self._known |= {url: (stamp, digest) for url, (stamp, digest) in right.items() if _SHA256.fullmatch(digest)}
            self._new = bool(right)
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
            replies.write_whole(self._file, self._table(self._known))
        if self._own and self._shared and self._file:
            self._shared.change(self._file.name, _MOST, self._merged)

    def _merged(self, data: bytes | None) -> bytes:
        """The shared hashes with those of this machine."""
        return self._table((self._parse(pa.BufferReader(data)) if data else {}) | self._known)

    def _table(self, known: Mapping[str, tuple[str, str]]) -> bytes:
        rows = [(url, *known[url]) for url in sorted(known)]
        table = pa.table(list(map(list, zip(*rows, strict=True))), schema=self._SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return bytes(sink.getvalue())
