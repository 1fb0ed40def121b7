"""Item pictures: a status for every item, and the original bytes of every good picture in shards."""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa

from features.pictures import MAX_BYTES, PictureError, decode
from features.shards import SHARD_BYTES, ShardWriter
from features.tables import ITEM_IMAGES, read_catalogue, write_table

STATUSES = {
    "ok": "a picture lies in a shard",
    "no_url": "the catalogue names no picture",
    "unreachable": "nothing could be read at the address",
    "refused": "the address points outside the image root, or has an unknown scheme",
    "not_an_image": "the content is no picture of a known format",
    "broken": "a picture by its header, but cut off or damaged",
    "too_small": "fewer pixels a side than features.pictures.MIN_SIDE",
    "too_large": "more bytes or pixels than features.pictures.MAX_BYTES, MAX_PIXELS",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class ItemImagesSummary:
    """Items by status, and what the shards hold."""

    items: int
    statuses: dict[str, int]
    fallbacks: int
    """Items whose first address failed and a later one was good."""
    shards: int
    bytes: int


def read_source(url: str, image_root: Path | None, max_bytes: int = MAX_BYTES) -> bytes:
    """Bytes at one address: a path relative to `image_root`, or a file:// URL inside it.

    Raises:
        PictureError: unreachable, refused or too_large.
    """
    scheme = _SCHEME.match(url)
    match scheme and scheme[1].lower():
        case None:
            name = url
        case "http" | "https":
            raise PictureError("unreachable", "http fetching is off")
        case "file":
            address = urlsplit(url)
            if address.netloc not in ("", "localhost"):
                raise PictureError("refused", f"file on another host, {address.netloc}")
            name = url2pathname(address.path)
        case other:
            raise PictureError("refused", f"unknown scheme {other}")
    if image_root is None:
        raise PictureError("unreachable", "no image_root is set")
    return _read_inside(image_root, name, max_bytes)


def _read_inside(root: Path, name: str, max_bytes: int) -> bytes:
    """Bytes of a regular file that lies inside `root` after every .. and symbolic link is followed."""
    try:
        root = root.resolve(strict=True)
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise PictureError("refused", "outside the image root")
        # Without blocking, because opening a FIFO would wait for its other end.
        with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PictureError("unreachable", "not a regular file")
            if status.st_size > max_bytes:
                raise PictureError("too_large", f"{status.st_size:,} bytes, at most {max_bytes:,}")
            return stream.read(max_bytes)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; a loop of links
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError("unreachable", reason) from error


def image_fingerprint(items_parquet: Path, sequence_items_parquet: Path, image_root: Path | None) -> str:
    """Sha256 over every address of every item and the content found there (or why there is none).

    It changes when :func:`collect_images` could have another result although its tables are the same.
    """
    digest = hashlib.sha256()
    catalogue = read_catalogue(items_parquet, sequence_items_parquet, ["image_urls"])
    for urls in catalogue["image_urls"].to_pylist():
        for url in urls or []:
            try:
                found = hashlib.sha256(read_source(url, image_root)).hexdigest()
            except PictureError as error:
                found = error.status
            digest.update(f"{url}\0{found}\0".encode())
    return digest.hexdigest()


def collect_images(
    items_parquet: Path,
    sequence_items_parquet: Path,
    image_root: Path | None,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ItemImagesSummary:
    """Write item_images.parquet (:data:`features.tables.ITEM_IMAGES`) and its shards.

    Both are over exactly the items of core/sequences, sorted by item_id.
    The first address of an item that yields a good picture wins. An item whose every address fails has the
    status of the first, the best one, and the details of all.

    Raises:
        FeatureError: an input table cannot be read. A picture that cannot is a status, never an error.
    """
    catalogue = read_catalogue(items_parquet, sequence_items_parquet, ["image_urls"])
    rows: list[dict[str, object]] = []
    fallbacks = total_bytes = 0
    with ShardWriter(out, shard_bytes) as writer:
        for item_id, urls in zip(*(column.to_pylist() for column in catalogue.columns), strict=True):
            row: dict[str, object] = {"item_id": item_id, "status": None, "url": urls[0] if urls else None}
            details = []
            for url in urls or []:
                try:
                    data = read_source(url, image_root)
                    width, height = decode(data).size
                except PictureError as problem:
                    row["status"] = row["status"] or problem.status
                    details.append(f"{url[:200]}: {problem}")
                    continue
                fallbacks += bool(details)
                total_bytes += len(data)
                content = {"sha256": hashlib.sha256(data).hexdigest(), "width": width, "height": height}
                place = writer.add(item_id, data, {"url": url, **content})
                row |= {"status": "ok", "url": url, "bytes": len(data), **content}
                row |= {"shard": place.shard, "offset": place.offset}
                break
            row["status"] = row["status"] or "no_url"
            row["detail"] = "; ".join(details) or None
            rows.append(row)
            if progress:
                progress(len(rows), len(catalogue))
    write_table(pa.Table.from_pylist(rows, schema=ITEM_IMAGES), out / "item_images.parquet", ITEM_IMAGES)
    return ItemImagesSummary(
        items=len(rows),
        statuses=dict(sorted(Counter(str(row["status"]) for row in rows).items())),
        fallbacks=fallbacks,
        shards=writer.shards,
        bytes=total_bytes,
    )
