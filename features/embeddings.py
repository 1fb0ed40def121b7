"""Embeddings: the vector of every item of a domain, with a mask, a content hash and the encoder's identity.

Items go to the encoder in item_id order, in fixed batches, so the same inputs give the same bytes on a CPU.
A vector can differ in its last bits with the contents encoded beside it, because padding and matrix kernels
follow the batch: a run that reuses vectors agrees with a full one to rounding, not to the bit.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from features.encoders import Encoder, EncoderIdentity, ReadyVectors, Vectors
from features.errors import FeatureError
from features.item_text import content_sha256
from features.pictures import PictureError, bounded, decode
from features.shards import read_shards
from features.tables import ITEM_IMAGES, ITEM_TEXT, ROW_GROUP, embedding_schema, read_table

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class EmbeddingSummary:
    """How the vectors of `items` came about; the four counts add up to it."""

    items: int
    encoded: int
    """Contents that went through the encoder."""
    reused: int
    """Vectors of the same content by the same encoder, taken from the previous version."""
    imported: int
    """Ready vectors."""
    missing: int
    """Items without this modality: zeros, present = false."""
    encoder: dict[str, Any]
    """The encoder's identity."""


@dataclass(frozen=True)
class Embeddings:
    """A table of vectors in memory: `item_ids` [n] sorted, `vectors` [n, width], `present` [n]."""

    item_ids: list[str]
    vectors: Vectors
    present: NDArray[np.bool_]
    content: list[str | None]
    identity: EncoderIdentity


def embed_texts(
    item_text: Path,
    encoder: Encoder | ReadyVectors,
    out: Path,
    *,
    form: Literal["clean", "published"] = "clean",
    previous: Path | None = None,
    batch_size: int = 256,
    progress: Progress = None,
) -> EmbeddingSummary:
    """Write text_embeddings.parquet (:func:`features.tables.embedding_schema`) and encoder.json.

    Args:
        item_text: folder of item_text.parquet; decides the items.
        encoder: encodes the texts, or knows the vectors of the items.
        out: empty folder.
        form: the text that is encoded; its sha256 becomes content_sha256.
        previous: folder of an earlier result; vectors of unchanged content by this encoder are taken from it.
        batch_size: texts handed to the encoder at once.
        progress: called with (done, total) contents.

    Raises:
        FeatureError: an input cannot be read, or a vector is not finite.
    """
    table = read_table(item_text / "item_text.parquet", ITEM_TEXT)
    ids = table["item_id"].to_pylist()
    if isinstance(encoder, ReadyVectors):
        return _import(ids, encoder, out, "text_embeddings", progress)
    texts = table["text_clean" if form == "clean" else "text"].to_pylist()
    digests = [None if text is None else content_sha256(text) for text in texts]

    def encode(rows: list[int]) -> Iterator[Vectors]:
        for batch in _batches(rows, batch_size):
            yield encoder.encode_texts([texts[row] for row in batch])

    return _embed(ids, digests, encode, encoder.identity, out, "text_embeddings", previous, progress)


def embed_images(
    item_images: Path,
    encoder: Encoder | ReadyVectors,
    out: Path,
    *,
    previous: Path | None = None,
    batch_size: int = 64,
    progress: Progress = None,
) -> EmbeddingSummary:
    """Write image_embeddings.parquet (:func:`features.tables.embedding_schema`) and encoder.json.

    Args:
        item_images: folder of item_images.parquet and its shards; decides the items. A shard is read only
            if it holds a picture that has to be encoded.
        encoder: encodes the pictures, or knows the vectors of the items.
        out: empty folder.
        previous: folder of an earlier result; vectors of unchanged content by this encoder are taken from it.
        batch_size: pictures decoded and handed to the encoder at once.
        progress: called with (done, total) contents.

    Raises:
        FeatureError: an input cannot be read, shards and table disagree, or a vector is not finite.
    """
    table = read_table(item_images / "item_images.parquet", ITEM_IMAGES)
    ids = table["item_id"].to_pylist()
    if isinstance(encoder, ReadyVectors):
        return _import(ids, encoder, out, "image_embeddings", progress)
    digests, shards = table["sha256"].to_pylist(), table["shard"].to_pylist()

    def encode(rows: list[int]) -> Iterator[Vectors]:
        expected = {ids[row]: digests[row] for row in rows}
        pictures = _pictures(item_images, sorted({shards[row] for row in rows}), expected)
        for batch in _batches(rows, batch_size):
            yield encoder.encode_images([next(pictures) for _ in batch])

    return _embed(ids, digests, encode, encoder.identity, out, "image_embeddings", previous, progress)


def read_embeddings(folder: Path, noun: str) -> Embeddings:
    """The table `noun` (text_embeddings or image_embeddings) of an artifact's folder.

    Raises:
        FeatureError: the folder does not hold such an artifact.
    """
    path = folder / f"{noun}.parquet"
    try:
        identity = EncoderIdentity(**json.loads((folder / "encoder.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FeatureError(f"{folder / 'encoder.json'}: no encoder identity ({error}); rebuild {noun}") from error
    table = read_table(path, embedding_schema(identity.width))
    vectors = table["vector"].combine_chunks().flatten().to_numpy()
    return Embeddings(
        item_ids=table["item_id"].to_pylist(),
        vectors=vectors.reshape(-1, identity.width),
        present=table["present"].to_numpy(),
        content=table["content_sha256"].to_pylist(),
        identity=identity,
    )


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _pictures(folder: Path, shards: list[str], expected: dict[str, str]) -> Iterator[Image.Image]:
    """Decoded pictures of the expected items, {item_id: sha256 in item_id order}, in that order."""
    samples = (sample for sample in read_shards(folder, shards) if sample.item_id in expected)
    for item_id, digest in expected.items():
        sample = next(samples, None)
        if sample is None or sample.item_id != item_id or sha256(sample.data).hexdigest() != digest:
            raise FeatureError(f"{folder}: shards and table disagree at item {item_id!r}; rebuild item_images")
        try:
            yield bounded(decode(sample.data))
        except PictureError as problem:
            raise FeatureError(f"{folder}: picture of {item_id!r} is {problem}; rebuild item_images") from problem


def _import(ids: list[str], ready: ReadyVectors, out: Path, noun: str, progress: Progress) -> EmbeddingSummary:
    """Ready vectors of the items; the content hash is that of the vector itself."""
    vectors, present = ready.look_up(ids)
    digests = [
        sha256(vector.astype("<f4").tobytes()).hexdigest() if here else None
        for vector, here in zip(vectors, present, strict=True)
    ]
    _write(out, noun, ids, digests, vectors, ready.identity)
    imported = int(present.sum())
    if progress:
        progress(imported, imported)
    return EmbeddingSummary(
        items=len(ids),
        encoded=0,
        reused=0,
        imported=imported,
        missing=len(ids) - imported,
        encoder=asdict(ready.identity),
    )


def _embed(
    ids: list[str],
    digests: list[str | None],
    encode: Callable[[list[int]], Iterator[Vectors]],
    identity: EncoderIdentity,
    out: Path,
    noun: str,
    previous: Path | None,
    progress: Progress,
) -> EmbeddingSummary:
    """Vectors of all items, encoding only contents that `previous` has not.

    `encode` yields the vectors of the rows that it is given, batch by batch.
    """
    old = read_embeddings(previous, noun) if previous else None
    known: dict[str | None, int] = {}
    if old and old.identity == identity:
        known = {digest: row for row, digest in enumerate(old.content) if digest}

    vectors = np.zeros((len(ids), identity.width), np.float32)
    kept = [row for row, digest in enumerate(digests) if digest in known]
    if old and kept:
        vectors[kept] = old.vectors[[known[digests[row]] for row in kept]]
    fresh = [row for row, digest in enumerate(digests) if digest is not None and digest not in known]
    done = 0
    for batch in encode(fresh):
        rows = fresh[done : done + len(batch)]
        if not np.isfinite(batch).all():
            culprit = ids[rows[int(np.flatnonzero(~np.isfinite(batch).all(axis=1))[0])]]
            raise FeatureError(f"{noun}: encoder {identity.model} gave item {culprit!r} a vector that is not finite")
        vectors[rows] = batch
        done += len(batch)
        if progress:
            progress(done, len(fresh))
    _write(out, noun, ids, digests, vectors, identity)
    return EmbeddingSummary(
        items=len(ids),
        encoded=len(fresh),
        reused=len(kept),
        imported=0,
        missing=len(ids) - len(fresh) - len(kept),
        encoder=asdict(identity),
    )


def _write(
    out: Path,
    noun: str,
    ids: list[str],
    digests: Sequence[str | None],
    vectors: Vectors,
    identity: EncoderIdentity,
) -> None:
    """The Parquet table, uncompressed because floats hardly shrink and readers map it, and encoder.json."""
    schema = embedding_schema(identity.width)
    columns = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), identity.width),
        pa.array([digest is not None for digest in digests]),
        pa.array(digests, pa.string()),
    ]
    table = pa.Table.from_arrays(columns, names=schema.names).cast(schema)
    pq.write_table(
        table,
        out / f"{noun}.parquet",
        row_group_size=ROW_GROUP,
        compression="none",
        use_dictionary=False,
    )
    (out / "encoder.json").write_text(json.dumps(asdict(identity), indent=2, sort_keys=True) + "\n", "utf-8")
