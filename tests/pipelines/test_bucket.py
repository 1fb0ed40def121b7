"""A data folder whose artifacts are in a bucket: the same versions as in a folder, on as many machines as one likes."""

import shutil
from pathlib import Path

import pytest

from pipelines import lineage
from pipelines.data_folder.folder import STORE_VARIABLE, DataFolder
from pipelines.errors import SettingsError
from pipelines.garbage import collect
from pipelines.planner.plan import plan
from tests.conftest import Cli
from tests.pipelines.small import write_settings, write_shop
from tests.warehouse.stores import Place, bucket, server
from warehouse.catalogue.query import query

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]

KEYS = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences")
SHOWN = (*KEYS, "warehouse/catalogue")


def _run(data: Path, keys: tuple[str, ...] = KEYS) -> dict[str, str]:
    """Build what is stale, and return what is current."""
    data_folder = DataFolder(data)
    for stage in plan(data_folder, data_folder.present(), keys):
        for step in stage.steps:
            step.publish(data_folder, stage.domain)
    return {artifact.ref: artifact.version for artifact in DataFolder(data).store.all_current()}


def _stale(data: Path, keys: tuple[str, ...] = KEYS) -> list[str]:
    data_folder = DataFolder(data)
    return [step.key for stage in plan(data_folder, data_folder.present(), keys) for step in stage.steps]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A data folder with the raw files of a category, nothing built."""
    write_shop(tmp_path / "one", "Toys")
    return tmp_path / "one"


@pytest.fixture
def in_bucket(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """All data folders have their artifacts there."""
    monkeypatch.setenv(STORE_VARIABLE, bucket.address)
    return bucket


def test_a_run_makes_the_same_versions_as_in_a_folder_and_another_machine_builds_nothing(
    shop: Path, in_bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = _run(shop)
    assert not list(shop.glob("[!.c]*/*/domain=*"))  # nothing in the folder but the cache
    other = shop.parent / "other"
    shutil.copytree(shop / "raw_files", other / "raw_files")
    shutil.copy(shop / "domains.yaml", other)
    assert _stale(other) == []
    downloaded = list((other / "cache").rglob("*.parquet"))
    assert downloaded == []  # to see that nothing is stale needs no file
    DataFolder(other).store.require("core/sequences", "Toys").file("items.parquet")
    assert [path.name for path in (other / "cache").rglob("*.parquet")] == ["items.parquet"]
    monkeypatch.delenv(STORE_VARIABLE)
    assert _stale(other) != []
    assert _run(other) == there


def test_a_step_downloads_what_it_reads_and_no_more(shop: Path, in_bucket: Place) -> None:
    _run(shop, KEYS[:4])
    other = shop.parent / "other"
    shutil.copytree(shop / "raw_files", other / "raw_files")
    shutil.copy(shop / "domains.yaml", other)
    _run(other)
    place = other / "cache" / "store"
    read = {
        "/".join(path.relative_to(place).parts[:2]) + f"/{path.name}"
        for path in place.glob("[!.]*/*/domain=*/v=*/*.parquet")
        if path.parts[-4] != "sequences"
    }
    assert read == {"core/interactions/interactions.parquet"}


def test_the_catalogue_shows_files_of_the_bucket_from_the_cache(shop: Path, in_bucket: Place) -> None:
    _run(shop, SHOWN)
    asked = "SELECT DISTINCT domain FROM core.items ORDER BY ALL"
    assert query(DataFolder(shop).catalogue, asked)["domain"].to_pylist() == ["Toys"]
    assert DataFolder(shop).store.collect() == []
    shutil.rmtree(shop / "cache" / "store")  # as on another machine with the same path
    (shop / "warehouse.duckdb").unlink()
    assert _stale(shop, SHOWN) == ["warehouse/catalogue"]
    _run(shop, SHOWN)
    assert query(DataFolder(shop).catalogue, asked)["domain"].to_pylist() == ["Toys"]


def test_damage_is_mended_and_garbage_collected(shop: Path, in_bucket: Place) -> None:
    _run(shop)
    store = DataFolder(shop).store
    in_bucket.put(store.require("core/items", "Toys"), "items.parquet", b"no longer what it was")
    (problem,) = [problem for found in lineage.verify(DataFolder(shop)).values() for problem in found]
    assert "items.parquet has 21 bytes" in problem
    assert _stale(shop) == ["core/items", "core/interactions", "core/sequences"]
    _run(shop)
    assert {name for name, problems in lineage.verify(DataFolder(shop)).items() if problems} == set()
    store.forget("Toys")
    assert [leftover.kind for leftover in collect(DataFolder(shop))] == ["doomed"] * 5
    in_bucket.later()
    assert [leftover.kind for leftover in collect(DataFolder(shop))] == ["version"] * 5 + ["files"]
    assert DataFolder(shop).store.versions() == {}


def test_commands_work_over_a_bucket(shop: Path, in_bucket: Place) -> None:
    versions = _run(shop)
    cli = Cli(shop)
    assert versions["core/items@Toys"] in cli("trace", "core/sequences@Toys").stdout
    assert "5 versions hashed, 0 damaged" in cli("verify").stdout
    assert "core/items@Toys" in cli("pin", "core/items@Toys").stdout
    DataFolder(shop).store.forget("Toys")
    first = cli("gc").stdout
    assert "removed: 0" in first
    assert "doomed: 3" in first


@pytest.mark.parametrize("place", ["elsewhere", "http://host/x", "s3://user:secret@host/x", "s3://"])
def test_a_place_that_is_none_is_an_error_in_the_settings(tmp_path: Path, place: str) -> None:
    write_settings(tmp_path, store=place)
    with pytest.raises(SettingsError) as said:
        DataFolder(tmp_path).store.all_current()
    assert "secret" not in str(said.value)
    assert "s3://bucket/prefix" in str(said.value)


def test_the_data_folder_may_be_named_as_the_place(tmp_path: Path) -> None:
    write_settings(tmp_path, store=".")
    assert DataFolder(tmp_path).store.all_current() == []


def test_no_server_and_wrong_credentials_are_one_line(
    shop: Path, in_bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_bucket.server
    monkeypatch.setenv(STORE_VARIABLE, "s3://no-such-bucket/x")
    refused = Cli(shop)("verify", code=1)
    assert "there is no bucket no-such-bucket" in refused.stderr
    monkeypatch.setenv(STORE_VARIABLE, in_bucket.address)
    in_bucket.server.tell(faults=[{"kind": 403, "left": 1000}])
    refused = Cli(shop)("run", code=1)
    assert "refuses" in refused.stderr
    assert "credentials" in refused.stderr
    assert "never-to-be-printed" not in refused.stderr
    assert "Traceback" not in refused.stderr
