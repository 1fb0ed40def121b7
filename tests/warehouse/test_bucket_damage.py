"""What others may have left in a bucket: damaged leases, no STORE, a newer layout; and clocks that are wrong."""

import json

import pytest

from tests.warehouse.stores import Place, make
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.objects import layout, terms

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"versions": 3, "recipes": []}',
        b'{"versions": [["core/items", "Toys"]], "recipes": []}',
        b'{"versions": [["../../core", "Toys", "0123456789abcdef"]], "recipes": []}',
        b'{"versions": [["core/items", "../Toys", "0123456789abcdef"]], "recipes": []}',
        b'{"versions": [["core/items", "Toys", "../0123456789abc"]], "recipes": []}',
        b'{"versions": [], "recipes": [{"a": 1}]}',
        b'{"versions": [], "recipes": ["../x"]}',
        b"[" * 100_000,
    ],
    ids=lambda data: str(data[:60]),
)
def test_a_lease_that_is_none_stops_a_collection_until_it_ends(bucket: Place, data: bytes) -> None:
    store = bucket.open()
    make(store, "core/items", "1")
    make(store, "core/items", "2")
    before = store.versions().keys()
    store.client.write(f"{layout.LEASES}/damaged", data)
    with pytest.raises(StoreError, match=rf"{bucket.address}/leases/damaged .*is no lease .*10 minutes.*delete that"):
        store.collect()
    assert store.versions().keys() == before
    assert store.current("core/items", "Toys")
    bucket.later(1000)
    assert [leftover.kind for leftover in store.collect()] == ["doomed"]
    bucket.later()
    store.collect()
    assert store.client.listed(layout.LEASES) == []


def test_a_lease_that_names_what_never_was_keeps_nothing(bucket: Place) -> None:
    store = bucket.open()
    make(store, "core/items", "1")
    said = {"versions": [["core/items", "Toys", "0" * 16], ["no/such", "Thing", "1" * 16]], "recipes": ["2" * 16]}
    store.client.write(f"{layout.LEASES}/strange", json.dumps(said).encode())
    assert store.collect() == []
    assert store.building() == {"2" * 16}
    make(store, "core/items", "2")
    assert [leftover.kind for leftover in store.collect()] == ["doomed"]


def test_a_store_whose_first_object_was_deleted_is_not_made_anew(bucket: Place) -> None:
    """A lifecycle rule deletes the oldest objects first, and that is STORE."""
    store = bucket.open()
    made = make(store, "core/items", "1")
    store.client.remove(layout.STORE)
    with pytest.raises(StoreError, match=rf"{bucket.address} has artifacts, but the object STORE is mis.*lifecycle"):
        make(bucket.open(1), "core/items", "2")
    assert terms.read(store.client) is None
    assert bucket.open(2).require("core/items", "Toys").named == made.named


def test_a_newer_layout_is_not_read(bucket: Place) -> None:
    store = bucket.open()
    made = make(store, "core/items", "1")
    store.client.write(layout.STORE, b'{"format": 2, "something": "new"}')
    for act in (
        lambda: bucket.open().current("core/items", "Toys"),
        lambda: bucket.open().all_current(),
        lambda: bucket.open().versions(),
        lambda: bucket.open().mark(made.named, "pin"),
        lambda: bucket.open().collect(),
        lambda: bucket.open().forget("Toys"),
    ):
        with pytest.raises(StoreError, match=rf"{bucket.address}/STORE has the format 2.*update this one"):
            act()


def test_a_clock_that_the_server_refuses_is_named(bucket: Place) -> None:
    assert bucket.server
    bucket.server.tell(faults=[{"kind": 403, "code": "RequestTimeTooSkewed", "left": 1000}])
    store = bucket.open()
    for act in (lambda: store.current("core/items", "Toys"), lambda: make(store, "core/items", "1")):
        with pytest.raises(StoreError, match=rf"{bucket.address} refuses .*the clock of this machine .*set it"):
            act()
