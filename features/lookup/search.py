"""Exact nearest items to a text, a picture or an item.

Vectors from one encoder are comparable, whatever the modality (a CLIP puts texts and pictures in one space). So a query
is compared with every table of vectors from its encoder. There is no index and no approximation: every item is scored.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.encoders import Encoder, EncoderIdentity, Vectors
from features.errors import FeatureError
from features.lookup.mapped import VectorTable
from features.pictures.decode import MAX_BYTES, PictureError, decode
from features.pictures.shards import Place, read_bytes
from warehouse.artifacts.files import regular
from warehouse.artifacts.threads import available_cores

_BLOCK = 8192
"""Rows that a thread scores at once."""


@dataclass(frozen=True)
class Hit:
    """An item and its score, the cosine in [-1, 1]."""

    item_id: str
    score: float


@dataclass(frozen=True)
class Query:
    """A query: a vector [width] and the encoder that made it."""

    vector: Vectors
    identity: EncoderIdentity


def unit(vectors: Vectors) -> Vectors:
    """Vectors [..., width] scaled to length 1. A zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def search(tables: Sequence[VectorTable], queries: Sequence[Vectors | None], k: int = 10) -> list[Hit]:
    """The k items with the highest score, best first. For equal scores, the smaller item id comes first.

    The score is the mean cosine over the tables that have a query. An item without a vector in one of these tables
    counts as 0 there; an item without any vector is never a hit. Equal vectors have equal scores, whatever the number
    of threads.

    Args:
        tables: one or more tables with the same items.
        queries: for each table, the query vector [width], or None to leave the table out.
        k: number of hits; the result is shorter if there are fewer items.

    Raises:
        FeatureError: no table has a query, a query is not finite or has another width, or the tables have different
            items.
    """
    pairs = [(table, query) for table, query in zip(tables, queries, strict=True) if query is not None]
    if not pairs:
        raise FeatureError("nothing to search by: the query has no vector in any view")
    ids = pairs[0][0].item_ids
    scores = np.zeros(len(ids) + 1, np.float32)
    candidates = np.zeros(len(ids) + 1, np.bool_)
    for table, query in pairs:
        if query.shape != (table.identity.width,):
            raise FeatureError(
                f"a query of shape {query.shape} does not fit {table.identity.model}, whose width is "
                f"{table.identity.width}; encode it with the encoder that made the view"
            )
        if not np.isfinite(query).all():
            raise FeatureError(f"a query of {table.identity.model} is not finite; search by item, or fix the encoder")
        if table.item_ids is not ids and not table.item_ids.equals(ids):
            raise FeatureError("the views have different items; use views of one domain and version")
        scores += _cosines(table, unit(query))
        candidates |= table.present
    scores /= len(pairs)
    return [Hit(ids[row - 1].as_py(), float(scores[row])) for row in _best(scores, candidates, k).tolist()]


def _cosines(table: VectorTable, direction: Vectors) -> NDArray[np.float32]:
    """Cosine [n+1] of every vector with a direction of length 1; 0 for a zero vector."""
    cosines = np.empty(len(table.vectors), np.float32)

    def multiply(start: int) -> None:
        # Computed row by row, which takes half the time of a matrix product with one column. The sums of a matrix
        # product would also depend on the blocks of rows, so equal vectors would get different scores.
        block = slice(start, start + _BLOCK)
        np.vecdot(table.vectors[block], direction, out=cosines[block])

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(multiply, range(0, len(cosines), _BLOCK)))
    cosines /= np.maximum(table.lengths, np.finfo(np.float32).tiny)
    return cosines


def _best(scores: NDArray[np.float32], candidates: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Rows of the k candidates with the highest scores, best first; equal scores are in the order of the rows."""
    k = min(k, int(candidates.sum()))
    if k < 1:
        return np.empty(0, np.int64)
    scores = np.where(candidates, scores, np.float32(-np.inf))
    limit = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= limit)
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


def text_query(encoder: Encoder, text: str) -> Query:
    """A query by a text."""
    return Query(encoder.encode_texts([text])[0], encoder.identity)


def picture_query(encoder: Encoder, picture: Path) -> Query:
    """A query by a picture file.

    Raises:
        FeatureError: the file is missing or is not a usable picture.
    """
    try:
        with regular(picture).open("rb") as stream:
            image = decode(stream.read(MAX_BYTES))
    except (OSError, PictureError) as error:
        raise FeatureError(f"{picture}: cannot be used as a query: {error}") from error
    return Query(encoder.encode_images([image])[0], encoder.identity)


def search_content(tables: Sequence[VectorTable], queries: Sequence[Query], k: int = 10) -> list[Hit]:
    """The nearest items to a text, a picture, or both. Each query is compared with every table of its encoder.

    Several queries of one encoder are combined into their mean direction.

    Raises:
        FeatureError: no table comes from a query's encoder; see also :func:`search`.
    """
    for query in queries:
        if not any(table.identity.comparable(query.identity) for table in tables):
            made = ", ".join(table.identity.model for table in tables) or "nothing"
            raise FeatureError(
                f"there are no vectors of encoder {query.identity.model} (found: {made}); "
                "search by item id, or embed the domain with this encoder"
            )
    return search(tables, [_direction(table, queries) for table in tables], k)


def _direction(table: VectorTable, queries: Sequence[Query]) -> Vectors | None:
    """The mean direction [width] of the queries that the table's encoder made; None if it made none."""
    fitting = [unit(query.vector) for query in queries if query.identity.comparable(table.identity)]
    return np.mean(fitting, axis=0) if fitting else None


def search_item(tables: Sequence[VectorTable], item_id: str, k: int = 10) -> list[Hit]:
    """The nearest items to an item, without the item itself. Each table is queried with the item's own vector.

    Raises:
        FeatureError: there is no such item; see also :func:`search`.
    """
    hits = search(tables, [_vector(table, item_id) for table in tables], k + 1)
    return [hit for hit in hits if hit.item_id != item_id][:k]


def _vector(table: VectorTable, item_id: str) -> Vectors | None:
    """The item's vector [width], or None if the item lacks this modality."""
    row = table.rows([item_id])[0]
    if not row:
        raise FeatureError(
            f"there is no item {item_id!r} in this domain; ids look like {table.item_ids[:3].to_pylist()}"
        )
    return table.vectors[row] if table.present[row] else None


def find_pictures(item_images: Callable[[str], Path], item_ids: Sequence[str]) -> dict[str, bytes]:
    """The original bytes of the pictures of some items, from the files of item_images.

    `item_images` gives the path of a file, such as `Artifact.file`. It is asked only for the table and for the shards
    that contain these pictures. The table is sorted by item_id, so only the row groups that may contain one of the
    items are read.

    Raises:
        FeatureError: the table cannot be read.
    """
    path = item_images("item_images.parquet")
    try:
        places = pq.read_table(
            path,
            columns=["item_id", "shard", "offset", "bytes"],
            filters=pc.field("item_id").isin(pa.array(item_ids, pa.string())) & pc.field("shard").is_valid(),
            partitioning=None,
        )
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(f"{path}: cannot be read ({error}); rebuild item_images") from error
    return {
        row["item_id"]: read_bytes(item_images(row["shard"]).parent, Place(row["shard"], row["offset"]), row["bytes"])
        for row in places.to_pylist()
    }
