"""What is declared is what the tables hold, and the list says what is built where."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import FeatureError
from features.lookup.views import VIEWS, list_views
from features.tables import TABLES
from tests.features.test_store import House
from tests.features.vectors import write_embeddings


def test_every_table_of_the_store_is_a_view_with_its_columns() -> None:
    tables = {f"{view.key}/{view.name}": view for view in VIEWS.values() if view.entity == "item"}
    assert set(tables) == set(TABLES)
    for key, view in tables.items():
        assert view.columns == tuple(TABLES[key].names)
        assert view.columns[0] == "item_id"
        assert view.vectors == ("vector" in TABLES[key].names)
        assert view.source != view.key
    assert [view.name for view in VIEWS.values() if view.entity == "user"] == ["user_histories"]
    assert list(VIEWS) == [view.name for view in VIEWS.values()]


def test_the_list_says_what_is_built(tmp_path: Path) -> None:
    house = House(tmp_path)
    for domain, width in (("D", 2), ("E", 3)):
        folder = house.folder("features/text_embeddings", domain, f"v{width}")
        write_embeddings(folder, "text_embeddings", ["a", "b"], np.ones((2, width), np.float32), model=f"m{width}")
    rows = list_views(lambda key, domain: house.found.get((key, domain)), ["D", "E", "F"])
    assert [row["name"] for row in rows] == [
        "item_text",
        "item_images",
        "text_embeddings",
        "text_embeddings",
        "image_embeddings",
        "user_histories",
    ]
    facts = [(row["domain"], row["version"], row["rows"], row["width"], row["encoder"]) for row in rows]
    none = (None, None, None, None, None)
    assert facts == [none, none, ("D", "v2", 2, 2, "m2"), ("E", "v3", 2, 3, "m3"), none, none]
    for row in rows:
        assert row["entity"] in ("item", "user")
        assert row["columns"]
        assert row["source"]
        assert row["owner"]
        assert row["freshness"]

    (house.found["features/text_embeddings", "D"].path / "text_embeddings.parquet").write_bytes(b"noise")
    with pytest.raises(FeatureError, match=r"text_embeddings\.parquet: cannot be read as Parquet"):
        list_views(lambda key, domain: house.found.get((key, domain)), ["D"])
