"""The graph of all versions: up, down, by name, by raw file."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.work import overwrite
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.store import ALL, Artifact, Store, recipe


def make(
    store: Store, key: str, text: str, *inputs: Artifact, domain: str = "Toys", sources: dict[str, str] | None = None
) -> Artifact:
    """An artifact of one small file."""

    def build(out: Path) -> dict[str, Any]:
        (out / "file.txt").write_text(f"{key} {domain} {text}")
        return {}

    return store.publish(recipe(key, domain, "code", inputs, sources or {}, {"text": text}), build)[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def generations(store: Store) -> list[dict[str, Artifact]]:
    """Two generations of a diamond: raw, items and text over it, a model over both; and another domain beside."""
    made = []
    make(store, "raw/metadata", "other", domain="Mugs", sources={"meta_Mugs.json": "f" * 64})
    for number in (1, 2):
        raw = make(store, "raw/metadata", str(number), sources={"meta_Toys.json": f"{number}" * 64})
        items = make(store, "core/items", str(number), raw)
        text = make(store, "features/item_text", str(number), items)
        model = make(store, "models/pretrained", str(number), items, text, domain=ALL)
        made.append({artifact.key: artifact for artifact in (raw, items, text, model)})
    return made


def test_down_to_the_raw_files_and_up_again(store: Store, generations: list[dict[str, Artifact]]) -> None:
    lineage = Lineage.of(store)
    for made in generations:
        versions = [artifact.named for artifact in made.values()]
        assert lineage.upstream([versions[-1]]) == versions[::-1]
        assert lineage.downstream([versions[0]]) == versions
    assert lineage.readers("meta_Toys.json") == sorted(made["raw/metadata"].named for made in generations)
    assert lineage.readers("2222") == [generations[1]["raw/metadata"].named]


def test_a_version_is_found_by_every_name_it_has(store: Store, generations: list[dict[str, Artifact]]) -> None:
    lineage = Lineage.of(store)
    old, new = generations[0]["core/items"].named, generations[1]["core/items"].named
    assert lineage.find("core/items@Toys") == new
    assert lineage.find(f"core/items@Toys:{old[2][:6]}") == old
    assert lineage.find(old[2]) == lineage.find(named(old)) == lineage.find(old[2][:8]) == old
    assert lineage.find("models/pretrained") == generations[1]["models/pretrained"].named


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("core/items", "there is no core/items of _all; there are core/items@Toys"),
        ("core/nothing@Toys", "there is no such asset"),
        ("core/items@Toys:0000", "no version 0000 of core/items@Toys"),
        ("ffffffff", "no version ffffffff here"),
        ("abc", "no version abc here"),
        ("../../etc", "names no artifact"),
        ("", "names no artifact"),
    ],
)
def test_a_name_of_nothing_says_so(store: Store, generations: list[dict[str, Artifact]], name: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        Lineage.of(store).find(name)


@pytest.mark.parametrize("raw", ["nothing.csv", "dead", "", "22"])
def test_a_raw_file_that_nothing_was_made_from(store: Store, generations: list[dict[str, Artifact]], raw: str) -> None:
    with pytest.raises(StoreError, match="nothing was made from a raw file"):
        Lineage.of(store).readers(raw)


def test_equal_versions_of_two_domains_are_told_apart(store: Store) -> None:
    for domain in ("Mugs", "Toys"):
        store.publish(
            recipe("core/items", domain, "code", [], {}, {}),
            lambda out: {"characters": (out / "file.txt").write_text("the same")},
        )
    lineage = Lineage.of(store)
    (_, _, digest), *_ = lineage.current
    with pytest.raises(StoreError, match=f"could be core/items@Mugs:{digest} or core/items@Toys:{digest}"):
        lineage.find(digest)


def test_what_is_gone_or_unreadable_ends_the_way(store: Store, generations: list[dict[str, Artifact]]) -> None:
    items, model = generations[0]["core/items"], generations[0]["models/pretrained"]
    overwrite(items.path / "manifest.json", "{")
    lineage = Lineage.of(store)
    assert lineage.versions[items.named] is None
    assert items.named in lineage.upstream([model.named])
    assert generations[0]["raw/metadata"].named not in lineage.upstream([model.named])


def test_manifests_in_a_circle_are_an_error(store: Store, generations: list[dict[str, Artifact]]) -> None:
    raw, items = generations[0]["raw/metadata"], generations[0]["core/items"]
    manifest = json.loads((raw.path / "manifest.json").read_text())
    overwrite(raw.path / "manifest.json", json.dumps({**manifest, "inputs": {items.ref: items.version}}))
    with pytest.raises(StoreError, match="contradict each other"):
        Lineage.of(store).upstream([items.named])
