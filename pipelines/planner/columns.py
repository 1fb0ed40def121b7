"""Column lineage: which columns a column's values were made from, as Dagster, OpenLineage and the catalogue show it.

Declared for the main table of an artifact, and only where a value comes from values. What is counted, ranked or
learned from rows is left out, and so is what decides which rows there are. The tests hold the declarations against
what happens: they change a column of an input, build, and see which columns have changed.
"""

from collections.abc import Mapping
from typing import Final

from warehouse.artifacts.store import Artifact

__all__ = ["columns"]

Columns = Mapping[str, tuple[str, ...]]
"""Columns of the one input, by column of the table."""


def _same(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


_ORDER: Final = ("time", "position")
_DECLARED: Final[Mapping[str, tuple[str, Columns]]] = {
    "core/items": (
        "raw/metadata",
        _same("item_id", "title", "brand", "description", "categories", "image_urls", "line")
        | {"title_raw": ("title",), "description_raw": ("description",)}
        | dict.fromkeys(("price_raw", "price_lowest", "price_highest", "price_currency", "price_unread"), ("price",)),
    ),
    "core/interactions": ("raw/ratings", _same("user_id", "item_id", "rating", "time") | {"position": ("line",)}),
    "core/sequences": (
        "core/interactions",
        _same("user_id")
        | {
            "user_index": ("user_id",),
            "items": ("item_id", *_ORDER),
            "times": ("time",),
            "ratings": ("rating", *_ORDER),
        },
    ),
    "features/item_text": (
        "core/items",
        _same("item_id")
        | {"text": ("title_raw", "brand", "description")}
        | dict.fromkeys(("text_clean", "content_sha256"), ("title", "brand", "description")),
    ),
    "features/item_images": ("core/items", _same("item_id") | {"url": ("image_urls",)}),
    "reports/recommendations": ("core/sequences", _same("user_id")),
}
"""Input and columns, by layer/noun."""


def columns(artifact: Artifact) -> dict[str, list[tuple[str, str]]]:
    """(layer/noun, column) of what each column of the main table was made from; empty where nothing can be said."""
    source, made = _embedded(artifact) or _DECLARED.get(artifact.key, ("", {}))
    return {column: [(source, name) for name in names] for column, names in made.items()}


def _embedded(artifact: Artifact) -> tuple[str, Columns] | None:
    """Vectors come from the texts or pictures of the items where an encoder made them, and from elsewhere if ready."""
    if artifact.key not in ("features/text_embeddings", "features/image_embeddings"):
        return None
    summary, form = artifact.manifest.summary, artifact.manifest.parameters.get("form")
    source = "features/item_text" if form else "features/item_images"
    # A picture is known by its hash, a text by itself.
    content = ("sha256",) if form is None else ("text_clean",) if form == "clean" else ("text",)
    if summary["encoded"] + summary["reused"] == 0:
        return source, _same("item_id")
    return source, _same("item_id") | dict.fromkeys(("vector", "content_sha256", "present"), content)
