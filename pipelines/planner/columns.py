"""Column lineage: the columns from which a column's values were made, for Dagster, OpenLineage and the catalogue.

It is declared for the main table of an artifact, and only where values come from values. Counts, ranks and learned
values are left out, and so are columns that only decide which rows exist. The tests check the declarations: they change
a column of an input, build, and compare which columns have changed.
"""

from collections.abc import Mapping
from typing import Final

from warehouse.artifacts.store import Artifact

__all__ = ["columns"]

Columns = Mapping[str, tuple[str, ...]]
"""Columns of the input, by column of the table."""


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
"""The input and its columns, by layer/noun."""


def columns(artifact: Artifact) -> dict[str, list[tuple[str, str]]]:
    """(layer/noun, column) of the sources of each column of the main table; empty if there is no declaration."""
    source, made = _embedded(artifact) or _DECLARED.get(artifact.key, ("", {}))
    return {column: [(source, name) for name in names] for column, names in made.items()}


def _embedded(artifact: Artifact) -> tuple[str, Columns] | None:
    """The sources of a vector table. Computed vectors come from texts or pictures, ready ones share only the ids."""
    if artifact.key not in ("features/text_embeddings", "features/image_embeddings"):
        return None
    summary, form = artifact.manifest.summary, artifact.manifest.parameters.get("form")
    source = "features/item_text" if form else "features/item_images"
    # A picture is identified by its hash, a text by its content.
    content = ("sha256",) if form is None else ("text_clean",) if form == "clean" else ("text",)
    if summary["encoded"] + summary["reused"] == 0:
        return source, _same("item_id")
    return source, _same("item_id") | dict.fromkeys(("vector", "content_sha256", "present"), content)
