"""What is collected and what is kept: by CURRENT, pins, living processes and catalogues that somebody has open."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.disturb import join, killed_at, processes, start
from tests.warehouse.test_lineage import make
from tests.warehouse.work import (
    CATALOGUE,
    STAGES,
    ask,
    disagreements,
    leave,
    leftovers,
    overwrite,
    publish_all,
    staged,
    versions,
    write_raw,
)
from warehouse.artifacts.contract import Leftover
from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.store import Store, Version, recipe


def _all(store: Store) -> set[Version]:
    return set(store.versions())


def _collected(store: Store) -> list[str]:
    return [leftover.name for leftover in store.collect() if leftover.kind == "version"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def _generations(store: Store, raw: Path, count: int) -> list[set[Version]]:
    """Whole runs over a raw file that changes, and what was current after each."""
    found = []
    for generation in range(count):
        write_raw(raw, "Toys", generation)
        publish_all(store.root, raw, ["Toys"])
        found.append(set(store.pointed().values()))
    return found


def test_only_what_is_current_stays(store: Store, tmp_path: Path) -> None:
    *_, current = _generations(store, tmp_path / "raw", 3)
    dead = leave(store.root)
    (dead / "half").write_text("12345")
    before = _all(store)
    planned = store.collect(dry_run=True)
    assert _all(store) == before
    assert Leftover("staging", dead.name, 5) in planned
    assert {leftover.name for leftover in planned} == {named(version) for version in before - current} | {dead.name}
    for leftover in planned:
        assert leftover.bytes > 0
    assert store.collect() == planned
    assert _all(store) == current
    assert staged(store) == []
    assert leftovers(store, CATALOGUE) == []
    assert store.collect() == []
    assert not disagreements(ask(store.root / CATALOGUE))


def test_a_pin_keeps_all_that_the_pinned_was_made_from(store: Store, tmp_path: Path) -> None:
    first, second = _generations(store, tmp_path / "raw", 2)
    pinned = next(version for version in first if version[0] == "core/sequences")
    store.mark(pinned, "pin")
    assert store.marked("pin") == [pinned]
    store.collect()
    kept = set(Lineage.of(store).upstream([pinned]))
    assert {key for key, _, _ in kept} == set(STAGES)
    assert _all(store) == second | kept
    store.mark(pinned, "pin", on=False)
    assert set(_collected(store)) == {named(version) for version in kept - second}
    assert not store.mark(pinned, "pin")
    assert store.marked("pin") == []


NOTEBOOK = """
import sys, duckdb
reader = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
for question in sys.stdin:
    print(reader.sql("SELECT count(*) FROM core.sequences_interactions").fetchall()[0][0], flush=True)
"""


@contextmanager
def _notebook(catalogue: Path) -> Iterator[Any]:
    """An analyst's process that has the catalogue open; call it to ask a question over the views."""
    process = subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK, str(catalogue)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout
    assert stdout.readline() == "open\n"

    def ask() -> int:
        stdin.write("ask\n")
        stdin.flush()
        return int(stdout.readline())

    try:
        yield ask
    finally:
        stdin.close()
        process.wait(60)


def test_a_catalogue_that_somebody_has_open_keeps_what_it_shows(store: Store, tmp_path: Path) -> None:
    (first,) = _generations(store, tmp_path / "raw", 1)
    with _notebook(store.root / CATALOGUE) as ask_first:
        second, third = _generations(store, tmp_path / "raw", 3)[1:]
        store.collect()
        assert _all(store) == first | third
        assert ask_first() > 0
    assert set(_collected(store)) == {named(version) for version in first - third}
    assert second - third


def test_the_catalogue_that_is_shown_stays_also_where_current_is_ahead(store: Store, tmp_path: Path) -> None:
    """A run was killed between CURRENT and the file at the top."""
    (first,) = _generations(store, tmp_path / "raw", 1)
    write_raw(tmp_path / "raw", "Toys", 1)
    shown = (store.root / CATALOGUE).stat().st_ino
    catalogue = next(version for version in first if version[0] == "warehouse/catalogue")
    publish_all(store.root, tmp_path / "raw", ["Toys"])
    (store.root / CATALOGUE).unlink()
    (store.root / CATALOGUE).hardlink_to(store.path(catalogue) / CATALOGUE)
    assert (store.root / CATALOGUE).stat().st_ino == shown
    store.collect()
    assert first <= _all(store)
    assert ask(store.root / CATALOGUE).num_rows == 1


def test_where_current_leads_nowhere_every_version_stays(store: Store) -> None:
    versions = {make(store, "core/items", str(number)).named for number in range(3)}
    (store.folder("core/items", "Toys") / "CURRENT").write_text("../../etc")
    assert store.collect() == []
    assert _all(store) == versions


def test_what_is_none_of_the_stores_is_left_alone(store: Store) -> None:
    make(store, "core/items", "1")
    for stray in ("My notes/x/domain=Toys/v=1", "core/items/domain=Toys/v=mine", "core/items/domain=a b/v=" + "0" * 16):
        (store.root / stray).mkdir(parents=True)
        assert store.collect() == []
        assert (store.root / stray).is_dir()


def test_a_damaged_version_that_nothing_needs_goes_with_its_mark(store: Store) -> None:
    old, new = make(store, "core/items", "1"), make(store, "core/items", "2")
    overwrite(old.path / "manifest.json", "{")
    store.mark(old.named, "damaged")
    assert _collected(store) == [named(old.named)]
    assert sorted(path.name for path in new.path.parent.iterdir()) == ["CURRENT", "HISTORY", new.path.name]


# While others work


def _reads(root: Path, ready: Any, go: Any) -> None:
    """A build that has found its input, and reads it when another version is current."""
    store = Store(root)
    with store.holding([("core/items", "Toys")]) as (items,):

        def build(out: Path) -> dict[str, Any]:
            ready.set()
            assert go.wait(60)
            (out / "file.txt").write_text((items.path / "file.txt").read_text())
            return {}

        store.publish(recipe("features/item_text", "Toys", "code", [items], {}, {}), build)


def test_a_run_loses_neither_what_it_reads_nor_what_it_builds(store: Store, tmp_path: Path) -> None:
    raw = make(store, "raw/metadata", "1")
    items = make(store, "core/items", "1", raw)
    report, ready, go = tmp_path / "report.txt", processes.Event(), processes.Event()
    reader = start(_reads, store.root, ready, go, report=report)
    assert ready.wait(60)
    newer = make(store, "core/items", "2", make(store, "raw/metadata", "2"))
    assert store.collect() == []
    go.set()
    join(reader, report=report)
    text = store.require("features/item_text", "Toys")
    assert (text.path / "file.txt").read_text() == "core/items Toys 1"
    # What is current was made from it, so it stays after the run as well.
    assert _collected(store) == []
    make(store, "features/item_text", "2", newer)
    assert _collected(store) == [named(v) for v in (text.named, items.named, raw.named)]


def test_a_dead_reader_holds_nothing(store: Store, tmp_path: Path) -> None:
    old = make(store, "core/items", "1")
    ready, go = processes.Event(), processes.Event()
    reader = start(_reads, store.root, ready, go, report=tmp_path / "report.txt")
    assert ready.wait(60)
    make(store, "core/items", "2")
    assert _collected(store) == []
    reader.kill()
    reader.join()
    assert _collected(store) == [named(old.named)]
    assert staged(store) == []


def _flip(root: Path, stop: Any) -> None:
    """Go to and fro between two recipes, reading what was made: the other one is always garbage."""
    store = Store(root)
    number = 0
    while not stop.is_set():
        number += 1
        items = make(store, "core/items", str(number % 2))
        with store.holding([("core/items", items.domain)]) as (held,):
            assert (held.path / "file.txt").read_text() in ("core/items Toys 0", "core/items Toys 1")
            make(store, "features/item_text", str(number % 2), held)


def _collect(root: Path, stop: Any) -> None:
    while not stop.is_set():
        Store(root).collect()


def _contend(root: Path, report: Path, seconds: float) -> None:
    stop = processes.Event()
    crowd = [start(work, root, stop, report=report) for work in (_flip, _flip, _collect)]
    until = time.monotonic() + seconds
    while time.monotonic() < until and not report.exists():
        time.sleep(0.05)
    stop.set()
    join(*crowd, report=report)
    store = Store(root)
    assert leftovers(store) == []
    assert staged(store) == []
    assert all(_has_its_inputs(store))


def _has_its_inputs(store: Store) -> Iterator[bool]:
    """Of each version that is there, whether it still has what it was made from."""
    lineage = Lineage.of(store)
    for version in lineage.versions:
        yield all(read in lineage.versions for read in lineage.inputs(version))


def test_a_current_that_cannot_be_read_keeps_its_versions_and_stops_nobody(store: Store) -> None:
    toys = make(store, "core/items", "1")
    old = make(store, "core/items", "1", domain="Mugs")
    new = make(store, "core/items", "2", domain="Mugs")
    for break_it in (Path.touch, Path.mkdir):
        pointer = toys.path.parent / "CURRENT"
        pointer.unlink()
        break_it(pointer)
        assert _collected(store) == ([named(old.named)] if break_it is Path.touch else [])
        assert _all(store) == {toys.named, new.named}


def test_a_forgotten_domain_is_collected_but_for_what_is_pinned(store: Store) -> None:
    first, second = make(store, "core/items", "1"), make(store, "core/interactions", "1")
    store.mark(first.named, "pin")
    store.forget("Toys")
    assert _collected(store) == [named(second.named)]
    assert _all(store) == {first.named}


def test_runs_and_collecting_at_once(tmp_path: Path) -> None:
    _contend(tmp_path / "data", tmp_path / "report.txt", 3)


@pytest.mark.soak
def test_runs_and_collecting_at_once_for_a_minute(tmp_path: Path) -> None:
    _contend(tmp_path / "data", tmp_path / "report.txt", 60)


# kill -9


def _doomed(root: Path) -> None:
    Store(root).collect()


def _prepare(root: Path, raw: Path) -> tuple[dict[str, str], set[Version]]:
    store = Store(root)
    *_, current = _generations(store, raw, 3)
    return versions(store), current


def _still_whole(store: Store, before: dict[str, str], current: set[Version]) -> None:
    assert versions(store) == before
    assert leftovers(store, CATALOGUE) == []
    assert all(_has_its_inputs(store))
    store.collect()
    assert _all(store) == current
    assert staged(store) == []


def _kill(folder: Path, step: int) -> None:
    """Kill collecting before every `step`-th change that it makes, each time over the same store."""
    report = folder / "report.txt"
    before, current = _prepare(folder / "calm", folder / "raw")
    for number in itertools.count(step, step):
        root = folder / str(number)
        shutil.copytree(folder / "calm", root, copy_function=_link)
        killed = killed_at(number, _doomed, root, report=report)
        _still_whole(Store(root), before, current)
        shutil.rmtree(root)
        if not killed:
            assert number > 30
            break


@pytest.mark.long
def test_killed_before_some_changes_that_it_makes(tmp_path: Path) -> None:
    _kill(tmp_path, 7)


@pytest.mark.soak
def test_killed_before_every_change_that_it_makes(tmp_path: Path) -> None:
    _kill(tmp_path, 1)


def _link(source: str, target: str) -> None:
    """Copies of a store that share the bytes: immutable, as they are, and the exposed file stays the same file."""
    os.link(source, target)
