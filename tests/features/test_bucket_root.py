"""Pictures in a bucket: the same tables as from a folder, and each picture is hashed once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features.pictures.decode import MAX_BYTES, PictureError
from features.pictures.fingerprint import image_fingerprint
from features.pictures.item_images import collect_images
from features.pictures.roots import BucketRoot, ImageRoot
from features.settings import Fetching
from tests.features.pictures_host import contents, picture, rows
from tests.warehouse.stores import Place, bucket, server
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.objects.client import Client

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]

URLS = {
    "a": ["red/a b&ü%.jpg"],
    "b": ["./blue/../b.jpg"],
    "c": ["missing.jpg", "b.jpg"],
    "d": ["no picture.jpg"],
    "e": ["../outside.jpg"],
    "f": ["/etc/passwd"],
    "g": ["red"],
    "h": [],
}
FILES = {"red/a b&ü%.jpg": picture(1), "b.jpg": picture(2), "no picture.jpg": b"<html>"}
OFF = Fetching(http=False)


@pytest.fixture
def paths(catalogue: Any) -> tuple[Path, Path]:
    return catalogue([{"item_id": item, "image_urls": urls} for item, urls in URLS.items()])  # type: ignore[no-any-return]


@pytest.fixture
def client(bucket: Place) -> Client:
    """The bucket with the pictures."""
    client = Client(f"{bucket.address}/pictures")
    for name, data in FILES.items():
        client.write(name, data)
    return client


@pytest.fixture
def machine(bucket: Place) -> Callable[[int], Kept]:
    """The cache of a machine of this number."""
    return lambda number: Kept(bucket.folder / f"cache{number}", bucket.open(number).shared.below("pictures"))


def _marks(paths: tuple[Path, Path], root: ImageRoot, cache: Path | Kept) -> str:
    return image_fingerprint(*paths, root, cache, OFF)


def _read(place: Place) -> list[str]:
    """The pictures that were read since the last call."""
    assert place.server
    seen = (said.encode("latin-1").decode().partition("?")[0] for said in place.server.tell(forget=True)["seen"])
    return [said.rpartition("/")[2] for said in seen if said.startswith("GET ") and said.endswith(".jpg")]


def test_tables_and_fingerprints_are_those_of_a_folder(paths: tuple[Path, Path], client: Client, folder: Any) -> None:
    here = folder("pictures")
    for name, data in FILES.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(data)
    outs = []
    for name, root in (("one", here), ("two", BucketRoot(client.url))):
        out = folder(name)
        collect_images(*paths, root, out, fetching=OFF)
        outs.append(out)
    one, two = map(rows, outs)
    details = {item: (one[item].pop("detail"), two[item].pop("detail")) for item in URLS}
    assert one == two
    assert {item for item, (a, b) in details.items() if a != b} == {"g"}, "a folder is no file, and no object"
    assert {item: row["status"] for item, row in two.items()} == {
        **dict.fromkeys("abc", "ok"), "d": "not_an_image", "e": "refused", "f": "refused", "g": "unreachable",
        "h": "no_url",
    }  # fmt: skip
    shards = [{name: data for name, data in contents(out).items() if name.endswith(".tar")} for out in outs]
    assert shards[0] == shards[1]
    assert _marks(paths, here, here / "cache") == _marks(paths, BucketRoot(client.url), here / "cache2")


def test_each_picture_is_hashed_once_on_all_machines(
    paths: tuple[Path, Path], client: Client, machine: Callable[[int], Kept], bucket: Place
) -> None:
    _read(bucket)
    first = _marks(paths, BucketRoot(client.url), machine(1))
    assert sorted(_read(bucket)) == ["a b&ü%.jpg", "b.jpg", "b.jpg", "no picture.jpg"]  # b has two paths
    for number in (1, 2, 1, 2):
        assert _marks(paths, BucketRoot(client.url), machine(number)) == first
        assert _read(bucket) == []
    client.write("b.jpg", picture(3))
    second = _marks(paths, BucketRoot(client.url), machine(2))
    assert {*_read(bucket)} == {"b.jpg"}
    assert second != first
    assert _marks(paths, BucketRoot(client.url), machine(1)) == second
    assert _read(bucket) == []
    client.write("b.jpg", picture(2))
    assert _marks(paths, BucketRoot(client.url), machine(1)) == first


def test_damaged_hashes_are_computed_again(
    paths: tuple[Path, Path], client: Client, machine: Callable[[int], Kept], bucket: Place
) -> None:
    whole = _marks(paths, BucketRoot(client.url), machine(1))
    store = Client(bucket.address)
    (key,) = (found.key for found in store.listed("cache/pictures"))
    good = (store.read(key) or (b"", {}))[0]
    for number, damage in enumerate((b"", good[:-9], good.replace(b"PAR1", b"PAR2"), b"[]"), 2):
        store.write(key, damage)
        assert _marks(paths, BucketRoot(client.url), machine(number)) == whole
        assert (store.read(key) or (b"", {}))[0] == good


def test_a_picture_that_changes_after_the_listing_is_read_as_it_is(client: Client) -> None:
    root = BucketRoot(client.url)
    before = root.stamp("b.jpg")
    client.write("b.jpg", picture(3))
    assert root.stamp("b.jpg") == before
    assert root.read("b.jpg") == picture(3)
    assert root.stamp("b.jpg") != before
    client.remove("b.jpg")
    with pytest.raises(PictureError, match="No such file"):
        root.read("b.jpg")
    assert root.stamp("b.jpg") is None


def test_a_picture_that_is_too_large_is_not_read(client: Client, bucket: Place) -> None:
    client.write("b.jpg", bytes(MAX_BYTES + 1))
    _read(bucket)
    with pytest.raises(PictureError, match=r"too_large: .* bytes, at most"):
        BucketRoot(client.url).read("b.jpg")
    assert _read(bucket) == []


def test_a_bucket_that_does_not_answer_is_an_error_and_no_missing_picture(
    paths: tuple[Path, Path], client: Client, bucket: Place, tmp_path: Path
) -> None:
    assert bucket.server
    bucket.server.tell(faults=[{"kind": 403, "left": 1000, "match": "GET .*jpg"}])
    with pytest.raises(StoreError, match="refuses reading"):
        _marks(paths, BucketRoot(client.url), tmp_path)
