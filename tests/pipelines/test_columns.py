"""Column lineage is what happens: a column of an input changes, and with it those columns that declare it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.item_text import build_item_text
from features.tables import TABLES as FEATURE_TABLES
from mmm4rec.tables import TABLES as MODEL_TABLES
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.columns import _DECLARED, columns
from tests.conftest import Cli
from tests.warehouse.work import publish_domain, write_raw
from warehouse.artifacts.store import Store
from warehouse.core.interactions import build_interactions
from warehouse.core.items import build_items
from warehouse.core.sequences import build_sequences
from warehouse.tables import TABLES as CORE_TABLES

TABLES = CORE_TABLES | FEATURE_TABLES | MODEL_TABLES


def _main(key: str) -> str:
    return f"{key}/{key.split('/')[1]}"


def test_what_is_declared_is_there() -> None:
    for key, (source, made) in _DECLARED.items():
        assert set(made) <= set(TABLES[_main(key)].names), key
        assert {name for names in made.values() for name in names} <= set(TABLES[_main(source)].names), key


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small domain up to its sequences, with many a rating at the same time, and texts in every field."""
    folder = tmp_path_factory.mktemp("columns")
    write_raw(folder / "raw", "Toys", 0)
    ratings = folder / "raw" / "Toys.csv"
    lines = [line.split(",") for line in ratings.read_text().splitlines()[:-1]]
    # Whole days, as in the Amazon files: without equal times no position would matter.
    ratings.write_text("\n".join(f"{item},{user},{stars},{int(time) // 400}" for item, user, stars, time in lines))
    metadata = folder / "raw" / "meta_Toys.json"
    more = ', "brand": "Brand", "description": ["one", "two"], "categories": ["a"], "imageURLHighRes": ["http://x/1"]'
    more += ', "price": "$9"}'
    metadata.write_text("\n".join(line[:-1] + more for line in metadata.read_text().splitlines()))
    publish_domain(folder / "data", folder / "raw", "Toys")
    return Store(folder / "data")


def _other(column: pa.ChunkedArray) -> list[Any]:
    """Other values of the same kind: numbers in the opposite order, texts and lists longer."""
    values = column.to_pylist()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return [max(values) + min(values) - value for value in values]
    if pa.types.is_list(column.type):
        return [[*value, "http://other"] for value in values]
    return [f"{value} other" for value in values]


def _built(key: str, store: Store, source: Path, out: Path) -> pa.Table:
    """The main table of an artifact made from `source` in place of its declared input."""
    out.mkdir()
    items = store.require("core/items", "Toys").main
    known = store.require("core/sequences", "Toys").path / "items.parquet"
    builds: dict[str, Callable[[], Any]] = {
        "core/items": lambda: build_items(source, out),
        "core/interactions": lambda: build_interactions(source, items, out),
        "core/sequences": lambda: build_sequences(source, out, 3),
        "features/item_text": lambda: build_item_text(source, known, out),
    }
    builds[key]()
    return pq.read_table(out / f"{key.split('/')[1]}.parquet")


KEYS = {"item_id", "user_id"}
"""Another key is another row, so these are not tried."""


@pytest.mark.parametrize("key", ["core/items", "core/interactions", "core/sequences", "features/item_text"])
def test_what_is_declared_is_what_happens(store: Store, tmp_path: Path, key: str) -> None:
    source, made = _DECLARED[key]
    table = pq.read_table(store.require(source, "Toys").main)
    before = _built(key, store, store.require(source, "Toys").main, tmp_path / "before")
    for name in set(table.column_names) - KEYS:
        field = table.schema.field(name)
        place = table.schema.get_field_index(name)
        # Files are in the order of their first column, lines or positions; of lines, the order stays.
        other = [line + 1000 for line in table[name].to_pylist()] if name == "line" else _other(table[name])
        changed = table.set_column(place, field, pa.array(other, field.type))
        pq.write_table(changed.sort_by(table.column_names[0]), tmp_path / f"{name}.parquet")
        after = _built(key, store, tmp_path / f"{name}.parquet", tmp_path / name)
        differing = {column for column in before.column_names if before[column] != after[column]}
        assert differing == {column for column, names in made.items() if name in names}, name


def test_vectors_come_from_the_form_of_the_text_that_was_encoded(tiny: Cli) -> None:
    store = DataFolder(tiny.data).store
    texts, images = (store.require(f"features/{kind}_embeddings", "Sample_Toys") for kind in ("text", "image"))
    assert columns(texts)["vector"] == [("features/item_text", "text_clean")]
    assert columns(images)["vector"] == [("features/item_images", "sha256")]
    assert columns(store.require("models/finetuned", "Sample_Toys")) == {}
