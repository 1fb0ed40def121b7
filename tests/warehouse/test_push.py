"""Pushing the store in a folder into a bucket: complete, resumable, and never over what others have made."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.stores import Place, bucket_place, make, of, writes
from tests.warehouse.test_bucket_faults import contents, dying, named_contents, wrong
from tests.warehouse.work import overwrite
from warehouse.artifacts import history
from warehouse.artifacts.errors import ReadOnlyError, StoreError
from warehouse.artifacts.objects import layout, terms
from warehouse.artifacts.objects.push import Pushed, push
from warehouse.artifacts.store import Store

pytestmark = pytest.mark.long

APART = ("warehouse/catalogue",)


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """A folder with two domains: a history of two versions, of which the older one is pinned, and a catalogue."""
    store = Store(tmp_path / "folder")
    for text in "12":
        raw = make(store, "raw/metadata", text)
        items = make(store, "core/items", text, raw)
        if text == "1":
            store.mark(items.named, "pin")
    make(store, "raw/metadata", "2", domain="Mugs")
    make(store, "models/pretrained", "m", items, domain="_all")
    make(store, "warehouse/catalogue", "c", items, domain="_all")
    return store


def _send(folder: Store, place: Place, worker: int = 0, **more: Any) -> Pushed:
    return push(folder, place.open(worker), APART, **more)


def _known(store: Any) -> dict[Any, Any]:
    """Every version with its manifest, but for the catalogue."""
    return {version: artifact.manifest for version, artifact in store.versions().items() if version[0] not in APART}


def _is_all_there(folder: Store, store: Any) -> None:
    assert _known(store) == _known(folder)
    pointed = {ref: version for ref, version in folder.pointed().items() if ref[0] not in APART}
    assert store.pointed() == pointed
    assert store.marked("pin") == folder.marked("pin")
    assert store.periods() == [period for period in folder.periods() if period.key not in APART]
    assert wrong(store) == []


def test_everything_that_is_needed_is_in_the_bucket_and_nothing_is_sent_twice(folder: Store, bucket: Place) -> None:
    unneeded = make(folder, "core/items", "3", domain="Mugs")
    make(folder, "core/items", "4", domain="Mugs")
    would = _send(folder, bucket, dry_run=True)
    assert terms.read(bucket.open().client) is None
    sent = _send(folder, bucket)
    assert sent == would
    sizes = [entry.bytes for manifest in _known(folder).values() for entry in manifest.files.values()]
    assert (sent.versions, sent.there, sent.pins, sent.current) == (7, 0, 1, 5)
    assert sent.bytes == sum(sizes) - unneeded.manifest.files["items.txt"].bytes
    assert unneeded.named not in bucket.open(1).versions()
    folder.collect()
    _is_all_there(folder, bucket.open(1))
    bucket.server and bucket.server.tell(forget=True)
    assert _send(folder, bucket, 2) == Pushed(0, 0, 0, 7, 0, 0)
    assert bucket.server
    writes = [line for line in bucket.server.tell()["seen"] if line.startswith("PUT")]
    assert all("/leases/" in line for line in writes)
    for _ in range(3):
        bucket.collect(bucket.open(3))
    _is_all_there(folder, bucket.open(4))
    assert contents(bucket.open(4)) == named_contents(bucket.open(4))


def test_a_second_push_sends_what_is_new_and_goes_on_with_the_history(folder: Store, bucket: Place) -> None:
    _send(folder, bucket)
    before = bucket.open().periods()
    items = make(folder, "core/items", "5", folder.require("raw/metadata", "Toys"))
    sent = _send(folder, bucket, 1)
    assert (sent.versions, sent.there, sent.current) == (1, 6, 1)
    assert bucket.open(2).require("core/items", "Toys").named == items.named
    assert len(bucket.open(2).periods()) == len(before) + 1
    _is_all_there(folder, bucket.open(3))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", [17, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_killed_at_every_request(folder: Store, bucket: Place, after: bool, step: int) -> None:
    for number in itertools.count(step // 2 + 1, step):
        place = bucket_place(bucket.server, bucket.folder / str(number))  # type: ignore[arg-type]
        with dying(number, after) as died:
            _send(folder, place)
        assert wrong(place.open(1)) == []
        _send(folder, place, 2)
        _is_all_there(folder, place.open(3))
        for _ in range(3):
            place.collect(place.open(4))
        _is_all_there(folder, place.open(5))
        assert contents(place.open(5)) == named_contents(place.open(5))
        assert place.open(5).client.listed(layout.LEASES) == []
        if not died():
            break
    assert number > 30, "the requests were not counted"


def test_a_killed_push_is_not_sent_again(folder: Store, bucket: Place) -> None:
    with dying(60, after=True) as died:
        _send(folder, bucket)
    assert died()
    there = len(bucket.open(1).versions())
    assert there > 0
    assert _send(folder, bucket, 2).there == there


def test_a_bucket_where_others_have_built_is_refused_as_a_whole(folder: Store, bucket: Place) -> None:
    store = bucket.open()
    theirs = make(store, "core/items", "of others")
    with pytest.raises(StoreError, match=r"has other current versions .*core/items@Toys .*--force") as said:
        _send(folder, bucket, 1)
    assert bucket.address in str(said.value)
    assert list(bucket.open(2).versions()) == [theirs.named]
    sent = _send(folder, bucket, 3, force=True)
    assert sent.current == 4
    assert bucket.open(4).require("core/items", "Toys").named == folder.require("core/items", "Toys").named
    told = [(period.since, period.version) for period in bucket.open(4).periods() if period.key == "core/items"]
    assert told == sorted(told)
    assert [version for _, version in told] == [theirs.version, folder.require("core/items", "Toys").version]
    assert theirs.named in bucket.open(4).versions()
    for _ in range(3):
        bucket.collect(bucket.open(5))
    assert theirs.named not in bucket.open(5).versions()


def test_a_bucket_that_is_ahead_or_has_forgotten_a_domain_is_refused(folder: Store, bucket: Place) -> None:
    _send(folder, bucket)
    make(bucket.open(), "raw/metadata", "newer", domain="Mugs")
    with pytest.raises(StoreError, match="raw/metadata@Mugs"):
        _send(folder, bucket, 1)
    bucket.open().forget("Mugs")
    with pytest.raises(StoreError, match=r"raw/metadata@Mugs \(forgotten\)"):
        _send(folder, bucket, 1)


def test_who_builds_while_a_push_is_on_its_way_keeps_what_is_current(
    folder: Store, bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the bucket and the move of CURRENT."""
    store = bucket.open()
    theirs = []
    real: Callable[..., Any] = store.mark
    monkeypatch.setattr(
        store, "mark", lambda *a: (theirs.append(make(bucket.open(1), "core/items", "of others")), real(*a))[1]
    )
    with pytest.raises(StoreError, match="has other current versions"):
        push(folder, store, APART)
    assert bucket.open(2).require("core/items", "Toys").named == theirs[0].named
    assert wrong(bucket.open(2)) == []


def test_the_recipe_that_was_used_last_stays_with_a_version(folder: Store, bucket: Place) -> None:
    """The same bytes from other code: what a run would look for is what was made last, there or here."""
    _send(folder, bucket)
    raw = folder.require("raw/metadata", "Mugs")
    again = {"code_version": "newer", "parameters": {"text": "2"}}
    recipes = []
    for store in (folder, bucket.open()):
        wanted = of(key="raw/metadata", domain="Mugs", **again, sources={"s": str(len(recipes))})
        made, built = store.publish(wanted, writes("raw/metadata Mugs 2"))
        assert built
        assert made.version == raw.version
        recipes.append(wanted.digest)
        _send(folder, bucket, 1)
        assert bucket.open(2).require("raw/metadata", "Mugs").manifest.recipe == recipes[-1]
    assert wrong(bucket.open(2)) == []


def test_a_wrong_clock_of_the_folder_does_not_turn_time_back(folder: Store, bucket: Place) -> None:
    """One that is an hour ahead when the folder is built, and right when a worker builds in the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        real = history.now
        patch.setattr(history, "now", lambda: real().replace("20", "21", 1))  # a century ahead
        make(folder, "core/items", "6")
    _send(folder, bucket)
    make(bucket.open(1), "core/items", "7")
    told = [
        period.since for period in bucket.open(2).periods() if (period.key, period.domain) == ("core/items", "Toys")
    ]
    assert len(told) == 4
    assert told == sorted(told)


# Folders that cannot be pushed


def test_an_empty_folder_is_an_error(tmp_path: Path, bucket: Place) -> None:
    with pytest.raises(StoreError, match="has no artifacts to push"):
        _send(Store(tmp_path / "empty"), bucket)
    assert terms.read(bucket.open().client) is None


def test_damaged_bytes_are_not_pushed(folder: Store, bucket: Place) -> None:
    items = folder.require("core/items", "Toys")
    overwrite(items.path / "items.txt", b"core/items Toys X")
    with pytest.raises(StoreError, match=r"core/items@Toys:\w+ is not pushed: .* has the sha256"):
        _send(folder, bucket)
    assert wrong(bucket.open(1)) == []
    assert bucket.open(1).pointed() == {}
    folder.mark(items.named, "damaged")
    with pytest.raises(StoreError, match=r"nothing was pushed: .*found it damaged"):
        _send(folder, bucket)
    folder.publish(*_as_made(items))
    _send(folder, bucket)
    _is_all_there(folder, bucket.open(2))


def _as_made(items: Any) -> tuple[Any, Any]:
    return of(code_version="code", inputs=items.manifest.inputs, parameters={"text": "2"}), writes("core/items Toys 2")


def test_a_version_whose_inputs_are_gone_is_not_pushed(folder: Store, bucket: Place) -> None:
    raw = folder.require("raw/metadata", "Toys")
    make(folder, "raw/metadata", "3")
    raw.path.rename(folder.root / "away")
    with pytest.raises(StoreError, match=rf"raw/metadata@Toys:{raw.version} is not in .*unpin"):
        _send(folder, bucket)
    assert bucket.open(1).versions() == {}


def test_a_folder_that_may_only_be_read_is_pushed(
    folder: Store, bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise ReadOnlyError("the folder cannot be written to")

    monkeypatch.setattr(folder.staging, "new", refuse)
    monkeypatch.setattr(folder.staging, "lock", refuse)
    _send(folder, bucket)
    _is_all_there(folder, bucket.open(1))
