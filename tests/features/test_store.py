"""The front of the store: in the order asked, nobody invented, as one version, aligned for a trainer."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import FeatureError
from features.lookup.store import FeatureStore, Moment
from features.tables import ITEM_IMAGES, ITEM_TEXT
from tests.features.vectors import identity, write_embeddings

IDS = ["a", "b", "c", "ключ"]
TEXTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], np.float32)
PICTURES = np.array([[0, 0], [3, 4], [5, 6], [7, 8]], np.float16)


@dataclass(frozen=True)
class Built:
    """An artifact, by shape."""

    version: str
    path: Path


class House:
    """Artifacts by (key, domain), and histories that echo the question."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: dict[tuple[str, str], Built] = {}

    def folder(self, key: str, domain: str = "D", version: str = "v1") -> Path:
        path = self.root / key / domain / version
        path.mkdir(parents=True)
        self.found[key, domain] = Built(version, path)
        return path

    def locate(self, key: str, domain: str) -> Built:
        return self.found[key, domain]

    def histories(self, domain: str, users: Sequence[str], as_of: Moment | Sequence[Moment]) -> pa.Table:
        return pa.table({"user_id": users, "domain": [domain] * len(users), "as_of": [as_of] * len(users)})

    def store(self) -> FeatureStore:
        return FeatureStore(self.locate, self.root / "cache", self)


def write_items(house: House, ids: Sequence[str], version: str = "v1") -> None:
    table = pa.table({"item_index": pa.array(range(1, len(ids) + 1), pa.int32()), "item_id": list(ids)})
    pq.write_table(table, house.folder("core/sequences", version=version) / "items.parquet")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Four items: the third without text, the first without picture."""
    house = House(tmp_path_factory.mktemp("house"))
    write_items(house, IDS)
    texts = [
        {"item_id": i, "text": f"T {i}", "text_clean": f"t {i}", "content_sha256": i * 2, "present": True}
        if i != "c"
        else {"item_id": i, "text": None, "text_clean": None, "content_sha256": None, "present": False}
        for i in IDS
    ]
    pq.write_table(pa.Table.from_pylist(texts, ITEM_TEXT), house.folder("features/item_text") / "item_text.parquet")
    images = [{"item_id": i, "status": "ok" if i != "a" else "no_url", "width": 7 if i != "a" else None} for i in IDS]
    pq.write_table(
        pa.Table.from_pylist(images, ITEM_IMAGES), house.folder("features/item_images") / "item_images.parquet"
    )
    write_embeddings(
        house.folder("features/text_embeddings"), "text_embeddings", IDS, TEXTS, TEXTS.any(axis=1), row_group=2
    )
    write_embeddings(
        house.folder("features/image_embeddings"), "image_embeddings", IDS, PICTURES, PICTURES.any(axis=1), "pictures"
    )
    return house


ASKED = ["ключ", "nobody", "a", "c", "a", "", "nobody"]


def test_items_as_arrow(house: House) -> None:
    views = ["text_embeddings", "image_embeddings", "item_text", "item_images"]
    items = house.store().items("D", ASKED, views)
    assert items.item_ids == ASKED
    assert items.known.tolist() == [True, False, True, True, True, False, False]
    assert items.unknown == ["nobody", ""]
    assert list(items.views) == views
    texts, pictures = items.views["text_embeddings"], items.views["image_embeddings"]
    assert texts.column_names == ["item_id", "vector", "present", "content_sha256"]
    assert texts["vector"].to_pylist() == [[0, 0, 1], None, [1, 0, 0], [0, 0, 0], [1, 0, 0], None, None]
    assert texts["present"].to_pylist() == [True, False, True, False, True, False, False]
    assert texts["content_sha256"].to_pylist() == ["sha of ключ", None, "sha of a", None, "sha of a", None, None]
    assert pictures["vector"].type == pa.list_(pa.float32(), 2)
    assert pictures["vector"].to_pylist() == [[7, 8], None, [0, 0], [5, 6], [0, 0], None, None]
    assert items.views["item_text"]["text"].to_pylist() == ["T ключ", None, "T a", None, "T a", None, None]
    assert items.views["item_text"]["present"].to_pylist() == [True, False, True, False, True, False, False]
    statuses = ["ok", None, "no_url", "ok", "no_url", None, None]
    assert items.views["item_images"]["status"].to_pylist() == statuses
    assert all(table["item_id"].to_pylist() == ASKED for table in items.views.values())


def test_items_as_numpy(house: House) -> None:
    items = house.store().items("D", ASKED, ["text_embeddings", "item_images"], "numpy")
    assert items.unknown == ["nobody", ""]
    texts, images = items.views["text_embeddings"], items.views["item_images"]
    assert texts["vector"].dtype == np.float32
    assert texts["vector"].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert texts["present"].dtype == np.bool_
    assert texts["present"].tolist() == [True, False, True, False, True, False, False]
    assert images["status"].tolist() == ["ok", None, "no_url", "ok", "no_url", None, None]
    assert np.array_equal(images["width"], [7, *[np.nan] * 2, 7, *[np.nan] * 3], equal_nan=True)
    assert list(texts["item_id"]) == list(images["item_id"]) == ASKED


@given(st.lists(st.sampled_from([*IDS, "nobody", "aa", "Z"])), st.sampled_from(["arrow", "numpy"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_question_is_answered_in_its_order(house: House, asked: list[str], form: Any) -> None:
    items = house.store().items("D", asked, ["text_embeddings"], form)
    table = items.views["text_embeddings"]
    vectors = table["vector"].to_pylist() if form == "arrow" else table["vector"].tolist()
    none = None if form == "arrow" else [0, 0, 0]
    assert vectors == [TEXTS[IDS.index(i)].tolist() if i in IDS else none for i in asked]
    present = table["present"].to_pylist() if form == "arrow" else table["present"].tolist()
    assert present == [i in IDS and i != "c" for i in asked]
    assert set(items.unknown) == set(asked) - set(IDS)


def test_views_that_are_none(house: House) -> None:
    store = house.store()
    for name in ("texts", "user_histories"):
        with pytest.raises(FeatureError, match=rf"no view '{name}' of items; there are item_text, item_images"):
            store.items("D", [], [name])
    with pytest.raises(FeatureError, match="no view 'item_text' of vectors; there are text_embeddings"):
        store.vectors("D", "item_text")


def test_a_whole_domain(house: House) -> None:
    domain = house.store().domain("D")
    assert domain.item_ids == IDS
    assert domain.text.vectors.tolist() == [[0, 0, 0], *TEXTS.tolist()]
    assert domain.text.present.tolist() == [False, True, True, False, True]
    assert domain.image.vectors.tolist() == [[0, 0], *PICTURES.tolist()]
    assert domain.image.present.tolist() == [False, False, True, True, True]
    assert (domain.text.identity, domain.image.identity) == (identity(3), identity(2, "pictures"))


def test_a_trainer_may_write_into_what_it_got(house: House) -> None:
    store = house.store()
    before = store.items("D", IDS, ["text_embeddings"], "numpy").views["text_embeddings"]["vector"].copy()
    domain = store.domain("D")
    domain.text.vectors[:] = 9
    after = store.items("D", IDS, ["text_embeddings"], "numpy").views["text_embeddings"]["vector"]
    assert np.array_equal(before, after)
    assert np.array_equal(house.store().domain("D").text.vectors[1:], TEXTS)


def test_other_items_than_those_of_the_sequences(tmp_path: Path) -> None:
    """More vectors than items are told apart by id; a missing one is an error."""
    house = House(tmp_path)
    for noun, vectors in (("text_embeddings", TEXTS), ("image_embeddings", PICTURES)):
        write_embeddings(house.folder(f"features/{noun}"), noun, IDS, vectors, vectors.any(axis=1))
    write_items(house, ["b", "ключ"])
    domain = house.store().domain("D")
    assert domain.text.vectors.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert domain.image.present.tolist() == [False, True, True]
    write_items(house, ["b", "x", "y"], "v2")
    with pytest.raises(
        FeatureError, match=r"2 of 3 items are missing in text_embeddings of D, such as 'x'; `mmm4rec run D`"
    ):
        house.store().domain("D")
    path = house.folder("core/sequences", version="v3") / "items.parquet"
    pq.write_table(pa.table({"item_index": pa.array([2, 3], pa.int32()), "item_id": ["a", "b"]}), path)
    with pytest.raises(FeatureError, match=r"item_index is not 1\.\.2"):
        house.store().domain("D")


def test_a_store_keeps_the_version_that_it_saw_first(tmp_path: Path) -> None:
    house = House(tmp_path)

    def publish(version: str, value: float) -> None:
        folder = house.folder("features/text_embeddings", version=version)
        write_embeddings(folder, "text_embeddings", ["a"], np.full((1, 2), value, np.float32))

    def look_up(store: FeatureStore) -> list[float]:
        found: list[float] = store.items("D", ["a"], ["text_embeddings"], "numpy").views["text_embeddings"]["vector"][0]
        return list(found)

    publish("v1", 1)
    store = house.store()
    assert look_up(store) == [1, 1]
    publish("v2", 2)
    assert look_up(house.store()) == [2, 2]
    assert look_up(store) == [1, 1]


def test_histories_are_asked_of_whoever_has_them(house: House) -> None:
    answer = house.store().histories("D", ["u", "v"], 7)
    assert answer.to_pylist() == [{"user_id": user, "domain": "D", "as_of": 7} for user in ("u", "v")]


def test_no_identity_beside_the_vectors(tmp_path: Path) -> None:
    house = House(tmp_path)
    folder = house.folder("features/text_embeddings")
    write_embeddings(folder, "text_embeddings", ["a"], np.ones((1, 2), np.float32))
    (folder / "encoder.json").write_text("{}")
    with pytest.raises(FeatureError, match=r"encoder\.json: there is no encoder identity"):
        house.store().vectors("D", "text_embeddings")
    assert house.store().items("D", ["a"], ["text_embeddings"]).unknown == []
    (folder / "encoder.json").write_text(json.dumps(asdict(identity(3))))
    with pytest.raises(FeatureError, match="no vectors of width 3, the width of m"):
        house.store().vectors("D", "text_embeddings")


def test_a_table_of_an_older_layout(tmp_path: Path) -> None:
    house = House(tmp_path)
    pq.write_table(
        pa.table({"item_id": ["a"], "text": ["T"]}), house.folder("features/item_text") / "item_text.parquet"
    )
    with pytest.raises(FeatureError, match=r"no column content_sha256, present, text_clean; `mmm4rec run D`"):
        house.store().items("D", ["a"], ["item_text"])
