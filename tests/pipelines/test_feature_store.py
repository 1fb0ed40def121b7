"""The feature store over the sample: it agrees with the tables, the model's reader and the catalogue."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from features.store import FeatureStore
from features.views import VIEWS
from mmm4rec.data import load_domain
from pipelines.feature_store import feature_store, listing
from pipelines.search import find
from pipelines.settings import House
from tests.conftest import Cli
from warehouse.errors import WarehouseError
from warehouse.query import query


@pytest.fixture
def house(tiny: Cli) -> Iterator[House]:
    """The tiny sample; what is made of it is removed."""
    house = House(tiny.data)
    yield house
    shutil.rmtree(house.data / "cache" / "lookup", ignore_errors=True)


@pytest.fixture
def store(house: House) -> FeatureStore:
    return feature_store(house)


def test_a_domain_is_what_the_model_reads(house: House, store: FeatureStore) -> None:
    for domain in house.present():
        found = store.domain(domain)
        paths = [
            house.store.require(f"features/{noun}", domain).main for noun in ("text_embeddings", "image_embeddings")
        ]
        read = load_domain(house.store.require("core/sequences", domain).path, *paths)
        assert found.item_ids == read.item_ids
        for ours, theirs in ((found.text, read.text), (found.image, read.image)):
            assert torch.equal(torch.from_numpy(ours.vectors), theirs.vectors)
            assert torch.equal(torch.from_numpy(ours.present), theirs.present)
        assert not found.image.present.all()


def test_items_are_what_the_tables_say(house: House, store: FeatureStore) -> None:
    domain = house.present()[0]
    views = [view.name for view in VIEWS.values() if view.entity == "item"]
    plain = {
        name: pq.read_table(house.store.require(f"features/{name}", domain).main, partitioning=None) for name in views
    }
    ids = plain["item_text"]["item_id"].to_pylist()
    rows = np.random.default_rng(0).integers(0, len(ids), 50)
    items = store.items(domain, [ids[row] for row in rows], views)
    assert items.known.all()
    for name in views:
        assert items.views[name].to_pylist() == plain[name].take(rows).to_pylist()


def test_histories_are_those_of_the_catalogue(house: House, store: FeatureStore) -> None:
    domain = house.present()[0]
    (middle,) = query(
        house.catalogue, "SELECT median(time)::BIGINT FROM core.interactions WHERE domain = $d", {"d": domain}
    )[0].to_pylist()
    bound = {"domain": domain, "as_of": middle}
    expected = query(house.catalogue, "FROM histories($domain, $as_of)", bound)
    users = expected["user_id"].to_pylist()
    assert len(users) > 10
    found = store.histories(domain, [*users, "nobody"], middle)
    assert found.to_pylist()[:-1] == expected.to_pylist()
    assert found.to_pylist()[-1] == {"user_id": "nobody", "item_ids": [], "times": [], "ratings": []}


def test_the_views_are_listed(house: House) -> None:
    rows = listing(house)
    domains = house.present()
    for name in VIEWS:
        assert [row["domain"] for row in rows if row["name"] == name] == sorted(domains)
    one = listing(house, domains[0])
    assert one == [row for row in rows if row["domain"] == domains[0]]
    for row in one:
        assert row["rows"] > 0
        assert row["version"] == house.store.require(row["key"], domains[0]).version
        assert (row["width"] is not None) == (row["encoder"] is not None) == ("embeddings" in row["name"])
    with pytest.raises(WarehouseError, match="no domain 'Nowhere'"):
        listing(house, "Nowhere")


@pytest.mark.long
def test_search_by_words_a_picture_both_and_an_item(house: House, tmp_path: Path) -> None:
    domain = house.present()[0]
    picture = next(iter(sorted((house.raw_folder / "images" / domain).glob("*"))))
    words = find(house, domain, 5, text="striped red robot", sheet=tmp_path / "sheet.html")
    pictures = find(house, domain, 5, image=picture, sheet=tmp_path / "sheet.png")
    both = find(house, domain, 5, text="striped red robot", image=picture)
    assert len(words) == len(pictures) == len(both) == 5
    for hits in (words, pictures, both):
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert both != words != pictures
    like = find(house, domain, 3, item=words[0]["item_id"])
    assert words[0]["item_id"] not in [hit["item_id"] for hit in like]
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<li>") == 5
    assert page.count('src="data:image/jpeg;base64,') > 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
