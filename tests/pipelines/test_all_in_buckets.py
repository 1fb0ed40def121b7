"""The tiny sample with raw files, pictures, artifacts and caches in buckets, from one machine after the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.data_folder.folder import DataFolder
from tests.conftest import Cli
from tests.warehouse.stores import BUCKET, Place, bucket, server

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]

OF_THIS_PLACE = {"warehouse/catalogue", "warehouse/report"}
"""They name files by their paths, so each data folder makes its own."""


def _machine(folder: Path, settings: dict[str, Any]) -> Cli:
    folder.mkdir()
    (folder / "domains.yaml").write_text(yaml.safe_dump(settings))
    return Cli(folder)


def _built(cli: Cli, *arguments: str) -> set[str]:
    return {built["key"] for built in json.loads(cli("run", "--json", *arguments).stdout)["built"]}


def _versions(data: Path) -> dict[str, str]:
    current = DataFolder(data).store.all_current()
    return {artifact.ref: artifact.version for artifact in current if artifact.key not in OF_THIS_PLACE}


def _requests(place: Place) -> list[str]:
    """The requests since the last call, such as GET /bucket/raw files/x."""
    assert place.server
    return [said.partition("?")[0] for said in place.server.tell(forget=True)["seen"]]


def test_the_second_machine_finds_everything(tiny: Cli, bucket: Place, tmp_path: Path) -> None:
    """`tiny` has built the same from plain folders."""
    assert bucket.server
    client, raw = bucket.server.client(), f"{tmp_path.name}/raw files"
    for path in (tiny.data / "raw_files").rglob("*"):
        if path.is_file():
            key = f"{raw}/{path.relative_to(tiny.data / 'raw_files')}"
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    settings = yaml.safe_load((tiny.data / "domains.yaml").read_text())
    settings |= {"raw_folder": f"s3://{BUCKET}/{raw}", "store": bucket.address}

    one = _machine(tmp_path / "one", settings)
    assert _built(one) > OF_THIS_PLACE
    assert _versions(one.data) == _versions(tiny.data)
    asked = _requests(bucket)
    read = [said for said in asked if said.startswith(f"GET /{BUCKET}/{raw}/")]
    assert len([said for said in read if "/images/" not in said]) == len({*read} - {s for s in read if "/images/" in s})
    assert {said.rpartition(".")[2] for said in read} >= {"csv", "gz", "jpg"}

    two = _machine(tmp_path / "two", settings)
    assert _built(two) == OF_THIS_PLACE
    asked = _requests(bucket)
    assert [said for said in asked if said.startswith(f"GET /{BUCKET}/{raw}/")] == [], "no raw file, no picture"
    assert [said for said in asked if said.startswith("PUT ") and "/cache/" in said] == []
    assert _versions(two.data) == _versions(tiny.data)
    assert "nothing to do" in two("run").stdout

    # Other sequences of the same items: their vectors are there, and this machine has none of its own.
    settings["domains"]["Sample_Toys"]["k"] = 6
    (two.data / "domains.yaml").write_text(yaml.safe_dump(settings))
    assert not list((two.data / "cache").glob("vectors/*/*.parquet"))
    embeddings = ("features/text_embeddings", "features/image_embeddings")
    asked_for = [part for key in embeddings for part in ("--only", key)]
    assert {*embeddings} < _built(two, "Sample_Toys", *asked_for) | {"features/item_text"}
    for key in embeddings:
        summary = DataFolder(two.data).store.require(key, "Sample_Toys").manifest.summary
        assert summary["encoded"] == 0
        assert summary["reused"] > 20
    assert list((two.data / "cache").glob("vectors/*/*.parquet"))
