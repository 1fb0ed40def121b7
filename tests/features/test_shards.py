import tarfile
from pathlib import Path
from urllib.parse import unquote

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeatureError
from features.pictures.shards import ShardWriter, read_shards, sample_key, shard_names
from tests.features.conftest import png

HOSTILE = [
    "",
    "%",
    ".",
    "..",
    "../../etc/passwd",
    "/abs",
    "a.b",
    "a",
    "a.png",
    "__x__",
    "ключ",
    "🦊",
    "a b",
    "-rf",
    "x" * 300,
]


def write(out: Path, ids: list[str], shard_bytes: int = 2**20) -> None:
    with ShardWriter(out, shard_bytes) as writer:
        for number, item_id in enumerate(sorted(ids)):
            writer.add(item_id, png((number % 256, 0, 0)), {"url": "x"})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_keys_are_reversible_and_safe(item_id: str) -> None:
    key = sample_key(item_id)
    assert key.isascii()
    assert not set(key) & set("./\\\0 ")
    assert item_id == ("" if key == "%" else unquote(key))


def test_hostile_ids_come_back(folder) -> None:
    out = folder("out")
    write(out, HOSTILE)
    assert [sample.item_id for sample in read_shards(out)] == sorted(HOSTILE)
    with tarfile.open(out / "images-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 2 * len(HOSTILE)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_other_readers_of_webdataset_read_them(folder) -> None:
    out = folder("out")
    write(out, ["a.b/c", "d"])
    dataset = webdataset.WebDataset(str(out / "images-000000.tar"), shardshuffle=False).decode("pil")
    samples = list(dataset)
    assert [sample["json"]["item_id"] for sample in samples] == ["a.b/c", "d"]
    assert samples[1]["png"].size == (40, 60)


def test_bytes_follow_from_the_samples_alone(folder) -> None:
    one, two = folder("one"), folder("two")
    ids = [f"item {n}" for n in range(50)]
    write(one, ids, 8192)
    write(two, ids[::-1], 8192)
    names = shard_names(one)
    assert len(names) > 5
    assert names == shard_names(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert len(list(read_shards(one))) == 50


def test_a_damaged_shard_is_named(folder) -> None:
    out = folder("out")
    write(out, ["a", "b"])
    shard = out / "images-000000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(FeatureError, match=r"images-000000\.tar.*rebuild item_images"):
        list(read_shards(out))


@pytest.mark.parametrize("name", ["pipe:touch pwned", "../images-000000.tar", "http://x/images-000000.tar", "-"])
def test_only_shards_of_the_folder_are_opened(folder, name: str) -> None:
    with pytest.raises(FeatureError, match="not the name of a shard"):
        list(read_shards(folder("out"), [name]))


def test_an_address_like_folder_is_only_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "pipe:touch pwned{a,b}"
    out.mkdir()
    write(out, ["a"])
    assert [sample.item_id for sample in read_shards(out)] == ["a"]
    assert not (tmp_path / "pwned").exists()
