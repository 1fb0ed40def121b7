"""Embeddings: the vector of every item of a domain, with a mask, a content hash and the encoder's identity.

Each content is encoded once: its vector goes into the vector cache (:mod:`features.vectors.cache`), and the table is
made from the cache. So a run that was killed continues where it stopped, a new version encodes only new contents, and
several processes can share the encoding.

The work is divided into segments, which depend on the items alone: the pictures of one shard, or the texts of SEGMENT
items in a row. A content that several items share belongs to the segment of the first of them. One process encodes a
segment: it takes the contents that are not in the cache, in the order of the items, encodes them in batches, and writes
CHUNK of them at a time to the cache. So a killed run leaves whole chunks behind, and the next run forms the same
batches of what is missing.

On one kind of device and with one number of threads, a run gives the same vectors to the last bit: also if it was
killed and continued, with another number of ranks or workers, on the nodes of a cluster
(:mod:`features.vectors.cluster`), or again with the same cache. Two things change the
batches, and with them the padding and the order in which a matrix product is summed, so that vectors agree only up to
rounding: a cache that held other contents at the start (of an earlier version, another domain, or after a damaged
part), and another process that encodes the same contents at the same time.
"""

import logging
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.encoders import Encoder, ReadyVectors, Vectors
from features.encoders.probe import check_probe, probe_vectors
from features.errors import FeatureError
from features.item_text import content_sha256
from features.parquet import read_table
from features.pictures.shards import Place
from features.tables import ITEM_IMAGES, ITEM_TEXT, Storage
from features.vectors.cache import VectorCache, adding_behind
from features.vectors.loading import Original, check_decoding, choose_workers, prepared
from features.vectors.spread import check_spread
from features.vectors.writing import check_vectors, write_vectors
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.progress import Progress

if TYPE_CHECKING:
    from features.vectors.cluster import Cluster

_log = logging.getLogger("mmm4rec")

SEGMENT = 8192
"""Items in a row whose texts one process encodes."""
CHUNK = 1024
"""Contents that are committed to the cache together. A killed run loses at most two chunks: one that is being encoded,
and one that is being written."""

Encode = Callable[[list[list[int]]], Iterator[tuple[int, Vectors]]]
"""A function that takes batches of rows and returns their vectors, batch by batch, each with the batch's number. The
batches may come in any order."""


@dataclass(frozen=True)
class EmbeddingSummary:
    """Where the vectors of the items come from: items = encoded + reused + imported + missing."""

    items: int
    encoded: int
    """Contents that went through the encoder."""
    reused: int
    """Items whose content was encoded before, in another run or for another item."""
    imported: int
    """Items with a ready vector."""
    missing: int
    """Items without this modality: zeros, present = false."""
    cut: int
    """Items whose text is longer than the encoder reads, so that its end does not count in the vector."""
    damaged: int
    """Parts of the cache that were damaged; their contents were encoded again."""
    encoder: dict[str, Any]
    """The encoder's identity."""


@dataclass(frozen=True)
class Share:
    """The part of the work that this process does: process number `rank`, 0..`world`-1, of `world` processes."""

    rank: int = 0
    world: int = 1


ALONE = Share()
"""The share of a single process: all of the work."""


def embed_texts(
    item_text: Path,
    encoder: Encoder | ReadyVectors,
    out: Path | None,
    *,
    form: Literal["clean", "published"] = "clean",
    cache: Path | Kept | None = None,
    storage: Storage = "float32",
    share: Share = ALONE,
    batch_size: int = 256,
    chunk_size: int = CHUNK,
    progress: Progress | None = None,
    cluster: "Cluster | None" = None,
) -> EmbeddingSummary:
    """Write text_embeddings.parquet (:func:`features.tables.embedding_schema`) and encoder.json.

    Args:
        item_text: folder of item_text.parquet, whose items get vectors.
        encoder: encodes the texts, or has ready vectors of the items.
        out: an empty folder; None only encodes the contents that are not in the cache, and writes no table.
        form: the form of the text that is encoded; its sha256 becomes content_sha256.
        cache: folder of the vector caches; None does not keep the vectors after this call.
        storage: number format of the table.
        share: the part of the contents to encode. A table needs all of them, so a single process (the default) writes
            it, after the others are done.
        batch_size: texts per call of the encoder.
        chunk_size: texts that are committed to the cache together.
        progress: called with (done, total) contents to encode.
        cluster: encodes the contents; None encodes them in this process.

    Raises:
        FeatureError: an input cannot be read, a vector is not finite or all zeros, the vectors do not distinguish
            contents, the encoder's probe vectors differ from those that it made before, or the cluster failed.
    """
    table = read_table(item_text / "item_text.parquet", ITEM_TEXT)
    ids = table["item_id"].to_pylist()
    if isinstance(encoder, ReadyVectors):
        return _import(ids, encoder, out, "text", storage, progress)
    texts = table["text_clean" if form == "clean" else "text"].to_pylist()
    digests = [None if text is None else content_sha256(text) for text in texts]

    def encode(batches: list[list[int]]) -> Iterator[tuple[int, Vectors]]:
        given = ([texts[row] for row in batch] for batch in batches)
        return cluster.texts(encoder, given) if cluster else enumerate(map(encoder.encode_texts, given))

    work = _Work("text", ids, digests, [row // SEGMENT for row in range(len(ids))], batch_size, chunk_size, share)
    summary = _embed(work, encode, encoder, out, cache, storage, progress)
    if out is None:
        return summary
    rows = work.distinct().tolist()
    is_cut = encoder.is_cut([texts[row] for row in rows])
    cut = {digests[row] for row, longer in zip(rows, is_cut, strict=True) if longer}
    return replace(summary, cut=sum(digest in cut for digest in digests))


def embed_images(
    item_images: Path,
    encoder: Encoder | ReadyVectors,
    out: Path | None,
    *,
    cache: Path | Kept | None = None,
    storage: Storage = "float32",
    share: Share = ALONE,
    workers: int | None = None,
    batch_size: int | None = None,
    chunk_size: int = CHUNK,
    progress: Progress | None = None,
    cluster: "Cluster | None" = None,
) -> EmbeddingSummary:
    """Write image_embeddings.parquet (:func:`features.tables.embedding_schema`) and encoder.json.

    Args:
        item_images: folder of item_images.parquet and its shards, whose items get vectors. Only the pictures that must
            be encoded are read from the shards.
        encoder: encodes the pictures, or has ready vectors of the items.
        out: an empty folder; None only encodes the contents that are not in the cache, and writes no table.
        cache: folder of the vector caches; None does not keep the vectors after this call.
        storage: number format of the table.
        share: the part of the contents to encode, as in :func:`embed_texts`.
        workers: number of processes that decode; 0 decodes in this process, None chooses.
        batch_size: pictures per call of the encoder; None means 256 on a GPU, otherwise 64.
        chunk_size: pictures that are committed to the cache together.
        progress: called with (done, total) contents to encode.
        cluster: decodes and encodes the pictures, for which it reads the shards itself; None does so in this process.

    Raises:
        FeatureError: an input cannot be read, shards and table disagree, a process died, or as in :func:`embed_texts`.
    """
    table = read_table(item_images / "item_images.parquet", ITEM_IMAGES)
    ids = table["item_id"].to_pylist()
    if isinstance(encoder, ReadyVectors):
        return _import(ids, encoder, out, "image", storage, progress)
    device = cluster.device if cluster else encoder.device
    batch_size = batch_size or (256 if device.startswith("cuda") else 64)
    digests, shards = table["sha256"].to_pylist(), table["shard"].to_pylist()
    offsets, sizes = table["offset"].to_pylist(), table["bytes"].to_pylist()

    def original(row: int) -> Original:
        return Original(ids[row], digests[row], Place(shards[row], offsets[row]), sizes[row])

    def encode(batches: list[list[int]]) -> Iterator[tuple[int, Vectors]]:
        check_decoding(encoder.preparation, device)
        originals = [[original(row) for row in batch] for batch in batches]
        if cluster:
            return cluster.images(encoder, originals)
        processes, reason = choose_workers(sum(map(len, batches)), device)
        if workers is not None:
            processes, reason = workers, "as asked"
        _log.info("decoding in %s: %s", f"{processes} processes" if processes else "this process", reason)
        pictures = prepared(item_images, originals, encoder.preparation, processes, device)
        return enumerate(encoder.encode_batches(pictures))

    work = _Work("image", ids, digests, shards, batch_size, chunk_size, share)
    return _embed(work, encode, encoder, out, cache, storage, progress)


@dataclass(frozen=True)
class _Work:
    """The contents of one modality of a domain, and how they are divided."""

    modality: Literal["text", "image"]
    ids: list[str]
    digests: list[str | None]
    """The sha256 of each row's content; None if the modality is missing."""
    segments: Sequence[Hashable]
    """The segment of each row; one process does all rows with the same segment."""
    batch_size: int
    chunk_size: int
    share: Share

    @property
    def noun(self) -> str:
        return f"{self.modality}_embeddings"

    def distinct(self) -> NDArray[np.int64]:
        """Rows of the distinct contents, each at its first item."""
        first: dict[str, int] = {}
        for row, digest in enumerate(self.digests):
            if digest is not None:
                first.setdefault(digest, row)
        return np.array(list(first.values()), np.int64)

    def mine(self) -> list[list[int]]:
        """Rows of this process's segments, each distinct content at its first item."""
        segments: dict[Hashable, list[int]] = {}
        for row in self.distinct().tolist():
            segments.setdefault(self.segments[row], []).append(row)
        return list(segments.values())[self.share.rank :: self.share.world]


def _embed(
    work: _Work,
    encode: Encode,
    encoder: Encoder,
    out: Path | None,
    cache_root: Path | Kept | None,
    storage: Storage,
    progress: Progress | None,
) -> EmbeddingSummary:
    """Encode the contents of this process's share that are not in the cache; then, with `out`, write the table."""
    identity, ids, digests = encoder.identity, work.ids, work.digests
    with ExitStack() as stack:
        if cache_root is None:
            cache_root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cache = VectorCache(cache_root, work.modality, identity)
        mine = work.mine()
        own = {row for segment in mine for row in segment}
        asked = digests if out else [digest if row in own else None for row, digest in enumerate(digests)]
        vectors, known = cache.look_up(asked)
        encoded = _fill(
            work, [[row for row in rows if not known[row]] for rows in mine], encode, encoder, cache, progress
        )
        if out is not None:
            if encoded:
                vectors, known = cache.look_up(digests)
            absent = [row for row, digest in enumerate(digests) if digest is not None and not known[row]]
            if absent:
                raise FeatureError(
                    f"{work.noun}: {len(absent)} contents are not in the cache {cache.folder}, such as that of "
                    f"{ids[absent[0]]!r}: other ranks have not finished, or the cache was cleared in the meantime; "
                    "run it again"
                )
            check_spread(vectors, work.distinct(), ids, work.noun, identity, ready=False)
            write_vectors(out, work.noun, ids, digests, vectors, identity, storage)
            cache.compact()
    present = len(ids) - digests.count(None)
    return EmbeddingSummary(
        items=len(ids),
        encoded=encoded,
        reused=present - encoded,
        imported=0,
        missing=len(ids) - present,
        cut=0,
        damaged=cache.damaged,
        encoder=asdict(identity),
    )


def _fill(
    work: _Work,
    lacking: list[list[int]],
    encode: Encode,
    encoder: Encoder,
    cache: VectorCache,
    progress: Progress | None,
) -> int:
    """Encode the rows that each segment lacks, chunk by chunk, into the cache; return the number of contents."""
    chunks = [_cut(chunk, work.batch_size) for rows in lacking for chunk in _cut(rows, work.chunk_size)]
    batches = [batch for chunk in chunks for batch in chunk]
    ends = accumulate(map(len, chunks))
    chunk_of = [range(end - len(chunk), end) for chunk, end in zip(chunks, ends, strict=True) for _ in chunk]
    total, done = sum(map(len, lacking)), 0
    if not total:
        return 0
    _probe(encoder, cache)
    made: dict[int, Vectors] = {}
    with adding_behind(cache) as add:
        for number, vectors in encode(batches):
            check_vectors(
                vectors, [work.ids[row] for row in batches[number]], work.noun, f"encoder {encoder.identity.model} gave"
            )
            made[number] = vectors
            done += len(vectors)
            if progress:
                progress(done, total)
            if all(other in made for other in chunk_of[number]):
                rows = [row for other in chunk_of[number] for row in batches[other]]
                whole = np.concatenate([made.pop(other) for other in chunk_of[number]])
                add([digest for row in rows if (digest := work.digests[row])], whole)
    return total


def _probe(encoder: Encoder, cache: VectorCache) -> None:
    """Compare the encoder's probe vectors with the stored ones, so that a cache never mixes vectors of two encoders."""
    now, then = probe_vectors(encoder), cache.probe()
    if then is None:
        cache.keep_probe(now)
    else:
        check_probe(then, now, encoder.identity)


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _import(
    ids: list[str],
    ready: ReadyVectors,
    out: Path | None,
    modality: Literal["text", "image"],
    storage: Storage,
    progress: Progress | None,
) -> EmbeddingSummary:
    """Take the ready vectors of the items; the content hash is the hash of the vector itself."""
    vectors, present = ready.look_up(ids)
    digests = [
        sha256(vector.astype("<f4").tobytes()).hexdigest() if here else None
        for vector, here in zip(vectors, present, strict=True)
    ]
    if out is not None:
        noun = f"{modality}_embeddings"
        check_spread(vectors, np.flatnonzero(present), ids, noun, ready.identity, ready=True)
        write_vectors(out, noun, ids, digests, vectors, ready.identity, storage)
    imported = int(present.sum())
    if progress:
        progress(imported, imported)
    return EmbeddingSummary(
        items=len(ids),
        encoded=0,
        reused=0,
        imported=imported,
        missing=len(ids) - imported,
        cut=0,
        damaged=0,
        encoder=asdict(ready.identity),
    )
