"""Vectors that machines share through a bucket: found by content, never believed, and whole whoever dies when."""

import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import FeatureError
from features.vectors import shared as shared_vectors
from features.vectors.cache import VectorCache
from tests.features.work import WIDTH, Telltale, compact
from tests.warehouse.stores import Place, bucket, make, server
from tests.warehouse.test_bucket_faults import dying
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.objects.client import Client

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]

IDENTITY = Telltale.identity


def ids(*numbers: int) -> list[str]:
    return [f"{number:064x}" for number in numbers]


def rows(*numbers: float) -> Any:
    return np.repeat(np.array(numbers, np.float32)[:, None], WIDTH, axis=1)


@pytest.fixture
def machine(bucket: Place) -> Callable[[int], VectorCache]:
    """The cache as a machine of this number opens it."""

    def opened(number: int) -> VectorCache:
        shared = bucket.open(number).shared.below("vectors")
        return VectorCache(Kept(bucket.folder / f"cache{number}", shared), "text", IDENTITY)

    return opened


def objects(place: Place) -> list[str]:
    return sorted(found.key for found in Client(place.address).listed("cache/vectors"))


def requests(place: Place, kind: str) -> int:
    """How many requests of this kind there were since the last call."""
    assert place.server
    seen = place.server.tell(forget=True)["seen"]
    return sum(said.startswith(kind) and ".parquet" in said for said in seen)


def test_what_one_machine_adds_another_finds(machine: Callable[[int], VectorCache], bucket: Place) -> None:
    one, other = machine(1), machine(2)
    one.add(ids(1, 2), rows(1, 2))
    one.add(ids(3), rows(3))
    other.add(ids(4), rows(4))
    vectors, known = other.look_up([*ids(4, 2, 9, 3), None])
    assert known.tolist() == [True, True, False, True, False]
    assert vectors[:, 0].tolist() == [4, 2, 0, 3, 0]
    for path in one.folder.glob("*.parquet"):
        assert (other.folder / path.name).read_bytes() == path.read_bytes()
    assert len([key for key in objects(bucket) if key.endswith(".parquet")]) == 3, "an object a part"
    requests(bucket, "GET")
    assert other.look_up(ids(1, 2, 3, 4))[1].all()
    assert requests(bucket, "") == 0, "what is here needs no bucket"
    other.look_up(ids(9))
    assert requests(bucket, "GET") == 0, "no part is taken twice"


def test_a_compaction_does_not_make_parts_unknown(machine: Callable[[int], VectorCache], bucket: Place) -> None:
    one, other = machine(1), machine(2)
    for number in range(1, 7):
        one.add(ids(number, 100 + number), rows(number, number))
    before = objects(bucket)
    assert other.look_up(ids(*range(1, 7)))[1].all()
    compact(other.folder.parent)
    assert len([*other.folder.glob("*.parquet")]) == 1
    requests(bucket, "GET")
    assert other.look_up(ids(*range(1, 8)))[0][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 0]
    assert requests(bucket, "GET") == 0
    assert objects(bucket) == before


def test_many_machines_add_at_once(machine: Callable[[int], VectorCache], bucket: Place) -> None:
    def work(number: int) -> None:
        for step in range(4):
            machine(number).add(ids(step), rows(step + 1))  # the same part by all
            machine(number).add(ids(10 * number + step + 100), rows(number))

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(1, 6)))
    wanted = [*range(4), *(10 * number + step + 100 for number in range(1, 6) for step in range(4))]
    vectors, known = machine(9).look_up(ids(*wanted))
    assert known.all()
    assert vectors[:, 0].tolist() == [1, 2, 3, 4, *(number for number in range(1, 6) for _ in range(4))]
    assert len([key for key in objects(bucket) if key.endswith(".parquet")]) == 4 + 20


def part(contents: Any, vectors: Any, compression: str = "none", dictionary: bool = False, **metadata: str) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"content_sha256": contents, "vector": vectors}, metadata=metadata or None)
    pq.write_table(table, buffer, compression=compression, use_dictionary=dictionary, write_statistics=False)
    return buffer.getvalue()


def lists(numbers: Any, width: int = WIDTH, kind: Any = np.float32) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(numbers, kind).ravel()), width)


GOOD = part(pa.array(ids(1)), lists(rows(7)))
HOSTILE: dict[str, bytes] = {
    "no Parquet": b"PAR1 is how it begins",
    "nothing": b"",
    "cut": GOOD[:-9],
    "another width": part(pa.array(ids(1)), lists(np.ones(2 * WIDTH), 2 * WIDTH)),
    "half a width twice": part(pa.array(ids(1, 1)), lists(np.ones(WIDTH), WIDTH // 2)),
    "other numbers": part(pa.array(ids(1)), lists(np.ones(WIDTH), kind=np.float64)),
    "not finite": part(pa.array(ids(1)), lists([np.nan] * WIDTH)),
    "zeros": part(pa.array(ids(1)), lists([0] * WIDTH)),
    "no content": part(pa.array([None], pa.string()), lists(rows(7))),
    "no vector": part(pa.array(ids(1)), pa.array([None], pa.list_(pa.float32(), WIDTH))),
    "no sha256": part(pa.array(["../../etc/passwd"]), lists(rows(7))),
    "runs of its own": part(pa.array(ids(1)), lists(rows(7)), runs='[["0", 1]]'),
    "packed": part(pa.array(ids(1)), lists(rows(7)), compression="zstd"),
    "a bomb": part(pa.array(ids(1) * 5000), lists(np.ones((5000, WIDTH))), compression="zstd", dictionary=True),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "bytes of another name", "too many bytes"])
def test_what_is_no_part_is_left_out_with_a_warning(
    machine: Callable[[int], VectorCache],
    bucket: Place,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client(bucket.address)
    data = HOSTILE.get(kind, GOOD)
    name = sha256(data).hexdigest()
    if kind == "bytes of another name":
        name = sha256(b"another").hexdigest()
    if kind == "too many bytes":
        monkeypatch.setattr(shared_vectors, "_MOST", len(GOOD) - 1)
    one = machine(1)
    client.write(f"cache/vectors/{one.folder.name}/{name}.parquet", data)
    with caplog.at_level(logging.WARNING):
        assert not one.look_up(ids(1))[0].any()
    assert f"{name}.parquet are not used" in caplog.text
    assert [*one.folder.glob("*.parquet")] == []
    if kind != "too many bytes":
        one.add(ids(1), rows(3))
        assert machine(2).look_up(ids(1))[0][0, 0] == 3


def test_a_good_part_counts_and_a_damaged_one_is_replaced(machine: Callable[[int], VectorCache], bucket: Place) -> None:
    client, one = Client(bucket.address), machine(1)
    one.add(ids(1), rows(7))
    (key,) = (key for key in objects(bucket) if key.endswith(".parquet"))
    whole = client.read(key)
    assert whole
    client.write(key, whole[0][:-20] + bytes(20))
    assert not machine(2).look_up(ids(1))[1].any()
    machine(3).add(ids(1), rows(7))  # encoded again somewhere
    found = client.read(key)
    assert found
    assert found[0] == whole[0]
    assert machine(4).look_up(ids(1))[1].all()
    junk = f"cache/vectors/{one.folder.name}/README"
    client.write(junk, b"not a part")
    assert machine(5).look_up(ids(1, 2))[1].tolist() == [True, False]


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_request(machine: Callable[[int], VectorCache], bucket: Place, after: bool) -> None:
    for number in range(1, 50):
        contents = ids(1000 * number, 1000 * number + 1)
        with dying(number, after) as died:
            cache = machine(number)
            cache.keep_probe({"text: nothing": [1.0]})
            cache.add(contents, rows(number, number))
        known = machine(100 + number).look_up(contents)[1].tolist()
        assert known in ([False, False], [True, True])
        again = machine(number)
        if not again.look_up(contents)[1].all():
            again.add(contents, rows(number, number))
        assert machine(200 + number).look_up(contents)[0][:, 0].tolist() == [number, number]
        if not died():
            break
    assert number > 2


def test_the_probe_of_one_machine_holds_for_all(
    machine: Callable[[int], VectorCache], bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, later = machine(1), machine(2), machine(3)
    assert one.probe() is None
    one.keep_probe({"text": [1.0, 2.0]})
    assert other.probe() == {"text": [1.0, 2.0]}
    other.keep_probe({"text": [9.0, 9.0]})  # it was slower
    assert later.probe() == {"text": [1.0, 2.0]}
    client = Client(bucket.address)
    key = f"cache/vectors/{one.folder.name}/probe.json"
    for damage in (b"", b"[]", b"{}", b'{"a": 1}', b"[" * 100_000):
        client.write(key, damage)
        assert machine(4).probe() is None
        assert one.probe() == {"text": [1.0, 2.0]}, "it has its own, and shares it again"
        assert machine(5).probe() == {"text": [1.0, 2.0]}


def test_collections_leave_what_is_shared(machine: Callable[[int], VectorCache], bucket: Place) -> None:
    store = bucket.open()
    made = make(store, "core/items", "items")
    machine(1).add(ids(1), rows(1))
    store.forget("Toys")
    before = objects(bucket)
    assert {leftover.kind for leftover in bucket.collect(store)} == {"version", "files"}
    bucket.later()
    store.collect()
    assert objects(bucket) == before
    assert store.versions() == {}
    assert store.current("core/items", "Toys") is None, made
    assert machine(2).look_up(ids(1))[1].all()


def test_without_a_bucket_nothing_is_shared_and_bytes_are_the_same(
    machine: Callable[[int], VectorCache], tmp_path: Path
) -> None:
    plain, one = VectorCache(tmp_path / "plain", "text", IDENTITY), machine(1)
    for cache in (plain, one):
        cache.keep_probe({"text": [1.0]})
        cache.add(ids(1, 2), rows(1, 2))
        cache.add(ids(3), rows(3))
    assert {path.name: path.read_bytes() for path in plain.folder.iterdir()} == {
        path.name: path.read_bytes() for path in one.folder.iterdir()
    }


def test_one_encodes_and_the_other_does_not(bucket: Place, tmp_path: Path) -> None:
    from features.tables import ITEM_TEXT
    from features.vectors.embeddings import embed_texts

    def write(*names: str) -> None:
        listed = [{"item_id": name, "text": name, "text_clean": name, "present": True} for name in names]
        pq.write_table(pa.Table.from_pylist(listed, schema=ITEM_TEXT), texts / "item_text.parquet")

    texts = tmp_path / "texts"
    texts.mkdir()
    names = [f"item{number:02}" for number in range(40)]
    write(*names)
    outs = []
    for number, encoder in enumerate((Telltale(), Telltale())):
        out = tmp_path / f"out{number}"
        out.mkdir()
        kept = Kept(tmp_path / f"cache{number}", bucket.open(number).shared.below("vectors"))
        summary = embed_texts(texts, encoder, out, cache=kept, batch_size=4, chunk_size=8)
        outs.append((summary.encoded, summary.reused, {path.name: path.read_bytes() for path in out.iterdir()}))
    assert [encoded for encoded, _, _ in outs] == [40, 0]
    assert outs[0][2] == outs[1][2]

    class Drifted(Telltale):
        def encode_texts(self, texts: list[str]) -> Any:
            return super().encode_texts(texts)[:, ::-1] * 1.5

    write(*names, "item99")
    kept = Kept(tmp_path / "cache9", bucket.open(9).shared.below("vectors"))
    with pytest.raises(FeatureError, match="no longer makes the same vectors"):
        embed_texts(texts, Drifted(), tmp_path / "never", cache=kept)
