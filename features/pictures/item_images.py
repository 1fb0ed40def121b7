"""Item pictures: a status for every item, and the original bytes of every good picture in shards."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from features.errors import FeatureError
from features.parquet import read_catalogue, write_table
from features.pictures import replies, sharing
from features.pictures.decode import (
    MAX_BYTES,
    MAX_PIXELS,
    MAX_WEBP_PIXELS,
    MIN_SIDE,
    THREADS,
    PictureError,
    measure,
)
from features.pictures.download import Downloads
from features.pictures.replies import is_web
from features.pictures.roots import ImageRoot
from features.pictures.shards import SHARD_BYTES, ShardWriter
from features.pictures.sources import DEFAULT, UnaskedError, read_source
from features.settings import Fetching
from features.tables import ITEM_IMAGES
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.threads import map_in_order

STATUSES = {
    "ok": "the picture is in a shard",
    "no_url": "the catalogue names no picture",
    "unreachable": "nothing could be read from the address, or its server failed at every attempt",
    "timeout": "the server was silent for too long, or the download took too long",
    "not_found": "the server does not have the picture, or does not give it out (404, 410, 403 and similar)",
    "refused": "the address points outside the image root or to a private host, or has an unknown scheme",
    "not_an_image": "the content is not a picture in a known format",
    "broken": "the header is that of a picture, but the picture is cut off or damaged",
    "too_small": f"fewer than {MIN_SIDE} pixels on a side",
    "too_large": f"more than {MAX_BYTES >> 20} MiB, or more than {MAX_PIXELS:,} pixels ({MAX_WEBP_PIXELS:,} if it is "
    "WebP or AVIF)",
}
_JUDGED = {"not_an_image", "broken", "too_small", "too_large"}
"""The statuses that describe a content."""
_AHEAD = 2 * THREADS
"""Items that are read ahead; only a few, because they hold pictures in memory."""


@dataclass(frozen=True)
class ItemImagesSummary:
    """Numbers of items by status, and of shards and their bytes."""

    items: int
    statuses: dict[str, int]
    fallbacks: int
    """Items whose first address failed and whose picture comes from a later address."""
    shards: int
    bytes: int


def forget(cache: Path | Kept, statuses: Collection[str]) -> int:
    """Let the next run retry the addresses whose downloads ended in one of these statuses. Return their number.

    Raises:
        FeatureError: a status is unknown, or the cache cannot be written.
    """
    known = STATUSES.keys() - {"ok", "no_url"}
    if unknown := set(statuses) - known:
        raise FeatureError(
            f"there is no download status {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
        )

    def judge(body: bytes) -> str:
        try:
            measure(body)
        except PictureError as problem:
            return problem.status
        return "ok"

    kept = Kept.of(cache)
    found = replies.find(kept.folder, statuses, judge if _JUDGED & set(statuses) else None)
    sharing.forget(kept, found)
    return len(found)


@dataclass(frozen=True)
class _Found:
    """The picture of an item (`url` is None if it has none), and the problems of the addresses before it."""

    url: str | None
    data: bytes
    sha256: str
    size: tuple[int, int]
    problems: list[tuple[str, PictureError]]


class _Finder:
    """Looks through the addresses of items. Each content is judged once, however often it occurs."""

    def __init__(self, image_root: ImageRoot | None, cache: Path, fetching: Fetching) -> None:
        self._image_root = image_root
        self._cache = cache
        self._fetching = fetching
        self._judged: dict[str, tuple[int, int] | tuple[str, str]] = {}

    def missing(self, urls: list[str]) -> str | None:
        """The address that must be fetched before the item's picture can be chosen; None if none is missing."""
        try:
            self.find(urls, settled=False)
        except UnaskedError as unasked:
            return str(unasked)
        return None

    def find(self, urls: list[str], settled: bool = True) -> _Found:
        """The first good picture.

        Raises:
            LookupError: an address before it was not fetched yet; only if not `settled`.
        """
        problems: list[tuple[str, PictureError]] = []
        for url in urls:
            try:
                data = read_source(url, self._image_root, self._cache, self._fetching)
                digest = hashlib.sha256(data).hexdigest()
                return _Found(url, data, digest, self._measured(data, digest), problems)
            except PictureError as problem:
                problems.append((url, problem))
            except UnaskedError:
                if not settled:
                    raise
                problems.append(
                    (url, PictureError("unreachable", "its reply has been forgotten or damaged in the meantime"))
                )
        return _Found(None, b"", "", (0, 0), problems)

    def see(self, data: bytes) -> None:
        """Judge a content in advance."""
        with suppress(PictureError):
            self._measured(data, hashlib.sha256(data).hexdigest())

    def _measured(self, data: bytes, digest: str) -> tuple[int, int]:
        known = self._judged.get(digest)
        if known is None:
            try:
                known = measure(data)
            except PictureError as problem:
                known = problem.status, problem.detail
            self._judged[digest] = known
        match known:
            case (int(width), int(height)):
                return width, height
            case (status, detail):
                raise PictureError(str(status), str(detail))


def _ask_missing(
    items: list[list[str]],
    finder: _Finder,
    downloads: Downloads,
    threads: ThreadPoolExecutor,
    progress: Progress,
) -> int:
    """Download until the picture of every item is known: first addresses first, then those after bad addresses.

    `items` are the addresses of each item. Returns the number of addresses that were requested.
    """
    asked: set[str] = set()
    while items:
        missing = list(map_in_order(threads, finder.missing, items, _AHEAD))
        # An address that was requested and is still missing is not requested again; `find` reports the problem.
        items = [urls for urls, url in zip(items, missing, strict=True) if url and url not in asked]
        wanted = {url for url in missing if url} - asked
        downloads.ask(sorted(wanted), finder.see, partial(_further, progress, len(asked)))
        asked |= wanted
    return len(asked)


def _further(progress: Progress, before: int, done: int, total: int) -> None:
    """Report the progress of a round, including the `before` addresses of earlier rounds."""
    progress(before + done, before + total)


def collect_images(
    items_parquet: Path,
    sequence_items_parquet: Path,
    image_root: ImageRoot | None,
    out: Path,
    *,
    cache: Path | Kept | None = None,
    fetching: Fetching = DEFAULT,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ItemImagesSummary:
    """Write item_images.parquet (:data:`features.tables.ITEM_IMAGES`) and its shards.

    The table has the items of core/sequences. Table and shards are sorted by item_id. An item's picture comes from its
    first address that gives a good one. If every address fails, the item has the status of the first address, and the
    details of all. A problem with a picture never raises an error.

    Args:
        items_parquet, sequence_items_parquet: core/items, and the items of core/sequences.
        image_root: folder or place in a bucket that relative paths start from; None if there is none.
        out: an empty folder.
        cache: where replies of http(s) addresses are kept (see `replies`); None keeps them only during this call.
        fetching: how addresses are requested.
        shard_bytes: largest size of a shard, in bytes.
        progress: called with (done, total) downloads and items.

    Raises:
        FeatureError, StoreError: an input table or a bucket cannot be read, or the cache cannot be written.
    """
    catalogue = read_catalogue(items_parquet, sequence_items_parquet, ["image_urls"])
    ids, addresses = catalogue["item_id"].to_pylist(), [urls or [] for urls in catalogue["image_urls"].to_pylist()]
    rows: list[dict[str, object]] = []
    fallbacks = total_bytes = asked = 0

    def count(done: int, downloads: int) -> None:
        if progress:
            progress(done, downloads + len(ids))

    with ExitStack() as stack:
        cache = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".replies-", dir=out)))
        finder = _Finder(image_root, Kept.of(cache).folder, fetching)
        threads = stack.enter_context(ThreadPoolExecutor(THREADS))
        if fetching.http and (web := [urls for urls in addresses if any(map(is_web, urls))]):
            with Downloads(cache, fetching) as downloads:
                asked = _ask_missing(web, finder, downloads, threads, count)
        writer = stack.enter_context(ShardWriter(out, shard_bytes))
        pictures = map_in_order(threads, finder.find, addresses, _AHEAD)
        for item_id, urls, found in zip(ids, addresses, pictures, strict=True):
            rows.append(_write_picture(writer, item_id, urls, found))
            fallbacks += bool(found.url and found.problems)
            total_bytes += len(found.data)
            count(asked + len(rows), asked)
    write_table(pa.Table.from_pylist(rows, schema=ITEM_IMAGES), out / "item_images.parquet", ITEM_IMAGES)
    return ItemImagesSummary(
        items=len(rows),
        statuses=dict(sorted(Counter(str(row["status"]) for row in rows).items())),
        fallbacks=fallbacks,
        shards=writer.shards,
        bytes=total_bytes,
    )


def _write_picture(writer: ShardWriter, item_id: str, urls: list[str], found: _Found) -> dict[str, object]:
    """Put the picture of an item into a shard, if it has one; return the item's row."""
    row: dict[str, object] = {"item_id": item_id, "status": "no_url", "url": urls[0] if urls else None}
    if found.url:
        content = {"sha256": found.sha256, "width": found.size[0], "height": found.size[1]}
        place = writer.add(item_id, found.data, {"url": found.url, **content})
        row |= {"status": "ok", "url": found.url, "bytes": len(found.data), **content}
        row |= {"shard": place.shard, "offset": place.offset}
    elif found.problems:
        row["status"] = found.problems[0][1].status
    row["detail"] = "; ".join(f"{url[:200]}: {problem}" for url, problem in found.problems) or None
    return row
