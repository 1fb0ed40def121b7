"""Search over the vectors of a domain, wired for the command line."""

from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from features.encoders import Encoder, ReadyVectors, open_encoder
from features.errors import FeatureError
from features.search import View, find_pictures, search_item, search_picture, search_text, write_sheet
from pipelines.assets.features import encoder_settings
from pipelines.settings import House

_NOUNS = {"text": "text_embeddings", "image": "image_embeddings"}


def find(
    house: House,
    domain: str,
    query: str | Path,
    by: Literal["text", "image", "item"],
    k: int = 10,
    sheet: Path | None = None,
) -> list[dict[str, Any]]:
    """The `k` items of `domain` nearest to words, to a picture file or to an item id, best first.

    Words and pictures are looked for in every kind of vectors that the encoder made which reads the query. With
    `sheet`, the hits are also written there as a picture.
    """
    folders = {kind: house.store.require(f"features/{noun}", domain).path for kind, noun in _NOUNS.items()}
    views = [view for kind, noun in _NOUNS.items() if (view := View.open(folders[kind], noun)).present.any()]
    match by:
        case "item":
            hits = search_item(views, str(query), k)
        case "text":
            hits = search_text(views, _encoder(house, domain, "text"), str(query), k)
        case "image":
            hits = search_picture(views, _encoder(house, domain, "image"), Path(query), k)
    named = _titles(house.store.require("core/items", domain).main, [hit.item_id for hit in hits])
    if sheet is not None:
        pictures = find_pictures(house.store.require("features/item_images", domain).path, list(named))
        write_sheet(((hit, named[hit.item_id], pictures.get(hit.item_id)) for hit in hits), sheet)
    return [{"item_id": hit.item_id, "title": named[hit.item_id], "score": hit.score} for hit in hits]


def _encoder(house: House, domain: str, modality: Literal["text", "image"]) -> Encoder:
    encoder = open_encoder(encoder_settings(house, domain, modality))
    if isinstance(encoder, ReadyVectors):
        raise FeatureError(f"the {modality} vectors of {domain} were made elsewhere, so only --item can search them")
    return encoder


def _titles(items: Path, ids: list[str]) -> dict[str, str]:
    """The title of each item in the order of `ids`; the id where there is no title."""
    table = pq.read_table(items, columns=["item_id", "title"], filters=[("item_id", "in", ids)])
    found = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return {item_id: found.get(item_id) or item_id for item_id in ids}
