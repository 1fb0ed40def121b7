"""Whether the pictures of a domain would still be the same, without network requests. This decides if item_images is
stale."""

import hashlib
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.parquet import read_catalogue
from features.pictures import replies
from features.pictures.decode import PictureError
from features.pictures.replies import is_web
from features.pictures.sources import DEFAULT, read_source
from features.settings import Fetching

__all__ = ["image_fingerprint"]


def image_fingerprint(
    items_parquet: Path,
    sequence_items_parquet: Path,
    image_root: Path | None,
    cache: Path | None = None,
    fetching: Fetching = DEFAULT,
) -> str:
    """Sha256 over every address of every item and what would be found there, asking nobody.

    It changes when :func:`features.pictures.item_images.collect_images` could have another result although its tables
    are the same. A file counts by its content (or why there is none); its hash is remembered in `cache` and taken from
    there while size, time and inode of the file stay the same. An http(s) address counts by how often it was forgotten,
    so a download does not change it.
    """
    digest = hashlib.sha256()
    catalogue = read_catalogue(items_parquet, sequence_items_parquet, ["image_urls"])
    urls = [url for urls in catalogue["image_urls"].to_pylist() for url in urls or []]
    forgotten = replies.times_forgotten(cache) if cache and fetching.http else {}
    hashes = _FileHashes(image_root, cache)
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
    """Hashes of local files, remembered in the cache by image root."""

    _SCHEMA = pa.schema([("url", pa.string()), ("stamp", pa.string()), ("sha256", pa.string())])
    """`stamp`: what :meth:`_stamp` gave when the file had the hash."""
    _SETTLED = 2 * 10**9
    """Nanoseconds. A file changed more recently can change again without its time telling."""

    def __init__(self, image_root: Path | None, cache: Path | None) -> None:
        self._root = image_root
        self._file: Path | None = None
        self._known: dict[str, tuple[str, str]] = {}
        self._new = False
        if image_root and cache:
            name = hashlib.sha256(os.fsencode(image_root.absolute())).hexdigest()[:16]
            self._file = cache / f"files-{name}.parquet"
            try:
                table = pq.read_table(self._file, page_checksum_verification=True).select(self._SCHEMA.names)
                columns = (column.to_pylist() for column in table.cast(self._SCHEMA).columns)
                self._known = {url: (stamp, digest) for url, stamp, digest in zip(*columns, strict=True)}
            except (OSError, KeyError, pa.ArrowException):
                pass  # none, or damaged: hashed again

    def of(self, url: str) -> str:
        """The sha256 of the file at an address, or the status of its absence."""
        known = self._known.get(url)
        stamp = self._stamp(url) if self._file else None
        if known and known[0] == stamp:
            return known[1]
        try:
            found = hashlib.sha256(read_source(url, self._root)).hexdigest()
        except PictureError as error:
            return error.status
        if stamp and stamp == self._stamp(url) and time.time_ns() - int(stamp.rpartition(" ")[2]) > self._SETTLED:
            self._known[url] = stamp, found
            self._new = True
        return found

    def _stamp(self, url: str) -> str | None:
        """What changes with a file: device, inode, size, times; of a file:// address nothing is remembered."""
        try:
            found = os.stat(os.path.join(self._root or "", url))  # noqa: PTH116, PTH118 - 100,000 times
        except (OSError, ValueError):
            return None
        return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    def keep(self) -> None:
        """Remember what is new."""
        if self._new and self._file:
            rows = [(url, *self._known[url]) for url in sorted(self._known)]
            table = pa.table(list(map(list, zip(*rows, strict=True))), schema=self._SCHEMA)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
            replies.write_whole(self._file, sink.getvalue())
