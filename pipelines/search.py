"""Search over the vectors of a domain, wired for the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from features.encoders import Encoder, EncoderSettings, ReadyVectors, open_encoder
from features.errors import FeatureError
from features.search import Query, find_pictures, picture_query, search_content, search_item, text_query
from features.sheets import sheet_form, write_sheet
from pipelines.assets.features import encoder_settings
from pipelines.feature_store import feature_store
from pipelines.settings import House

_VIEWS = ("text_embeddings", "image_embeddings")


def find(
    house: House,
    domain: str,
    query: str | Path,
    by: Literal["text", "image", "item"],
    k: int = 10,
    sheet: Path | None = None,
    *,
    image: Path | None = None,
) -> list[dict[str, Any]]:
    """The `k` items of `domain` nearest to words, to a picture file or to an item id, best first.

    Words and pictures are looked for in every kind of vectors that the encoder made which reads the query. With
    `image`, a picture is looked for together with the words. With `sheet`, the hits are also written there, as a
    picture or as a page (:mod:`features.sheets`).
    """
    if sheet is not None:
        sheet_form(sheet)  # a name that will not do is said before any work
    store = feature_store(house)
    tables = [table for view in _VIEWS if (table := store.vectors(domain, view)).present.any()]
    if by == "item":
        hits = search_item(tables, str(query), k)
    else:
        asked = [(by, query)] if image is None else [(by, query), ("image", image)]
        hits = search_content(tables, list(_queries(house, domain, asked)), k)
    named = _titles(house.store.require("core/items", domain).main, [hit.item_id for hit in hits])
    if sheet is not None:
        pictures = find_pictures(house.store.require("features/item_images", domain).path, list(named))
        samples = [(hit, named[hit.item_id], pictures.get(hit.item_id)) for hit in hits]
        write_sheet(samples, sheet, f"{domain}: {query}" + (f" and {image}" if image else ""))
    return [{"item_id": hit.item_id, "title": named[hit.item_id], "score": hit.score} for hit in hits]


def _queries(
    house: House, domain: str, asked: Sequence[tuple[Literal["text", "image"], str | Path]]
) -> Iterator[Query]:
    """Words and pictures as the domain's encoders see them; one that reads both is opened once."""
    encoders: dict[EncoderSettings, Encoder | ReadyVectors] = {}
    for by, content in asked:
        settings = encoder_settings(house, domain, by)
        if settings not in encoders:
            encoders[settings] = open_encoder(settings)
        encoder = encoders[settings]
        if isinstance(encoder, ReadyVectors):
            raise FeatureError(f"the {by} vectors of {domain} were made elsewhere, so only --item can search them")
        yield text_query(encoder, str(content)) if by == "text" else picture_query(encoder, Path(content))


def _titles(items: Path, ids: list[str]) -> dict[str, str]:
    """The title of each item in the order of `ids`; the id where there is no title."""
    table = pq.read_table(items, columns=["item_id", "title"], filters=[("item_id", "in", ids)])
    found = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return {item_id: found.get(item_id) or item_id for item_id in ids}
