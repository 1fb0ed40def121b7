import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.vector_cache import VectorCache
from tests.features.work import WIDTH, Telltale, add
from tests.warehouse.disturb import join, killed_at, processes, start

IDENTITY = Telltale.identity
processes.set_forkserver_preload(["tests.warehouse.work", "tests.features.work"])


def ids(*numbers: int) -> list[str]:
    return [f"{number:064x}" for number in numbers]


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path, "text", IDENTITY)


def parts(cache: VectorCache) -> list[Path]:
    return sorted(cache.folder.glob("*.parquet"))


def test_what_is_added_is_found_in_the_order_asked(cache: VectorCache) -> None:
    assert cache.look_up([])[0].shape == (0, WIDTH)
    assert not cache.look_up(ids(1))[1].any()
    chance = np.random.default_rng(0)
    first, second = (chance.standard_normal((3, WIDTH)).astype(np.float32) for _ in range(2))
    cache.add(ids(1, 2, 3), first)
    cache.add(ids(6, 5, 4), second)
    vectors, known = cache.look_up(ids(4, 9, 1, 6, 4))
    assert known.tolist() == [True, False, True, True, True]
    assert np.array_equal(vectors, [second[2], np.zeros(WIDTH), first[0], second[0], second[2]])
    assert cache.damaged == 0


def test_the_same_part_twice_is_one_file(cache: VectorCache) -> None:
    for _ in range(2):
        cache.add(ids(1, 2), np.ones((2, WIDTH), np.float32))
    assert len(parts(cache)) == 1


def test_each_encoder_and_modality_has_its_own(tmp_path: Path, cache: VectorCache) -> None:
    cache.add(ids(1), np.ones((1, WIDTH), np.float32))
    others = [
        VectorCache(tmp_path, "image", IDENTITY),
        *(
            VectorCache(tmp_path, "text", replace(IDENTITY, **{name: 9 if name == "width" else "other"}))
            for name in ("model", "weights_sha256", "preprocessing", "precision", "architecture", "width")
        ),
    ]
    assert len({other.folder for other in [cache, *others]}) == 8
    assert not any(other.look_up(ids(1))[1].any() for other in others)
    assert VectorCache(tmp_path, "text", IDENTITY).look_up(ids(1))[1].all()


@pytest.mark.parametrize("number", range(12))
def test_a_damaged_part_counts_as_never_made(cache: VectorCache, number: int) -> None:
    """A bit flipped at many places, a file cut, emptied or replaced: its contents are gone, the others are not."""
    cache.add(ids(1, 2), np.full((2, WIDTH), 1, np.float32))
    cache.add(ids(3), np.full((1, WIDTH), 3, np.float32))
    (victim,) = (part for part in parts(cache) if ids(1)[0].encode() in part.read_bytes())
    data = bytearray(victim.read_bytes())
    if number < 9:
        data[len(data) * number // 9] ^= 1 << number % 8
    victim.write_bytes([data, data[: len(data) // 2], b"", parts(cache)[0].read_bytes()[:-1]][max(0, number - 8)])
    vectors, known = cache.look_up(ids(1, 2, 3))
    assert known.tolist() == [False, False, True]
    assert np.array_equal(vectors, [[0] * WIDTH, [0] * WIDTH, [3] * WIDTH])
    assert cache.damaged == 1
    cache.add(ids(1, 2), np.full((2, WIDTH), 1, np.float32))
    assert cache.look_up(ids(1, 2, 3))[1].all()
    assert len(parts(cache)) == 2


def test_what_a_damaged_part_held_may_lie_in_another(cache: VectorCache) -> None:
    cache.add(ids(1, 2), np.full((2, WIDTH), 1, np.float32))
    cache.add(ids(2, 1), np.full((2, WIDTH), 2, np.float32))
    first, second = parts(cache)
    value = 1 if cache.look_up(ids(1))[0][0, 0] == 1 else 2
    first.write_bytes(first.read_bytes()[:-30])
    vectors, known = cache.look_up(ids(1, 2))
    assert known.all()
    assert (vectors == 3 - value).all()
    assert parts(cache) == [second]


def test_only_what_died_long_ago_is_removed(tmp_path: Path, cache: VectorCache) -> None:
    cache.folder.mkdir()
    old, young = cache.folder / "old.part", cache.folder / "young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, times=(time.time() - 100_000,) * 2)
    cache.add(ids(1), np.ones((1, WIDTH), np.float32))
    assert (old.exists(), young.exists()) == (False, True)
    assert cache.look_up(ids(1))[1].all()


def test_killed_before_every_change_of_the_folder(tmp_path: Path) -> None:
    for number in range(1, 100):
        root = tmp_path / str(number)
        add(root, ids(1), 1)
        if not killed_at(number, add, root, ids(2, 3), 2, report=tmp_path / "report"):
            break
        cache = VectorCache(root, "text", IDENTITY)
        known = cache.look_up(ids(1, 2, 3))[1].tolist()
        assert known in ([True, False, False], [True, True, True])
        assert cache.damaged == 0
        add(root, ids(2, 3), 2)
        assert cache.look_up(ids(1, 2, 3))[0][:, 0].tolist() == [1, 2, 2]
        assert len(parts(cache)) == 2
    assert number > 5


def test_many_add_at_once(tmp_path: Path) -> None:
    """Processes add their own and each other's contents while a reader looks: it sees whole parts only."""
    cache = VectorCache(tmp_path / "root", "text", IDENTITY)
    done, wrong = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            vectors, known = cache.look_up(ids(*range(80)))
            wrong.extend(row for row in np.flatnonzero(known) if not (vectors[row] == row // 10).all())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        writers = [
            start(add, tmp_path / "root", ids(*range(10 * block, 10 * block + 10)), block, report=tmp_path / "report")
            for block in [*range(8), *range(8)]
        ]
        join(*writers, report=tmp_path / "report")
    finally:
        done.set()
        reader.join()
    assert not wrong
    assert cache.look_up(ids(*range(80)))[1].all()
    assert cache.damaged == 0
    assert len(parts(cache)) == 8
