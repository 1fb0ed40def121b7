"""The feature store over the sample: it agrees with the tables, the model's reader and the catalogue."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from features.lookup.store import FeatureStore
from features.lookup.views import VIEWS
from mmm4rec.data.reading import load_domain
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.feature_store import feature_store, listing
from pipelines.search import find
from tests.conftest import Cli
from warehouse.catalogue.query import query


@pytest.fixture
def data_folder(tiny: Cli) -> Iterator[DataFolder]:
    """The tiny sample; what is made of it is removed."""
    data_folder = DataFolder(tiny.data)
    yield data_folder
    shutil.rmtree(data_folder.path / "cache" / "lookup", ignore_errors=True)


@pytest.fixture
def store(data_folder: DataFolder) -> FeatureStore:
    return feature_store(data_folder)


def test_a_domain_is_what_the_model_reads(data_folder: DataFolder, store: FeatureStore) -> None:
    for domain in data_folder.present():
        found = store.domain(domain)
        paths = [
            data_folder.store.require(f"features/{noun}", domain).main
            for noun in ("text_embeddings", "image_embeddings")
        ]
        read = load_domain(data_folder.store.require("core/sequences", domain).path, *paths)
        assert found.item_ids == read.item_ids
        for ours, theirs in ((found.text, read.text), (found.image, read.image)):
            assert torch.equal(torch.from_numpy(ours.vectors), theirs.vectors)
            assert torch.equal(torch.from_numpy(ours.present), theirs.present)
        assert not found.image.present.all()


def test_items_are_what_the_tables_say(data_folder: DataFolder, store: FeatureStore) -> None:
    domain = data_folder.present()[0]
    views = [view.name for view in VIEWS.values() if view.entity == "item"]
    plain = {
        name: pq.read_table(data_folder.store.require(f"features/{name}", domain).main, partitioning=None)
        for name in views
    }
    ids = plain["item_text"]["item_id"].to_pylist()
    rows = np.random.default_rng(0).integers(0, len(ids), 50)
    items = store.items(domain, [ids[row] for row in rows], views)
    assert items.known.all()
    for name in views:
        assert items.views[name].to_pylist() == plain[name].take(rows).to_pylist()


def test_histories_are_those_of_the_catalogue(data_folder: DataFolder, store: FeatureStore) -> None:
    domain = data_folder.present()[0]
    (middle,) = query(
        data_folder.catalogue, "SELECT median(time)::BIGINT FROM core.interactions WHERE domain = $d", {"d": domain}
    )[0].to_pylist()
    bound = {"domain": domain, "as_of": middle}
    expected = query(data_folder.catalogue, "SELECT * EXCLUDE (rated_at) FROM histories($domain, $as_of)", bound)
    users = expected["user_id"].to_pylist()
    assert len(users) > 10
    found = store.histories(domain, [*users, "nobody"], middle)
    assert found.to_pylist()[:-1] == expected.to_pylist()
    assert found.to_pylist()[-1] == {"user_id": "nobody", "item_ids": [], "times": [], "ratings": []}


def test_the_views_are_listed(data_folder: DataFolder) -> None:
    rows = listing(data_folder)
    domains = data_folder.present()
    for name in VIEWS:
        assert [row["domain"] for row in rows if row["name"] == name] == sorted(domains)
    one = listing(data_folder, domains[0])
    assert one == [row for row in rows if row["domain"] == domains[0]]
    for row in one:
        assert row["rows"] > 0
        assert row["version"] == data_folder.store.require(row["key"], domains[0]).version
        assert (row["width"] is not None) == (row["encoder"] is not None) == ("embeddings" in row["name"])
    with pytest.raises(SettingsError, match="no domain 'Nowhere'"):
        listing(data_folder, "Nowhere")


@pytest.mark.long
def test_search_by_words_a_picture_both_and_an_item(data_folder: DataFolder, tmp_path: Path) -> None:
    domain = data_folder.present()[0]
    picture = next(iter(sorted((data_folder.raw_folder / "images" / domain).glob("*"))))
    words = find(data_folder, domain, 5, text="striped red robot", sheet=tmp_path / "sheet.html")
    pictures = find(data_folder, domain, 5, image=picture, sheet=tmp_path / "sheet.png")
    both = find(data_folder, domain, 5, text="striped red robot", image=picture)
    assert len(words) == len(pictures) == len(both) == 5
    for hits in (words, pictures, both):
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert both != words != pictures
    like = find(data_folder, domain, 3, item=words[0]["item_id"])
    assert words[0]["item_id"] not in [hit["item_id"] for hit in like]
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<li>") == 5
    assert page.count('src="data:image/jpeg;base64,') > 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
