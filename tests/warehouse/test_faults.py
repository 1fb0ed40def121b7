"""Faults the warehouse survives: crowds, kill -9, full disks. Each a small form here and a campaign for `make soak`.

After each, CURRENT names whole versions (every byte is hashed), nothing lies about, and the next run ends where an
undisturbed one ends.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.disturb import (
    Disk,
    duration,
    join,
    killed_after,
    killed_at,
    moments,
    processes,
    small_disk,
    small_files,
    start,
)
from tests.warehouse.work import (
    CATALOGUE,
    ask,
    ask_plainly,
    disagreements,
    leftovers,
    publish_all,
    publish_catalogue,
    publish_domain,
    publish_text,
    staged,
    stages,
    versions,
    write_raw,
)
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.store import Recipe, Store
from warehouse.duck import Engine, connect

pytestmark = pytest.mark.long

KIB = 1 << 10


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Where processes write what went wrong."""
    return tmp_path / "report.txt"


# Crowds


def _write(root: Path, raw: Path, domain: str, stop: Any) -> None:
    """Materialise a domain from raw files that change, again and again."""
    for generation in itertools.count(1):
        write_raw(raw, domain, generation)
        publish_domain(root, raw, domain)
        if stop.is_set():
            break


def _swap(root: Path, stop: Any) -> None:
    """Rebuild and swap the catalogue, again and again."""
    while not stop.is_set():
        publish_catalogue(root)


def _read(root: Path, domains: int, until: float, done: Any) -> None:
    """Ask the catalogue, in both ways; every answer must agree with itself and with the manifests."""
    seen: set[str] = set()
    for question in itertools.cycle([ask, ask_plainly]):
        answer = question(root / CATALOGUE)
        assert answer.num_rows == domains
        assert not disagreements(answer), disagreements(answer)
        seen |= set(answer["v"].to_pylist())
        if time.time() > until and len(seen) > domains:  # until the catalogue has changed
            break
    done.release()


def _crowd(folder: Path, report: Path, writers: int, readers: int, seconds: float) -> None:
    root, raw = folder / "data", folder / "raw"
    domains = [f"Domain{number}" for number in range(writers)]
    for domain in domains:
        write_raw(raw, domain, 0)
    publish_all(root, raw, domains)
    stop, done = processes.Event(), processes.Semaphore(0)
    crowd = [
        *(start(_write, root, raw, domain, stop, report=report) for domain in domains),
        start(_swap, root, stop, report=report),
        *(start(_read, root, writers, time.time() + seconds, done, report=report) for _ in range(readers)),
    ]
    for _ in range(readers):
        while not done.acquire(timeout=1) and not report.exists():
            pass
    stop.set()
    join(*crowd, report=report)
    store = Store(root)
    assert leftovers(store, CATALOGUE) == []
    assert staged(store) == []
    publish_catalogue(root)
    assert {row["domain"]: row["v"] for row in ask(root / CATALOGUE).to_pylist()} == {
        domain: store.require("core/sequences", domain).version for domain in domains
    }


def test_writers_and_readers_do_not_disturb_each_other(tmp_path: Path, report: Path) -> None:
    _crowd(tmp_path, report, writers=3, readers=1, seconds=3)


@pytest.mark.soak
def test_eight_writers_two_readers_and_the_catalogue_for_a_minute(tmp_path: Path, report: Path) -> None:
    _crowd(tmp_path, report, writers=8, readers=2, seconds=60)


# Two at once


def _at_the_same_time(barrier: Any, function: Callable[..., Any], *arguments: Any) -> None:
    barrier.wait(60)
    function(*arguments)


def _twice(folder: Path, report: Path, same: bool) -> None:
    """One domain by two processes at once, from the same raw files or from different ones."""
    root, barrier = folder / "data", processes.Barrier(2)
    raws = [folder / "raw0", folder / ("raw0" if same else "raw1")]
    for number, raw in enumerate(dict.fromkeys(raws)):
        write_raw(raw, "Toys", number)
    pair = [start(_at_the_same_time, barrier, publish_all, root, raw, ["Toys"], report=report) for raw in raws]
    join(*pair, report=report)
    store = Store(root)
    assert leftovers(store, CATALOGUE) == []
    assert staged(store) == []
    assert disagreements(ask(root / CATALOGUE)) == []
    for key in ("raw/ratings", "raw/metadata"):
        made = len(list(store.folder(key, "Toys").glob("v=*")))
        assert made == (1 if same else 2), key
    if same:
        assert len(list(root.glob("*/*/*/v=*"))) == len(versions(store))


@pytest.mark.parametrize("same", [True, False])
def test_two_runs_of_one_domain_at_once(tmp_path: Path, report: Path, same: bool) -> None:
    _twice(tmp_path, report, same)


@pytest.mark.soak
@pytest.mark.parametrize("same", [True, False])
def test_many_pairs_of_runs_at_once(tmp_path: Path, report: Path, same: bool) -> None:
    for number in range(20):
        _twice(tmp_path / str(number), report, same)


def _slowly(root: Path, text: str, barrier: Any) -> None:
    def build(out: Path) -> dict[str, Any]:
        (out / "note.txt").write_text(text)
        barrier.wait(60)  # both are building now
        return {}

    Store(root).publish(Recipe("core/notes", "Toys", "code", {}, {}, {}), build, "recipe")


def test_two_that_build_the_same_recipe_with_other_bytes_end_with_one_of_them(tmp_path: Path, report: Path) -> None:
    barrier = processes.Barrier(2)
    join(*(start(_slowly, tmp_path, text, barrier, report=report) for text in ("cpu", "gpu")), report=report)
    assert leftovers(Store(tmp_path)) == []
    assert len(list(Store(tmp_path).folder("core/notes", "Toys").glob("v=*"))) == 1


# kill -9


def _note(number: int) -> Callable[[Path], Any]:
    return lambda root: publish_text(root, f"text {number}")


def _both(root: Path) -> None:
    publish_text(root, "text 1")
    publish_text(root, "text 2")


def _damage(root: Path) -> None:
    artifact = publish_text(root, "text 1")
    (artifact.path / "note.txt").write_text("cut")


PREPARED: dict[str, tuple[Callable[[Path], Any], tuple[str, str, str], bool]] = {
    "the first version": (lambda root: None, ("new", "code", "content"), True),
    "another version": (_note(1), ("text 2", "code", "content"), True),
    "the same bytes of other code": (_note(1), ("text 1", "other code", "content"), True),
    "a version that was there before": (
        lambda root: (_note(1)(root), _note(2)(root)),
        ("text 1", "code", "content"),
        True,
    ),
    "a version by its recipe": (_note(1), ("text 2", "code", "recipe"), True),
    "the repair of a damaged version": (_damage, ("text 1", "code", "content"), False),
}


@pytest.mark.parametrize("what", PREPARED)
def test_killed_before_every_call_of_a_publication(tmp_path: Path, report: Path, what: str) -> None:
    prepare, wanted, was_whole = PREPARED[what]
    calm = publish_text(tmp_path / "calm", *wanted).version
    for number in itertools.count(1):
        root = tmp_path / str(number)
        prepare(root)
        before = Store(root).current("core/notes", "Toys")
        shown = (root / "note.txt").read_text() if before else None
        if not killed_at(number, publish_text, root, *wanted, report=report):
            break
        store = Store(root)
        if shown:
            assert (root / "note.txt").read_text() in (shown, wanted[0])
        if was_whole:
            assert leftovers(store, "note.txt") == []
            now = store.current("core/notes", "Toys")
            assert (now and now.version) in (
                before and before.version,
                publish_text(tmp_path / "calm", *wanted).version,
            )
        mended = publish_text(root, *wanted)
        assert mended.version == calm
        assert leftovers(store, "note.txt") == []
        store.sweep()
        assert staged(store) == []
        assert (root / "note.txt").read_text() == wanted[0]
    assert number > 10, "the calls were not counted"


def _after_a_kill(root: Path, raw: Path, calm: Path, domains: list[str]) -> None:
    """Whole at once; and after the next run as if nothing had happened."""
    store = Store(root)
    assert leftovers(store, CATALOGUE) == []
    if (root / CATALOGUE).exists():
        assert disagreements(ask(root / CATALOGUE)) == []
    publish_all(root, raw, domains)
    publish_all(calm, raw, domains)
    assert versions(store) == versions(Store(calm))
    assert leftovers(store, CATALOGUE) == []
    assert staged(store) == []
    assert ask(root / CATALOGUE).equals(ask(calm / CATALOGUE))


def _kills_at_random(folder: Path, report: Path, kills: int, domains: list[str]) -> None:
    root, raw, calm = folder / "data", folder / "raw", folder / "calm"
    for domain in domains:
        write_raw(raw, domain, 0)
    seconds = duration(publish_all, calm, raw, domains, report=report)
    for generation, moment in enumerate(moments(kills, seconds), 1):
        for sooner in itertools.count():
            for domain in domains:
                write_raw(raw, domain, 1000 * sooner + generation)
            if killed_after(moment / 2**sooner, publish_all, root, raw, domains, report=report):
                break
        _after_a_kill(root, raw, calm, domains)


def test_killed_at_random_moments(tmp_path: Path, report: Path) -> None:
    _kills_at_random(tmp_path, report, 5, ["Toys"])


@pytest.mark.soak
def test_killed_at_fifty_random_moments(tmp_path: Path, report: Path) -> None:
    _kills_at_random(tmp_path, report, 50, ["Toys", "Mugs"])


@pytest.mark.soak
def test_killed_before_every_call_of_a_whole_run(tmp_path: Path, report: Path) -> None:
    root, raw, calm = tmp_path / "data", tmp_path / "raw", tmp_path / "calm"
    for number in itertools.count(1):
        write_raw(raw, "Toys", number)
        if not killed_at(number, publish_all, root, raw, ["Toys"], report=report):
            break
        _after_a_kill(root, raw, calm, ["Toys"])
    assert number > 50, "the calls were not counted"


# Full disks


@contextmanager
def _unmoved(root: Path, *shown: str) -> Iterator[None]:
    """Within it, publications fail for want of room; afterwards everything is as it was."""
    store = Store(root)
    before, made = versions(store), sorted(root.glob("*/*/*/v=*"))
    with pytest.raises(StoreError, match=r"no space left in .*nothing was published: free some space"):
        yield
    assert versions(store) == before
    assert sorted(root.glob("*/*/*/v=*")) == made
    assert leftovers(store, *shown) == []
    assert staged(store) == []


def _fill(disk: Disk, publish: Callable[[], Any], sizes: Iterator[int], *shown: str) -> int:
    """Let `publish` fail with ever more room until it goes through; returns how often it failed."""
    root = disk.folder / "data"
    for failures, room in enumerate(sizes):
        disk.leave(room)
        try:
            with _unmoved(root, *shown):
                publish()
        except pytest.fail.Exception:  # it did not raise
            assert leftovers(Store(root), *shown) == []
            assert staged(Store(root)) == []
            disk.free()
            return failures
    raise AssertionError("there was never room enough")


def _fill_every_stage(folder: Path, sizes: Callable[[int], Iterator[int]]) -> None:
    """Every stage of a second run on a disk that fills up; `sizes` for a first step of that many bytes."""
    raw = folder / "raw"
    with small_disk(folder / "disk", 64 << 20) as disk:
        root = disk.folder / "data"
        write_raw(raw, "Toys", 0)
        publish_all(root, raw, ["Toys"])
        write_raw(raw, "Toys", 1)
        for key, publish in stages(Store(root), raw, "Toys").items():
            assert _fill(disk, publish, sizes(4 * KIB), CATALOGUE) > 1, key
        before = ask(root / CATALOGUE)
        disk.leave(0)
        with _unmoved(root, CATALOGUE):
            publish_catalogue(root)
        assert ask(root / CATALOGUE).equals(before)
        assert _fill(disk, lambda: publish_catalogue(root), sizes(64 * KIB), CATALOGUE) > 1
        publish_all(folder / "calm", raw, ["Toys"])
        assert versions(Store(root)) == versions(Store(folder / "calm"))
        assert ask(root / CATALOGUE).equals(ask(folder / "calm" / CATALOGUE))


def test_a_full_disk_at_every_stage(tmp_path: Path) -> None:
    _fill_every_stage(tmp_path, lambda step: (step * size for size in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)))


@pytest.mark.soak
def test_a_disk_with_room_for_one_page_more_each_time(tmp_path: Path) -> None:
    _fill_every_stage(tmp_path, lambda step: iter(range(0, 1024 * step, step)))


def test_no_room_for_the_manifest(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        root = disk.folder / "data"
        publish_text(root, "before")

        def build(out: Path) -> dict[str, Any]:
            (out / "note.txt").write_text("after")
            disk.leave(0)
            return {}

        with _unmoved(root, "note.txt"):
            Store(root).publish(Recipe("core/notes", "Toys", "code", {}, {}, {}), build)
        disk.free()
        publish_text(root, "after")
        assert (root / "note.txt").read_text() == "after"


@pytest.mark.parametrize("filled_up", ["before", "meanwhile"])
def test_no_room_for_what_duckdb_spills(tmp_path: Path, filled_up: str) -> None:
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        root = disk.folder / "data"
        publish_text(root, "before")

        def build(out: Path) -> dict[str, Any]:
            if filled_up == "before":
                disk.leave(1 << 20)
            with connect(Engine(threads=1, memory="12MB"), out) as connection:
                connection.execute("CREATE TABLE first AS SELECT random() AS number FROM range(1_000_000)")
                if filled_up == "meanwhile":
                    disk.leave(1 << 20)
                connection.execute("CREATE TABLE more AS SELECT random() AS number FROM range(3_000_000)")
                (rows,) = connection.execute("SELECT count(*) FROM more").fetchall()
            return {"rows": rows[0]}

        wanted = Recipe("core/numbers", "Toys", "code", {}, {}, {})
        with _unmoved(root, "note.txt"):
            Store(root).publish(wanted, build)
        disk.free()
        filled_up = "never"
        assert Store(root).publish(wanted, build)[0].manifest.summary == {"rows": 3_000_000}


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """A quota or an old file system, by a limit that needs no rights; the other way to run out of room."""
    root, raw = tmp_path / "data", tmp_path / "raw"
    write_raw(raw, "Toys", 0)
    for publish in stages(Store(root), raw, "Toys").values():
        with _unmoved(root), small_files(1 * KIB):
            publish()
        publish()
    with _unmoved(root), small_files(64 * KIB):
        publish_catalogue(root)
    publish_catalogue(root)
    assert disagreements(ask(root / CATALOGUE)) == []
