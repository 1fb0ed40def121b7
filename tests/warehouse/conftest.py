"""Builders that the warehouse's tests share."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.stores import bucket, place, server
from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.store import Artifact, Store, recipe
from warehouse.core.interactions import InteractionsSummary, build_interactions
from warehouse.core.items import ItemsSummary, build_items
from warehouse.core.sequences import SequencesSummary, build_sequences
from warehouse.raw.formats import format_of
from warehouse.raw.metadata import MetadataSummary, ingest_metadata
from warehouse.raw.rating_rows import RatingsSummary

__all__ = ["bucket", "place", "server"]


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[], Path]:
    """A new empty folder at each call."""
    numbers = count()

    def new() -> Path:
        folder = tmp_path / f"stage-{next(numbers)}"
        folder.mkdir()
        return folder

    return new


@dataclass
class Domain:
    """A domain on its way through the store."""

    ratings: RatingsSummary
    metadata: MetadataSummary
    items: ItemsSummary
    interactions: InteractionsSummary
    sequences: SequencesSummary


def _materialise(store: Store, name: str, ratings: Path, metadata: Path, k: int) -> Domain:
    summaries: list[Any] = []

    def publish(key: str, inputs: list[Artifact], build: Callable[[Path], Any], raw: Path | None = None) -> Artifact:
        def run(out: Path) -> dict[str, Any]:
            summaries.append(build(out))
            return asdict(summaries[-1])

        sources = {raw.name: sha256_file(raw)} if raw else {}
        return store.publish(recipe(key, name, "code", inputs, sources, {"k": k}), run)[0]

    raw_ratings = publish("raw/ratings", [], lambda out: format_of("ratings", ratings.name).read(ratings, out), ratings)
    raw_metadata = publish("raw/metadata", [], lambda out: ingest_metadata(metadata, out), metadata)
    items = publish("core/items", [raw_metadata], lambda out: build_items(raw_metadata.main, out))
    interactions = publish(
        "core/interactions",
        [raw_ratings, items],
        lambda out: build_interactions(raw_ratings.main, items.main, out),
    )
    publish("core/sequences", [interactions], lambda out: build_sequences(interactions.main, out, k))
    return Domain(*summaries)


@pytest.fixture(scope="session")
def materialise() -> Callable[[Store, str, Path, Path, int], Domain]:
    """Run a domain (store, name, ratings, metadata, k) from raw files to sequences, each step published."""
    return _materialise
