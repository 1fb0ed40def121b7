"""The tiny sample with raw files, pictures, artifacts and caches in buckets, from one machine after the other."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from features.sample import write_sample
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan
from tests.warehouse.stores import BUCKET, Place, bucket, server

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]

TEXTS, PICTURES = "features/text_embeddings", "features/image_embeddings"
KEYS = ("core/sequences", "features/item_text", "features/item_images", TEXTS, PICTURES)
DOMAINS = ("Sample_Kitchen", "Sample_Toys")


def _machine(folder: Path, **settings: Any) -> Path:
    """A data folder for the sample."""
    folder.mkdir()
    defaults = {f"{modality}_encoder": {"model": "sample-clip"} for modality in ("text", "image")}
    (folder / "domains.yaml").write_text(yaml.safe_dump({"defaults": defaults, **settings}))
    return folder


def _build(data: Path) -> set[tuple[str, str]]:
    """Build what vectors need, and return what was stale."""
    data_folder, stale = DataFolder(data), set()
    for stage in plan(data_folder, data_folder.present(), KEYS):
        for step in stage.steps:
            assert step.make(data_folder, stage.domain).problems == []
            stale.add((step.key, stage.domain))
    return stale


def _versions(data: Path) -> dict[str, tuple[str, str]]:
    """The versions and the recipes."""
    current = DataFolder(data).store.all_current()
    return {artifact.ref: (artifact.version, artifact.manifest.recipe) for artifact in current}


def _requests(place: Place) -> list[str]:
    """The requests since the last call, such as GET /bucket/raw files/x."""
    assert place.server
    return [said.partition("?")[0] for said in place.server.tell(forget=True)["seen"]]


def _encoded(data: Path, key: str) -> tuple[int, int]:
    """How many contents of Toys were encoded, and how many were there."""
    summary = DataFolder(data).store.require(key, "Sample_Toys").manifest.summary
    return summary["encoded"], summary["reused"]


def test_the_second_machine_finds_everything(bucket: Place, tmp_path: Path) -> None:
    plain = _machine(tmp_path / "plain")
    (plain / "raw_files").mkdir()
    write_sample(plain / "raw_files", size="tiny")
    for path in sorted((plain / "raw_files").iterdir()):
        if path.is_file() and not any(domain in path.name for domain in DOMAINS):
            path.unlink()
    assert bucket.server
    client, raw = bucket.server.client(), f"{bucket.address.split('/')[3]}/raw files"
    for path in (plain / "raw_files").rglob("*"):
        if path.is_file():
            key = f"{raw}/{path.relative_to(plain / 'raw_files')}"
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    places = {"raw_folder": f"s3://{BUCKET}/{raw}", "store": bucket.address}
    _build(plain)
    built = _versions(plain)
    assert len(built) == 2 * 9
    _requests(bucket)

    one = _machine(tmp_path / "one", **places)
    assert {f"{key}@{domain}" for key, domain in _build(one)} == built.keys()
    assert _versions(one) == built
    read = [said.removeprefix(f"GET /{BUCKET}/{raw}/") for said in _requests(bucket) if said.startswith("GET ")]
    files = [name for name in read if name.startswith(("Sample_", "meta_"))]
    wanted = [*(f"{domain}.csv" for domain in DOMAINS), *(f"meta_{domain}.json.gz" for domain in DOMAINS)]
    assert sorted(files) == sorted(wanted), "each once"
    assert any(name.startswith("images/Sample_Toys/") for name in read)

    two = _machine(tmp_path / "two", **places)
    assert _build(two) == set()
    seen = _requests(bucket)
    assert [said for said in seen if f"/{raw}/" in said and said.startswith("GET ")] == [], "no raw file, no picture"
    assert [said for said in seen if said.startswith("PUT ")] == []
    assert _versions(two) == built

    # Vectors in another number format are other artifacts, made of the same vectors, of which a third machine has none.
    other = {f"{modality}_encoder": {"storage": "float16"} for modality in ("text", "image")}
    three = _machine(tmp_path / "three", **places, domains={"Sample_Toys": other})
    assert _build(three) == {(TEXTS, "Sample_Toys"), (PICTURES, "Sample_Toys")}
    for key in (TEXTS, PICTURES):
        encoded, reused = _encoded(three, key)
        assert encoded == 0
        assert reused > 30
    assert _encoded(plain, TEXTS)[0] > 30
