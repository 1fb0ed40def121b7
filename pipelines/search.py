"""Search in the vectors of a domain, for the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from features.encoders import Encoder, ReadyVectors, open_encoder
from features.errors import FeatureError
from features.lookup.search import Query, find_pictures, picture_query, search_content, search_item, text_query
from features.lookup.sheets import sheet_form, write_sheet
from features.settings import EncoderSettings
from pipelines.assets.features import encoder_settings
from pipelines.data_folder.folder import DataFolder
from pipelines.feature_store import feature_store

_VIEWS = ("text_embeddings", "image_embeddings")


def find(
    data_folder: DataFolder,
    domain: str,
    k: int = 10,
    *,
    text: str | None = None,
    image: Path | None = None,
    item: str | None = None,
    sheet: Path | None = None,
) -> list[dict[str, Any]]:
    """The `k` items of `domain` nearest to words, to a picture file, to both together, or to an item id, best first.

    Words and pictures are searched in every kind of vectors from an encoder that can read the query. With `sheet`, the
    hits are also written to that file, as a picture or as a page (:mod:`features.lookup.sheets`).
    """
    if sheet is not None:
        sheet_form(sheet)  # an unknown form of the name is an error before any work
    store = feature_store(data_folder)
    tables = [table for view in _VIEWS if (table := store.vectors(domain, view)).present.any()]
    if item is not None:
        hits = search_item(tables, item, k)
    else:
        hits = search_content(tables, list(_queries(data_folder, domain, text, image)), k)
    named = _titles(data_folder.store.require("core/items", domain).main, [hit.item_id for hit in hits])
    if sheet is not None:
        pictures = find_pictures(data_folder.store.require("features/item_images", domain).file, list(named))
        samples = [(hit, named[hit.item_id], pictures.get(hit.item_id)) for hit in hits]
        asked = " and ".join(str(query) for query in (text, image, item) if query is not None)
        write_sheet(samples, sheet, f"{domain}: {asked}")
    return [{"item_id": hit.item_id, "title": named[hit.item_id], "score": hit.score} for hit in hits]


def _queries(data_folder: DataFolder, domain: str, text: str | None, image: Path | None) -> Iterator[Query]:
    """Words and a picture, encoded by the domain's encoders. An encoder that reads both is opened once."""
    encoders: dict[EncoderSettings, Encoder | ReadyVectors] = {}

    def encoder(by: Literal["text", "image"]) -> Encoder:
        settings = encoder_settings(data_folder, domain, by)
        opened = encoders.get(settings) or encoders.setdefault(settings, open_encoder(settings))
        if isinstance(opened, ReadyVectors):
            raise FeatureError(f"the {by} vectors of {domain} were made elsewhere, so only --item can search them")
        return opened

    if text is not None:
        yield text_query(encoder("text"), text)
    if image is not None:
        yield picture_query(encoder("image"), image)


def _titles(items: Path, ids: list[str]) -> dict[str, str]:
    """The title of each item, in the order of `ids`; the id if there is no title."""
    table = pq.read_table(items, columns=["item_id", "title"], filters=[("item_id", "in", ids)])
    found = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return {item_id: found.get(item_id) or item_id for item_id in ids}
