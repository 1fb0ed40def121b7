import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.vectors import cache as vector_cache
from features.vectors.cache import VectorCache
from tests.features.work import WIDTH, Telltale, add, compact
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


# compaction


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small parts are many."""
    monkeypatch.setattr(vector_cache, "_MANY", 2)


def fill(cache: VectorCache, parts: int = 6) -> list[str]:
    """Parts of three contents, of which the next part holds one as well, with another vector."""
    chance = np.random.default_rng(0)
    for number in range(parts):
        vectors = chance.standard_normal((3, WIDTH)).astype(np.float32)
        cache.add(ids(2 * number, 2 * number + 1, 2 * number + 2), vectors)
    return ids(99, *range(2 * parts, -1, -1))


@pytest.mark.usefixtures("few")
def test_compaction_changes_no_answer(cache: VectorCache) -> None:
    asked = fill(cache)
    before = cache.look_up(asked)
    for _ in range(2):
        cache.compact()
        vectors, known = cache.look_up(asked)
        assert np.array_equal(vectors, before[0])
        assert np.array_equal(known, before[1])
        assert len(parts(cache)) == 1
    # What is added later counts by its own name, as if nothing had been compacted.
    later = VectorCache(cache.folder.parent / "calm", "text", IDENTITY)
    fill(later)
    for one in (cache, later):
        one.add(ids(1, 3, 5, 7, 50), np.full((5, WIDTH), 5, np.float32))
    cache.compact()
    asked += ids(50)
    assert np.array_equal(cache.look_up(asked)[0], later.look_up(asked)[0])
    assert (len(parts(cache)), len(parts(later))) == (1, 7)
    assert cache.damaged == 0


def test_parts_are_compacted_when_they_are_many_and_small(cache: VectorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fill(cache, 8)
    whole = sum(part.stat().st_size for part in parts(cache))
    before, names = cache.look_up(asked), parts(cache)
    monkeypatch.setattr(vector_cache, "_MANY", 9)
    cache.compact()
    assert parts(cache) == names
    monkeypatch.setattr(vector_cache, "_MANY", 8)
    monkeypatch.setattr(vector_cache, "_LARGE", whole // 2)
    cache.compact()
    assert len(parts(cache)) == 2
    monkeypatch.setattr(vector_cache, "_MANY", 1)
    monkeypatch.setattr(vector_cache, "_LARGE", 2)
    large = parts(cache)
    cache.compact()
    assert parts(cache) == large
    assert np.array_equal(cache.look_up(asked)[0], before[0])


@pytest.mark.usefixtures("few")
def test_a_reader_finds_what_is_compacted_while_it_reads(cache: VectorCache) -> None:
    asked = fill(cache)

    class Slow(VectorCache):
        """Another process compacts when the first part is about to be read."""

        def _read(self, *part):
            if len(parts(cache)) > 1:
                cache.compact()
            return super()._read(*part)

    before = cache.look_up(asked)
    reader = Slow(cache.folder.parent, "text", IDENTITY)
    vectors, known = reader.look_up(asked)
    assert len(parts(cache)) == 1
    assert np.array_equal(vectors, before[0])
    assert np.array_equal(known, before[1])
    assert reader.damaged == 0


@pytest.mark.usefixtures("few")
def test_a_damaged_part_is_not_carried_on(cache: VectorCache) -> None:
    cache.add(ids(1), np.full((1, WIDTH), 1, np.float32))
    cache.add(ids(2), np.full((1, WIDTH), 2, np.float32))
    cache.add(ids(3), np.full((1, WIDTH), 3, np.float32))
    (victim,) = (part for part in parts(cache) if ids(2)[0].encode() in part.read_bytes())
    data = bytearray(victim.read_bytes())
    data[data.index(np.float32(2).tobytes() * WIDTH)] ^= 1
    victim.write_bytes(data)
    cache.compact()
    assert cache.look_up(ids(1, 2, 3))[0][:, 0].tolist() == [1, 0, 3]
    assert (len(parts(cache)), cache.damaged) == (1, 1)


@pytest.mark.usefixtures("few")
def test_what_a_killed_compaction_left_is_not_written_again(
    cache: VectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fill(cache)
    before, left = cache.look_up(asked)[0], {part: part.read_bytes() for part in parts(cache)}
    cache.compact()
    (made,) = parts(cache)
    monkeypatch.setattr(vector_cache, "_LARGE", made.stat().st_size)
    for part, data in left.items():
        part.write_bytes(data)
    cache.compact()
    assert parts(cache) == [made]
    assert np.array_equal(cache.look_up(asked)[0], before)


def test_a_compaction_killed_before_every_change_of_the_folder(tmp_path: Path) -> None:
    for number in range(1, 100):
        root = tmp_path / str(number)
        for content in (1, 2, 3):
            add(root, ids(content, 4), content)
        cache = VectorCache(root, "text", IDENTITY)
        before = cache.look_up(ids(1, 2, 3, 4))[0]
        if not killed_at(number, compact, root, report=tmp_path / "report"):
            break
        assert np.array_equal(cache.look_up(ids(1, 2, 3, 4))[0], before)
        add(root, ids(5), 5)
        add(root, ids(6), 6)
        compact(root)
        assert np.array_equal(cache.look_up(ids(1, 2, 3, 4))[0], before)
        assert cache.look_up(ids(5, 6))[1].all()
        assert cache.damaged == 0
    assert number > 4
