"""Raw files in a bucket: the same versions as from a folder, each file downloaded once, no change unnoticed."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.data_folder.folder import STORE_VARIABLE, DataFolder
from pipelines.errors import SettingsError
from pipelines.garbage import collect
from pipelines.planner.plan import plan
from pipelines.planner.step import Job, all_steps
from tests.conftest import Cli
from tests.pipelines.small import write_settings
from tests.warehouse.stores import BUCKET, Place, bucket, server
from tests.warehouse.work import write_raw
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.objects.client import Client, UnreachableError
from warehouse.errors import DataError

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]

STEPS = all_steps()
KEYS = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences")


class Shop:
    """Raw files in a bucket, and a folder with the same files."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.files, self.place = folder / "files", place
        self.client = Client(place.address)
        self.data = folder / "data"

    def put(self, domain: str, generation: int = 0) -> None:
        """The files of a category; another generation has other contents."""
        write_raw(self.files, domain, generation)
        for path in self.files.glob(f"*{domain}*"):
            self.client.write(path.name, path.read_bytes())

    def settings(self, data: Path | None = None, **more: Any) -> DataFolder:
        """A data folder with its settings."""
        write_settings(data or self.data, raw_folder=self.place.address, **more)
        return DataFolder(data or self.data)

    def downloads(self) -> list[str]:
        """The raw files that were downloaded since the last call, or for the first one since ever."""
        assert self.place.server
        seen = (said.partition("?")[0] for said in self.place.server.tell(forget=True)["seen"])
        got = [said.rpartition("/")[2] for said in seen if said.startswith("GET ")]
        return [name for name in got if name.startswith(("Toys", "meta_Toys"))]


@pytest.fixture
def shop(tmp_path: Path, bucket: Place) -> Shop:
    shop = Shop(tmp_path, bucket)
    shop.put("Toys")
    shop.downloads()
    return shop


def run(data_folder: DataFolder, keys: tuple[str, ...] = KEYS) -> dict[str, str]:
    """Build what is stale, and return what is current."""
    for stage in plan(data_folder, data_folder.present(), keys):
        for step in stage.steps:
            step.publish(data_folder, stage.domain)
    return {artifact.ref: artifact.version for artifact in data_folder.store.all_current()}


def stale(data_folder: DataFolder) -> list[str]:
    return [step.key for stage in plan(data_folder, data_folder.present(), KEYS) for step in stage.steps]


def test_versions_and_recipes_are_those_of_a_folder_and_each_file_is_downloaded_once(shop: Shop) -> None:
    built = run(shop.settings())
    assert sorted(shop.downloads()) == ["Toys.csv", "meta_Toys.json"]
    plain = shop.data.parent / "plain"
    write_settings(plain, raw_folder=str(shop.files))
    assert run(DataFolder(plain)) == built
    for key in KEYS:
        there, here = (DataFolder(data).store.require(key, "Toys").manifest for data in (shop.data, plain))
        assert there.recipe == here.recipe
    sources = DataFolder(shop.data).store.require("raw/ratings", "Toys").manifest.sources
    assert sources == {"Toys.csv": sha256_file(shop.files / "Toys.csv")}
    assert stale(DataFolder(shop.data)) == []
    assert shop.downloads() == []
    assert not list((shop.data / "cache" / "raw" / ".staging").iterdir())


def test_a_new_state_with_the_same_content_is_looked_at_and_builds_nothing(shop: Shop, tmp_path: Path) -> None:
    run(shop.settings())
    shop.downloads()
    path = tmp_path / "Toys.csv"
    path.write_bytes((shop.files / "Toys.csv").read_bytes())
    shop.client.write("Toys.csv", path.read_bytes() + b"x")
    shop.client.write("Toys.csv", path.read_bytes())
    assert stale(DataFolder(shop.data)) == []
    assert shop.downloads() == [], "the ETag of a content is what it was"
    (record,) = (
        path for path in (shop.data / "cache" / "sha256").iterdir() if "/Toys.csv" in path.read_text(encoding="utf-8")
    )
    known = json.loads(record.read_text())
    record.write_text(json.dumps(known | {"look": [known["look"][0], '"another"']}))
    assert stale(DataFolder(shop.data)) == []
    assert shop.downloads() == ["Toys.csv"]


def test_from_a_to_b_and_back(shop: Shop) -> None:
    first = run(shop.settings())
    shop.put("Toys", 1)
    second = run(DataFolder(shop.data))
    assert second["raw/ratings@Toys"] != first["raw/ratings@Toys"]
    shop.put("Toys", 0)
    assert "raw/ratings" in stale(DataFolder(shop.data))
    assert run(DataFolder(shop.data)) == first


@pytest.mark.parametrize("moment", ["before it is read", "while it is read"])
def test_a_file_that_changes_is_noticed_and_nothing_is_published(shop: Shop, moment: str) -> None:
    data_folder = shop.settings()
    step = STEPS["raw/ratings"]

    def disturbed(job: Job) -> Any:
        if moment == "before it is read":
            shutil.rmtree(shop.data / "cache" / "raw")  # so that it has to be downloaded
            shop.put("Toys", 1)
            return step.build(job)
        made = step.build(job)
        shop.put("Toys", 1)
        return made

    with pytest.raises(StoreError, match=r"Toys.csv.* changed while .*: run it again"):
        dataclasses.replace(step, build=disturbed).publish(data_folder, "Toys")
    assert data_folder.store.current("raw/ratings", "Toys") is None
    artifact, built = step.publish(data_folder, "Toys")
    assert built
    assert artifact.manifest.sources == {"Toys.csv": sha256_file(shop.files / "Toys.csv")}


def test_a_copy_is_made_again_where_it_was_removed_and_what_is_remembered_wrongly_is_corrected(shop: Shop) -> None:
    data_folder = shop.settings()
    data_folder.raw.sha256("Toys.csv")
    (copy,) = (path for path in (shop.data / "cache" / "raw").iterdir() if path.is_file() and len(path.name) == 64)
    copy.unlink()
    assert STEPS["raw/ratings"].publish(data_folder, "Toys")[1]
    (record,) = (shop.data / "cache" / "sha256").iterdir()
    record.write_text(record.read_text().replace(sha256_file(shop.files / "Toys.csv"), "f" * 64))
    with pytest.raises(StoreError, match=r"Toys.csv changed while it was read: run it again"):
        STEPS["raw/ratings"].publish(DataFolder(shop.data), "Toys")
    assert not STEPS["raw/ratings"].publish(DataFolder(shop.data), "Toys")[1]


def test_copies_stay_within_their_limit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    data_folder = shop.settings()
    size = (shop.files / "meta_Toys.json").stat().st_size
    monkeypatch.setattr(data_folder.raw._copies, "_limit", size)  # type: ignore[attr-defined]
    data_folder.raw.sha256("Toys.csv")
    data_folder.raw.sha256("meta_Toys.json")
    (kept,) = (path for path in (shop.data / "cache" / "raw").iterdir() if len(path.name) == 64)
    assert kept.name == sha256_file(shop.files / "meta_Toys.json")
    with data_folder.raw.opened("meta_Toys.json", kept.name) as path:
        data_folder.raw._copies.add(lambda made: str(made.write_bytes(bytes(size))) and "0" * 64)  # type: ignore[attr-defined]
        assert not kept.exists()
        assert sha256_file(path) == kept.name, "who reads it has a link of its own"


def test_errors_name_the_place_in_the_bucket(shop: Shop) -> None:
    shop.client.write("Toys.csv", b"no ratings\n" * 3)
    with pytest.raises(DataError, match=rf"{shop.place.address}/Toys\.csv: none of its 3 lines") as said:
        STEPS["raw/ratings"].publish(shop.settings(), "Toys")
    assert "staging" not in str(said.value)
    shop.client.remove("Toys.csv")
    data_folder = DataFolder(shop.data)
    with pytest.raises(SettingsError, match=r"meta_Toys.json' is left out: there is no Toys\.csv"):
        data_folder.raw_file("Toys", "ratings")
    write_settings(shop.data, raw_folder=shop.place.address, domains={"Toys": {}})
    with pytest.raises(DataError, match=rf"no ratings file: there is no Toys.csv.* in {shop.place.address}; put it th"):
        DataFolder(shop.data).raw_file("Toys", "ratings")
    listed = shop.settings()
    listed.present()
    shop.client.remove("meta_Toys.json")
    with pytest.raises(DataError, match=rf"{shop.place.address}/meta_Toys.json is no longer there: put it back"):
        listed.raw.sha256("meta_Toys.json")


def test_commands_say_where_raw_files_are_and_what_works_in_folders_only(shop: Shop, tmp_path: Path) -> None:
    shop.settings()
    cli = Cli(shop.data)
    assert f"raw files are read from {shop.place.address}" in cli("domains").stdout
    assert "core/sequences" in cli("run", "--dry-run").stdout
    refused = cli("fetch", "Toys", code=1).stderr
    assert f"the raw files are in {shop.place.address}, and this needs a folder" in refused
    write_settings(tmp_path / "empty", raw_folder=f"s3://{BUCKET}/nothing here")
    refused = Cli(tmp_path / "empty")("run", code=1).stderr
    assert f"no raw files in s3://{BUCKET}/nothing here: put raw files there" in refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text_encoder": {"kind": "vectors", "path": "v.parquet", "column": "text"}}, "text_encoder: path: 'v.parq"),
        ({"image_encoder": {"kind": "sentence-transformers", "model": "./clip"}}, "image_encoder: model: './clip'"),
        ({"image_root": "../pictures"}, "image_root: '../pictures' leads out of the raw folder"),
    ],
)
def test_paths_that_start_from_the_raw_folder_say_what_to_do(shop: Shop, settings: dict[str, Any], said: str) -> None:
    data_folder = shop.settings(domains={"Toys": settings})
    modality = next(iter(settings)).partition("_")[0]
    key = "features/item_images" if "image_root" in settings else f"features/{modality}_embeddings"
    with pytest.raises(SettingsError, match=r"absolute path") as raised:
        STEPS[key].parameters(data_folder, "Toys")
    assert f"Toys: {said}" in str(raised.value)
    assert shop.place.address in str(raised.value)


@pytest.mark.parametrize("place", ["s3://user:secret@host/x", "s3://", "http://host/x"])
def test_an_address_that_is_none_is_an_error_in_the_settings(tmp_path: Path, place: str) -> None:
    write_settings(tmp_path, raw_folder=place)
    with pytest.raises(SettingsError, match=r"domains.yaml: raw_folder: .*s3://bucket/prefix") as said:
        DataFolder(tmp_path).present()
    assert "secret" not in str(said.value)


def test_a_server_that_fails_is_one_line_and_is_worth_another_try(shop: Shop) -> None:
    data_folder = shop.settings()
    assert shop.place.server
    shop.place.server.tell(faults=[{"kind": 403, "left": 1000}])
    with pytest.raises(StoreError, match=r"refuses .*: check the credentials"):
        data_folder.present()
    shop.place.server.tell(faults=[{"kind": "cut", "left": 1, "match": "GET .*Toys.csv", "after": True}])
    assert data_folder.raw.sha256("Toys.csv") == sha256_file(shop.files / "Toys.csv"), "it is asked again"
    shop.place.server.tell(faults=[{"kind": "cut", "left": 1000, "match": "GET .*meta_Toys", "after": True}])
    with pytest.raises(UnreachableError, match="failed while downloading"):
        data_folder.raw.sha256("meta_Toys.json")


@pytest.mark.parametrize("key", ["a//Mugs.csv", "/Mugs.csv", "Mugs\x01.csv"])
def test_an_object_whose_name_cannot_be_used_is_named(shop: Shop, key: str) -> None:
    assert shop.place.server
    prefix = shop.place.address.partition(f"{BUCKET}/")[2]
    shop.place.server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"")
    data_folder = shop.settings()
    if key == "a//Mugs.csv":  # in a folder that nobody looks into
        assert data_folder.present() == ["Toys"]
        return
    with pytest.raises(StoreError, match=r"holds an object with a name that cannot be used .*: rename or remove it"):
        data_folder.present()


def test_the_object_that_stands_for_a_folder_is_no_file(shop: Shop) -> None:
    assert shop.place.server
    prefix = shop.place.address.partition(f"{BUCKET}/")[2]
    shop.place.server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/", Body=b"")
    assert sorted(shop.settings().raw.names()) == ["Toys.csv", "meta_Toys.json"]


def test_two_processes_may_use_one_cache(shop: Shop) -> None:
    """Each has opened the data folder by itself; one removes copies while the other reads."""
    one, other = shop.settings(), DataFolder(shop.data)
    digest = one.raw.sha256("Toys.csv")
    assert other.raw.sha256("Toys.csv") == digest
    assert shop.downloads() == ["Toys.csv"]
    with one.raw.opened("Toys.csv", digest) as path, other.raw.opened("Toys.csv", digest) as again:
        assert path != again
        assert path.read_bytes() == again.read_bytes() == (shop.files / "Toys.csv").read_bytes()
    assert shop.downloads() == []


def test_a_second_machine_downloads_no_raw_file_to_know_that_nothing_is_stale(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, f"{shop.place.address} store")
    run(shop.settings())
    shop.downloads()
    other = shop.data.parent / "other"
    assert stale(shop.settings(other)) == []
    assert shop.downloads() == []
    # A wrong hash is noticed when the file is read, and corrected for all.
    store = Client(f"{shop.place.address} store")
    for found in store.listed("cache/sha256"):
        said = store.read(found.key)
        assert said
        store.write(found.key, said[0].replace(sha256_file(shop.files / "Toys.csv").encode(), b"f" * 64))
    third = shop.data.parent / "third"
    assert "raw/ratings" in stale(shop.settings(third))
    with pytest.raises(StoreError, match=r"Toys.csv changed while it was read: run it again"):
        STEPS["raw/ratings"].publish(DataFolder(third), "Toys")
    assert stale(DataFolder(third)) == []
    assert stale(shop.settings(shop.data.parent / "fourth")) == []
    for found in store.listed("cache/sha256"):
        store.write(found.key, b"damaged")
    assert stale(shop.settings(shop.data.parent / "fifth")) == []


def test_a_collection_removes_copies_but_not_what_is_read(shop: Shop) -> None:
    data_folder = shop.settings()
    digest = data_folder.raw.sha256("Toys.csv")
    with data_folder.raw.opened("Toys.csv", digest) as path:
        (leftover,) = collect(data_folder, dry_run=True)
        assert leftover.name == f"cache/raw/{digest}"
        assert leftover.bytes == path.stat().st_size
        assert collect(data_folder) == [leftover]
        assert sha256_file(path) == digest
    assert collect(data_folder) == []
    assert sorted(path.name for path in (shop.data / "cache" / "raw").iterdir()) == [".lock", ".staging"]
