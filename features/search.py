"""Exact nearest items to a text, a picture or an item, and picture sheets to look at.

Vectors that one encoder made are comparable whatever the modality (a CLIP puts texts and pictures in one
space), so a query is compared with every view its encoder made. No index, no torch: a matrix product.
"""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from features.embeddings import Embeddings, read_embeddings
from features.encoders import Encoder, EncoderIdentity, Vectors
from features.errors import FeatureError
from features.pictures import MAX_BYTES, PictureError, decode
from features.shards import Place, read_bytes
from features.tables import ITEM_IMAGES, read_table

_BLOCK = 65_536
"""Rows scored at once."""


@dataclass(frozen=True)
class Hit:
    """An item and its score, the cosine in [-1, 1]."""

    item_id: str
    score: float


class View:
    """The vectors of one modality of a domain, at length 1, ready to be searched."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.identity: EncoderIdentity = embeddings.identity
        self.item_ids = embeddings.item_ids
        self.present = embeddings.present
        self.units = unit(embeddings.vectors)

    @classmethod
    def open(cls, folder: Path, noun: str) -> "View":
        """The view of an artifact: its folder and noun (text_embeddings or image_embeddings)."""
        return cls(read_embeddings(folder, noun))

    def vector(self, item_id: str) -> Vectors | None:
        """The item's vector [width] at length 1, or None where the modality is missing.

        Raises:
            FeatureError: no such item in the domain.
        """
        try:
            row = self.item_ids.index(item_id)
        except ValueError:
            raise FeatureError(f"no item {item_id!r} in this domain; ids look like {self.item_ids[:3]}") from None
        return self.units[row] if self.present[row] else None


def unit(vectors: Vectors) -> Vectors:
    """Vectors [..., width] at length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def search(views: Sequence[View], queries: Sequence[Vectors | None], k: int = 10) -> list[Hit]:
    """The k items of the highest score, best first; of equal scores, the smaller item id first.

    The score is the mean cosine over the views that have a query. An item without a vector in one of them
    counts 0 there; an item without any is never a hit. Exact: every item is scored.

    Args:
        views: one or more, over the same items.
        queries: per view, the query vector [width], or None to leave the view out.
        k: hits wanted; fewer come back when there are fewer items.

    Raises:
        FeatureError: no view has a query, widths differ, or the views are not over the same items.
    """
    pairs = [(view, query) for view, query in zip(views, queries, strict=True) if query is not None]
    if not pairs:
        raise FeatureError("nothing to search by: the query has no vector in any view")
    ids = pairs[0][0].item_ids
    scores = np.zeros(len(ids), np.float32)
    candidates = np.zeros(len(ids), np.bool_)
    for view, query in pairs:
        if query.shape != (view.identity.width,):
            raise FeatureError(
                f"a query of shape {query.shape} does not fit {view.identity.model}, {view.identity.width} "
                "wide; encode it with the encoder that made the view"
            )
        if view.item_ids is not ids and view.item_ids != ids:
            raise FeatureError("the views are over different items; use views of one domain and version")
        direction = unit(query)
        for start in range(0, len(ids), _BLOCK):
            scores[start : start + _BLOCK] += view.units[start : start + _BLOCK] @ direction
        candidates |= view.present
    scores /= len(pairs)
    return [Hit(ids[row], float(scores[row])) for row in _best(scores, candidates, k)]


def _best(scores: NDArray[np.float32], candidates: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Rows of the k highest candidates, best first, ties by row."""
    k = min(k, int(candidates.sum()))
    if k < 1:
        return np.empty(0, np.int64)
    scores = np.where(candidates, scores, np.float32(-np.inf))
    limit = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= limit)
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


def search_text(views: Sequence[View], encoder: Encoder, text: str, k: int = 10) -> list[Hit]:
    """Nearest items to a text, over the views that this encoder made."""
    return _search_content(views, encoder, encoder.encode_texts([text])[0], k)


def search_picture(views: Sequence[View], encoder: Encoder, picture: Path, k: int = 10) -> list[Hit]:
    """Nearest items to a picture file, over the views that this encoder made.

    Raises:
        FeatureError: the file is missing or is not a usable picture.
    """
    try:
        with picture.open("rb") as stream:
            image = decode(stream.read(MAX_BYTES))
    except (OSError, PictureError) as error:
        raise FeatureError(f"{picture}: cannot be used as a query: {error}") from error
    return _search_content(views, encoder, encoder.encode_images([image])[0], k)


def search_item(views: Sequence[View], item_id: str, k: int = 10) -> list[Hit]:
    """Nearest items to an item, itself left out, each view queried by the item's own vector in it."""
    hits = search(views, [view.vector(item_id) for view in views], k + 1)
    return [hit for hit in hits if hit.item_id != item_id][:k]


def _search_content(views: Sequence[View], encoder: Encoder, query: Vectors, k: int) -> list[Hit]:
    if not any(view.identity == encoder.identity for view in views):
        made = ", ".join(view.identity.model for view in views) or "nothing"
        raise FeatureError(
            f"no vectors of encoder {encoder.identity.model} here (found: {made}); "
            "search by item id, or embed the domain with this encoder"
        )
    return search(views, [query if view.identity == encoder.identity else None for view in views], k)


def find_pictures(item_images: Path, item_ids: Sequence[str]) -> dict[str, bytes]:
    """Original bytes of the pictures that some items have, from the folder of item_images."""
    table = read_table(item_images / "item_images.parquet", ITEM_IMAGES)
    wanted = set(item_ids)
    places = table.select(["item_id", "shard", "offset", "bytes"]).to_pylist()
    return {
        row["item_id"]: read_bytes(item_images, Place(row["shard"], row["offset"]), row["bytes"])
        for row in places
        if row["item_id"] in wanted and row["shard"]
    }


def contact_sheet(samples: Iterable[tuple[str, bytes | None]], columns: int = 5, tile: int = 160) -> Image.Image:
    """Pictures in a grid, each with its label below; an empty frame where there is none.

    Args:
        samples: (label, bytes of a picture or None).
        columns: tiles a row.
        tile: pixels a side of a tile.
    """
    samples = list(samples)
    font = ImageFont.load_default(12)
    line, gap = 15, 8
    height = tile + 2 * line + gap
    rows = max(1, math.ceil(len(samples) / columns))
    sheet = Image.new("RGB", (columns * (tile + gap) + gap, rows * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (label, data) in enumerate(samples):
        left, top = gap + number % columns * (tile + gap), gap + number // columns * height
        picture = _thumbnail(data, tile)
        if picture:
            sheet.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))
        else:
            pen.rectangle((left, top, left + tile - 1, top + tile - 1), outline="#cccccc")
        for row, text in enumerate(_wrap(label, font, tile)):
            pen.text((left, top + tile + 2 + row * line), text, fill="#333333", font=font)
    return sheet


def _thumbnail(data: bytes | None, side: int) -> Image.Image | None:
    if data is None:
        return None
    try:
        picture = decode(data)
    except PictureError:
        return None
    picture.thumbnail((side, side))
    return picture


def _wrap(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """At most two lines of the label, the second cut with an ellipsis."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = lines[:2]
    for row, text in enumerate(shown):
        cut = len(lines) > 2 and row == 1
        while text and font.getlength(text + "…" * cut) > width:
            text, cut = text[:-1], True
        shown[row] = text + "…" * cut
    return shown


def write_sheet(samples: Iterable[tuple[Hit, str, bytes | None]], path: Path, columns: int = 5) -> None:
    """Write search results as a PNG: (hit, title, picture or None) each, best first."""
    labelled = ((f"{hit.score:.3f} {title}", data) for hit, title, data in samples)
    contact_sheet(labelled, columns).save(path, "PNG")


def png_bytes(sheet: Image.Image) -> bytes:
    """A sheet as PNG, for a report page or metadata."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
