"""Feature views: the data that the store offers about an item or a user, declared once and listed for people.

A view is one table of one artifact. The width and the encoder of its vectors differ between domains, so a declaration
leaves both open, and :func:`list_views` reads them from the built artifacts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from features.encoders import EncoderIdentity
from features.errors import FeatureError
from features.tables import TABLES

__all__ = ["VIEWS", "BuiltVersion", "FeatureView", "list_views", "read_identity"]


class BuiltVersion(Protocol):
    """A version that the pipeline has built. Any artifact class with these attributes fits."""

    @property
    def version(self) -> str:
        """The name of the version, unique within its domain and usable as a folder name."""
        ...

    @property
    def path(self) -> Path:
        """The folder of its files."""
        ...


@dataclass(frozen=True)
class FeatureView:
    """The known data about an entity, and its source."""

    name: str
    entity: Literal["item", "user"]
    """What a row describes; the first column is its id."""
    columns: tuple[str, ...]
    source: str
    """layer/noun of the artifact that it is computed from."""
    owner: str
    """The package that computes it."""
    freshness: str
    """When it changes."""
    key: str
    """layer/noun of the artifact that holds it."""
    width: int | None = None
    """Length of its vectors; None in the declaration, or if the view has no vectors."""
    encoder: str | None = None
    """The model that made its vectors; None in the same cases as `width`."""

    @property
    def vectors(self) -> bool:
        """Whether the view has vectors."""
        return "vector" in self.columns

    def table(self, artifact: BuiltVersion) -> Path:
        """The table of the artifact that holds the rows."""
        return artifact.path / f"{self.key.split('/')[1]}.parquet"

    def built(self, artifact: BuiltVersion) -> "FeatureView":
        """The view of an artifact, with width and encoder filled in.

        Raises:
            FeatureError: there is no readable record of the encoder that made the vectors.
        """
        if not self.vectors:
            return self
        identity = read_identity(artifact.path)
        return replace(self, width=identity.width, encoder=identity.model)


def _of_items(name: str, source: str, freshness: str) -> FeatureView:
    key = f"features/{name}"
    columns = tuple(TABLES[f"{key}/{name}"].names)
    return FeatureView(name, "item", columns, source, "features", freshness, key)


VIEWS: Final[dict[str, FeatureView]] = {
    view.name: view
    for view in (
        _of_items("item_text", "core/items", "with the metadata or the k-core"),
        _of_items("item_images", "core/items", "with the metadata, the k-core or the picture files"),
        _of_items("text_embeddings", "features/item_text", "with the texts or the encoder"),
        _of_items("image_embeddings", "features/item_images", "with the pictures or the encoder"),
        FeatureView(
            name="user_histories",
            entity="user",
            columns=("user_id", "item_ids", "times", "ratings"),
            source="core/interactions",
            owner="warehouse",
            freshness="as of any moment, computed when asked",
            key="core/interactions",
        ),
    )
}
"""Every view by its name."""


def list_views(current: Callable[[str, str], BuiltVersion | None], domains: Sequence[str]) -> list[dict[str, Any]]:
    """One row per view and domain in which it is built. A view that is not built in any domain has one row without it.

    Columns: those of :class:`FeatureView`, and domain, version and rows (of the view's table).

    Args:
        current: returns the artifact of (layer/noun, domain), or None if there is none.
        domains: the domains to look at.

    Raises:
        FeatureError: an artifact cannot be read.
    """
    listed = []
    for view in VIEWS.values():
        rows = [_row(view, domain, found) for domain in domains if (found := current(view.key, domain))]
        listed += rows or [_row(view, None, None)]
    return listed


def _row(view: FeatureView, domain: str | None, artifact: BuiltVersion | None) -> dict[str, Any]:
    if artifact is None:
        return {**asdict(view), "domain": domain, "version": None, "rows": None}
    try:
        rows = pq.read_metadata(view.table(artifact)).num_rows
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(
            f"{view.table(artifact)}: cannot be read as Parquet ({error}); `mmm4rec run {domain}` rebuilds it"
        ) from error
    return {**asdict(view.built(artifact)), "domain": domain, "version": artifact.version, "rows": rows}


def read_identity(folder: Path) -> EncoderIdentity:
    """The identity of the encoder that made the vectors in an artifact's folder.

    Raises:
        FeatureError: there is no readable record of it.
    """
    path = folder / "encoder.json"
    try:
        return EncoderIdentity(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FeatureError(f"{path}: there is no encoder identity ({error}); rebuild the embeddings") from error
