"""The mapped copies: what they hold is what the table holds, whoever is killed while they are made."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeatureError
from features.lookup import mapped
from features.lookup.mapped import ItemTable, VectorTable, find_rows, open_table
from tests.conftest import REPOSITORY
from tests.features.vectors import identity, write_embeddings
from tests.read_only import read_only

N, WIDTH = 20_000, 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 items in three row groups, every seventh without vector."""
    ids = [f"{n:06d}" for n in range(N)]
    vectors = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
    present = np.arange(N) % 7 > 0
    vectors[~present] = 0
    return write_embeddings(tmp_path_factory.mktemp("source"), "text_embeddings", ids, vectors, present)


def check(table: ItemTable, source: Path) -> None:
    """Every value of the copy is that of the Parquet file, which another reader reads."""
    plain = pq.read_table(source)
    assert table.item_ids.to_pylist() == plain["item_id"].to_pylist()
    for name in ("item_id", "present", "content_sha256"):
        assert table.column(name).to_pylist() == plain[name].to_pylist()
    vectors = VectorTable.of(table, identity(WIDTH))
    expected = plain["vector"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)
    assert np.array_equal(vectors.vectors[1:], expected)
    assert not vectors.vectors[0].any()
    assert np.array_equal(vectors.present, [False, *plain["present"].to_pylist()])
    assert np.allclose(vectors.lengths[1:], np.linalg.norm(expected, axis=1), rtol=1e-6)


def test_a_copy_holds_what_the_table_holds_and_is_made_once(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    check(open_table(source, folder), source)
    assert {path.name for path in folder.iterdir()} == {"rows.arrow", "vectors.npy"}
    made = {path: path.stat().st_ino for path in folder.iterdir()}
    check(open_table(source, folder), source)
    assert {path: path.stat().st_ino for path in folder.iterdir()} == made


def test_rows_and_columns_of_items(source: Path, tmp_path: Path) -> None:
    table = open_table(source, tmp_path / "v1")
    asked = ["019999", "nobody", "000000", "", "008192", "000000", "zzz"]
    rows = table.rows(asked)
    assert rows.tolist() == [N, 0, 1, 0, 8193, 1, 0]
    found = table.take(rows, ["present", "item_id"])
    assert found["item_id"].to_pylist() == ["019999", None, "000000", None, "008192", "000000", None]
    assert found["present"].to_pylist() == [False, None, False, None, True, False, None]
    assert table.take(np.zeros(2, np.int64), ["item_id"])["item_id"].to_pylist() == [None, None]
    assert len(table.take(np.zeros(0, np.int64), ["item_id"])) == 0


@given(st.sets(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.data())
def test_find_rows_agrees_with_a_dictionary(known: set[str], asked: list[str], data: st.DataObject) -> None:
    ids = sorted(known, key=str.encode)
    if ids:
        asked = asked + data.draw(st.lists(st.sampled_from(ids)))
    plain = {item_id: row for row, item_id in enumerate(ids, 1)}
    assert find_rows(pa.array(ids, pa.large_string()), asked).tolist() == [plain.get(item_id, 0) for item_id in asked]


@pytest.mark.parametrize("ids", [[1], [None], ["a", None], ["\ud800"]])
def test_an_id_that_is_no_text(ids: list[str]) -> None:
    with pytest.raises(FeatureError, match=r"an item id is (not a text|None)"):
        find_rows(pa.array(["a"], pa.large_string()), ids)


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    table = open_table(write_embeddings(tmp_path / "a", "e", list("abcde"), vectors), tmp_path / "v1")
    assert table.vectors is not None
    assert table.vectors.dtype == np.float32
    assert np.array_equal(table.vectors[1:], vectors.astype(np.float32))


def test_a_vector_that_is_not_present_is_zero_whatever_the_file_says(tmp_path: Path) -> None:
    source = write_embeddings(tmp_path / "a", "e", ["a", "b"], np.ones((2, 3), np.float32), np.array([True, False]))
    table = VectorTable.of(open_table(source, tmp_path / "v1"), identity(3))
    assert table.vectors.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert table.lengths[2] == 0


def test_a_table_without_items(tmp_path: Path) -> None:
    table = open_table(write_embeddings(tmp_path / "a", "e", [], np.empty((0, 3), np.float32)), tmp_path / "v1")
    assert table.rows(["a", "b"]).tolist() == [0, 0]
    assert VectorTable.of(table, identity(3)).vectors.tolist() == [[0, 0, 0]]
    assert table.take(table.rows(["a"]), ["item_id", "present"]).to_pylist() == [{"item_id": None, "present": None}]


@pytest.mark.parametrize(
    ("ids", "vectors", "said"),
    [
        (["b", "a"], np.ones((2, 2)), "not sorted"),
        (["a", "a"], np.ones((2, 2)), "occurs twice"),
        (["a", "b", "c"], np.array([[1, 1], [1, np.nan], [1, 1]]), "'b' is not finite"),
    ],
)
@pytest.mark.parametrize("row_group", [1, 8192])
def test_a_table_that_is_not_as_declared(
    ids: list[str], vectors: np.ndarray, said: str, row_group: int, tmp_path: Path
) -> None:
    source = write_embeddings(tmp_path / "a", "e", ids, vectors.astype(np.float32), row_group=row_group)
    with pytest.raises(FeatureError, match=said):
        open_table(source, tmp_path / "cache" / "v1")
    assert not list((tmp_path / "cache" / "v1").iterdir())


def test_other_layouts_and_no_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "no id.parquet")
    pq.write_table(pa.table({"item_id": ["a"], "vector": [[1.0]]}), tmp_path / "list.parquet")
    pq.write_table(pa.table({"item_id": [1]}), tmp_path / "number.parquet")
    texts = pa.array([["x"]], pa.list_(pa.string(), 1))
    pq.write_table(pa.table({"item_id": ["a"], "vector": texts, "present": [True]}), tmp_path / "texts.parquet")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    for name, said in (
        ("no id", "no column item_id"),
        ("number", "no column item_id of texts"),
        ("list", "not floats in lists of one size"),
        ("texts", "not floats in lists of one size"),
    ):
        with pytest.raises(FeatureError, match=said):
            open_table(tmp_path / f"{name}.parquet", tmp_path / "v1")
    for name in ("noise", "nothing"):
        with pytest.raises(FeatureError, match=rf"{name}\.parquet cannot be copied"):
            open_table(tmp_path / f"{name}.parquet", tmp_path / "v1")


def test_a_copy_that_cannot_be_written_says_only_what_helps(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    with read_only(cache), pytest.raises(FeatureError, match="allow writing to that folder") as raised:
        open_table(source, cache / "v1")
    assert "rebuild" not in str(raised.value)
    (tmp_path / "noise").write_bytes(b"noise")
    with pytest.raises(FeatureError, match="rebuild the artifact that holds this file") as raised:
        open_table(tmp_path / "noise", cache / "v1")
    assert "allow writing" not in str(raised.value)


def _cut(by: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, max(path.stat().st_size - by, 0))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "a byte short": _cut(1),
    "a page short": _cut(4096),
    "only a head": lambda path: os.truncate(path, 100),
    "noise": lambda path: path.write_bytes(os.urandom(5000)),
    "a zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(5000)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("file", ["rows.arrow", "vectors.npy"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_copy_is_made_again(
    source: Path, tmp_path: Path, file: str, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "v1"
    open_table(source, folder)
    damage(folder / file)
    check(open_table(source, folder), source)


def test_a_copy_of_another_file_of_the_same_version_is_made_again(tmp_path: Path) -> None:
    one = write_embeddings(tmp_path / "a", "e", ["a"], np.ones((1, 2), np.float32))
    open_table(one, tmp_path / "v1")
    two = write_embeddings(tmp_path / "b", "e", ["a"], np.full((1, 2), 2, np.float32))
    os.utime(two, ns=(1, 1))
    table = open_table(two, tmp_path / "v1")
    assert table.vectors is not None
    assert table.vectors.tolist() == [[0, 0], [2, 2]]


def test_copies_of_other_versions_go_and_who_has_them_open_reads_on(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old = open_table(source, cache / "v1")
    open_table(source, cache / "v2")
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "v2"]
    check(old, source)


def test_no_room_for_the_copy(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(FeatureError, match="make room in that folder"):
        open_table(source, tmp_path / "cache" / "v1")


OPEN = """
import sys, time
from pathlib import Path
from features.lookup import mapped

slow = float(sys.argv[3])
plain = mapped._vectors
def slowly(*arguments):
    time.sleep(slow)
    print("writing", flush=True)
    return plain(*arguments)
mapped._vectors = slowly
table = mapped.open_table(Path(sys.argv[1]), Path(sys.argv[2]))
print("sum", table.vectors.astype("f8").sum(), flush=True)
"""


def _open(source: Path, folder: Path, slow: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(source), str(folder), str(slow)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_several_processes_one_makes_the_copy(source: Path, tmp_path: Path) -> None:
    outputs = [process.communicate()[0] for process in [_open(source, tmp_path / "v1", 0.2) for _ in range(3)]]
    assert sorted("writing" in text for text in outputs) == [False, False, True]
    assert len({text.split("sum")[1] for text in outputs}) == 1
    check(open_table(source, tmp_path / "v1"), source)


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_killed_while_the_copy_is_made(source: Path, tmp_path: Path, batches: int) -> None:
    folder = tmp_path / "v1"
    process = _open(source, folder, 0.05)
    assert process.stdout is not None
    for _ in range(batches):
        assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    check(open_table(source, folder), source)
    assert {path.name for path in folder.iterdir()} == {"rows.arrow", "vectors.npy"}


@pytest.mark.soak
def test_killed_at_any_moment(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    began = time.monotonic()
    _open(source, folder, 0).wait()
    whole = time.monotonic() - began
    for point in np.random.default_rng(0).uniform(0, 1.2 * whole, 30):
        process = _open(source, folder, 0)
        time.sleep(point)
        process.kill()
        process.wait()
        check(open_table(source, folder), source)
        (folder / "rows.arrow").unlink()


def test_threads_may_open_at_once(source: Path, tmp_path: Path) -> None:
    found: list[ItemTable] = []
    threads = [threading.Thread(target=lambda: found.append(open_table(source, tmp_path / "v1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    check(found[-1], source)


def test_copying_holds_one_batch_not_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as they are written are of one row group at most, whatever the file's own are."""
    ids = [f"{n:05d}" for n in range(30_000)]
    source = write_embeddings(tmp_path / "a", "e", ids, np.ones((30_000, 2), np.float32), row_group=30_000)
    sizes = []
    plain = mapped._vectors
    monkeypatch.setattr(mapped, "_vectors", lambda *a: sizes.append(a[1].num_rows) or plain(*a))
    open_table(source, tmp_path / "v1")
    assert sum(sizes) == 30_000
    assert max(sizes) <= 8192
