"""Many processes over one bucket at once: writers, readers and a collection; and processes killed at any moment.

The periods of these stores are seconds, so that collections remove while others publish, hold and read.
"""

import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.disturb import duration, join, killed_after, moments, processes, start
from tests.warehouse.stores import Place, make
from tests.warehouse.test_bucket_faults import contents, named_contents, wrong
from warehouse.artifacts.objects import layout
from warehouse.artifacts.opened import open_store

pytestmark = pytest.mark.long

GRACE, LEASE = 8, 4


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Where processes write what went wrong."""
    return tmp_path / "report.txt"


def _open(place: Place, worker: int) -> Any:
    if place.server:  # the server that forks processes may be older than the one of buckets
        os.environ.update(place.server.environment)
    folder = place.folder / f"worker{worker}"
    return open_store(place.address, folder, folder / "cache")


def _quick(place: Place) -> None:
    """A store whose periods are seconds."""
    terms = {"format": 1, "id": "quick", "grace": GRACE, "lease": LEASE}
    assert _open(place, 0).client.create(layout.STORE, json.dumps(terms).encode())


def _write(place: Place, worker: int, domains: int, stop: Any) -> None:
    """Go to and fro between few recipes, so that what was garbage is wanted again; what is held is read."""
    store, chance = _open(place, worker), random.Random(worker)
    while not stop.is_set():
        domain = f"D{chance.randrange(domains)}"
        make(store, "raw/metadata", str(chance.randrange(4)), domain=domain)
        with store.holding([("raw/metadata", domain)]) as (raw,):
            time.sleep(chance.random() * LEASE / 2)
            items = make(store, "core/items", raw.file("items.txt").read_text(), raw, domain=domain)
            assert items.file("items.txt").read_text().endswith(raw.file("items.txt").read_text())


def _read(place: Place, worker: int, domains: int, stop: Any) -> None:
    """What is held can be read to its end, however long that takes, with all that it was made from."""
    store, chance = _open(place, worker), random.Random(worker)
    while not stop.is_set():
        domain = f"D{chance.randrange(domains)}"
        if not (store.is_published("core/items", domain) and store.is_published("raw/metadata", domain)):
            continue
        with store.holding([("core/items", domain)]) as (items,):
            time.sleep(chance.random() * (GRACE + LEASE))
            assert store.verify(items) == []
            for key, of, version in items.manifest.made_from:
                assert store.verify(store.versions()[key, of, version]) == []


def _collect(place: Place, worker: int, stop: Any) -> None:
    store, removed = _open(place, worker), 0
    while not stop.is_set():
        removed += sum(leftover.kind == "version" for leftover in store.collect())
    (place.folder / "removed").write_text(str(removed))


def _crowd(place: Place, report: Path, writers: int, readers: int, seconds: float) -> int:
    _quick(place)
    domains = max(2, writers // 3)
    stop = processes.Event()
    crowd = [
        *(start(_write, place, number, domains, stop, report=report) for number in range(writers)),
        *(start(_read, place, 100 + number, domains, stop, report=report) for number in range(readers)),
        start(_collect, place, 200, stop, report=report),
    ]
    until = time.monotonic() + seconds
    while time.monotonic() < until and not report.exists():
        time.sleep(0.1)
    stop.set()
    join(*crowd, report=report)
    store = _open(place, 300)
    assert wrong(store) == []
    current = set(store.pointed().values())
    for _ in range(3):
        store.collect()
        assert place.server
        place.server.ahead(2 * GRACE)
    store.collect()
    assert wrong(store) == []
    assert set(store.pointed().values()) == current
    assert contents(store) == named_contents(store)
    return int((place.folder / "removed").read_text())


def test_writers_a_reader_and_a_collection_at_once(bucket: Place, report: Path) -> None:
    _crowd(bucket, report, writers=3, readers=1, seconds=4)


@pytest.mark.soak
def test_eight_writers_two_readers_and_a_collection_for_a_minute(bucket: Place, report: Path) -> None:
    assert _crowd(bucket, report, writers=8, readers=2, seconds=60) > 0


# kill -9


def _publish(place: Place, worker: int, texts: list[str]) -> None:
    store = _open(place, worker)
    for text in texts:
        raw = make(store, "raw/metadata", text)
        with store.holding([("raw/metadata", "Toys")]):
            make(store, "core/items", text, raw)
    store.collect()


def _kills(place: Place, report: Path, kills: int) -> None:
    seconds = duration(_publish, place, 0, ["a", "b"], report=report)
    for number, moment in enumerate(moments(kills, seconds), 1):
        texts = [str(number), str(number // 2), "a"]
        for sooner in itertools.count():
            if killed_after(moment / 2**sooner, _publish, place, number, texts, report=report):
                break
        store = _open(place, number)
        assert wrong(store) == []
        _publish(place, number, texts)
        assert store.require("core/items", "Toys").file("items.txt").read_text() == "core/items Toys a"
        assert wrong(store) == []
    for _ in range(3):
        place.collect(store)
    assert set(store.versions()) == set(store.pointed().values())
    assert wrong(store) == []
    assert contents(store) == named_contents(store)
    assert store.client.listed(layout.LEASES) == []


def test_killed_at_random_moments(bucket: Place, report: Path) -> None:
    _kills(bucket, report, 2)


@pytest.mark.soak
def test_killed_at_fifty_random_moments(bucket: Place, report: Path) -> None:
    _kills(bucket, report, 50)
