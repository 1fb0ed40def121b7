"""What one process does exactly between two requests of another: the moments that the decision on buckets speaks of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import obstore
import pytest

from tests.warehouse.stores import Place, make
from tests.warehouse.test_bucket_faults import contents, named_contents, wrong
from warehouse.artifacts.errors import DamagedError
from warehouse.artifacts.objects import doom


@contextmanager
def before(part: str, act: Callable[[], Any], data: bytes = b"") -> Iterator[None]:
    """Right before the first write of an object whose name has that part, and whose bytes have those, `act` happens."""
    real, done = obstore.put, []

    def put(store: Any, key: str, sent: Any, **named: Any) -> Any:
        if not done and part in key and (not isinstance(sent, bytes) or data in sent):
            done.append(key)
            act()
        return real(store, key, sent, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put", put)
        yield
    assert done, f"nothing that is named {part} was written"


@pytest.fixture
def old(bucket: Place) -> Any:
    """A version that nobody needs, and that the next collection would remove."""
    store = bucket.open()
    made = make(store, "core/items", "1", make(store, "raw/metadata", "1"))
    make(store, "core/items", "2", make(store, "raw/metadata", "2"))
    store.collect()
    bucket.later()
    return made


def _all_is_well(bucket: Place) -> None:
    store = bucket.open(9)
    assert wrong(store) == []
    for _ in range(3):
        bucket.collect(store)
    assert wrong(store) == []
    assert contents(store) == named_contents(store)


def test_a_version_that_is_made_current_before_it_is_swapped_stays(bucket: Place, old: Any) -> None:
    with before("doomed=", lambda: _made_again(bucket.open(2)), b"removing"):
        assert [one.kind for one in bucket.open(1).collect()] == []
    assert bucket.open(3).require("core/items", "Toys").named == old.named
    _all_is_well(bucket)


def test_a_version_that_is_wanted_while_it_is_removed_is_built_again(bucket: Place, old: Any) -> None:
    with before("manifest.json", lambda: _made_again(bucket.open(2))):
        bucket.open(1).collect()
    assert bucket.open(3).require("core/items", "Toys").named == old.named
    assert bucket.open(3).require("core/items", "Toys").file("items.txt").read_text() == "core/items Toys 1"
    assert wrong(bucket.open(3)) == []


def test_a_collection_that_goes_on_much_later_removes_nothing_that_is_there_again(bucket: Place, old: Any) -> None:
    def meanwhile() -> None:
        bucket.later()
        bucket.open(2).collect()
        bucket.later()
        bucket.open(2).collect()
        _made_again(bucket.open(2))
        bucket.later()
        bucket.open(2).collect()

    with before("manifest.json", meanwhile):
        bucket.open(1).collect()
    assert bucket.open(3).require("core/items", "Toys").version == old.version
    _all_is_well(bucket)


def test_what_is_pinned_while_it_is_collected_is_there_or_said_to_be_gone(bucket: Place, old: Any) -> None:
    pinned = []
    with before("doomed=", lambda: pinned.append(bucket.open(2).mark(old.named, "pin")), b"removing"):
        bucket.open(1).collect()
    assert pinned == [True]
    assert old.named in bucket.open(3).versions()
    assert wrong(bucket.open(3)) == []
    bucket.open(3).mark(old.named, "pin", on=False)
    bucket.collect(bucket.open(3))
    assert not bucket.open(3).mark(old.named, "pin")


def test_who_finds_a_recipe_while_its_version_goes_builds_again(bucket: Place, old: Any) -> None:
    """The collection comes between the recipe that was found and CURRENT that is moved."""

    def meanwhile() -> None:
        store = bucket.open(1)
        state = doom.look(store.client, old.named)
        found = store._describe(old.named)
        assert found
        doomed = doom.condemn(store.client, old.named, state)
        assert doomed
        removing = doom.condemn(store.client, old.named, doomed, found[1])
        assert removing
        doom.finish(store.client, old.named, removing)

    with before("core/items/domain=Toys/CURRENT", meanwhile):
        made = _made_again(bucket.open(2))
    assert made.version == old.version
    assert bucket.open(3).require("core/items", "Toys").file("items.txt").read_text() == "core/items Toys 1"
    assert wrong(bucket.open(3)) == []


def test_a_publication_that_stops_for_days_uploads_again(bucket: Place) -> None:
    def meanwhile() -> None:
        bucket.later()
        (leftover,) = bucket.open(1).collect()
        assert leftover.kind == "files"

    with before("manifest.json", meanwhile):
        made = make(bucket.open(), "core/items", "1")
    assert bucket.open(2).verify(made) == []
    assert len(contents(bucket.open(2))) == 1


def test_a_draft_is_no_version_and_keeps_its_objects(bucket: Place) -> None:
    seen = []

    def meanwhile() -> None:
        store = bucket.open(1)
        bucket.later(12 * 3600)
        seen.append((store.versions(), store.current("core/items", "Toys"), len(contents(store))))
        bucket.later(16 * 3600)  # the object is now older than the period, and the draft keeps it
        assert [one.kind for one in store.collect()] == ["doomed"]

    with before("recipe=", meanwhile):
        made = make(bucket.open(), "core/items", "1")
    assert seen == [({}, None, 1)]
    assert bucket.open(2).verify(made) == []
    _all_is_well(bucket)
    assert bucket.open(2).require("core/items", "Toys").named == made.named


def test_two_histories_that_move_at_once_lose_no_line(bucket: Place) -> None:
    make(bucket.open(), "core/items", "0")
    with before("CURRENT", lambda: make(bucket.open(1), "core/items", "1")):
        make(bucket.open(2), "core/items", "2")
    assert [period.summary for period in bucket.open(3).periods()] == [{"rows": 17}] * 3
    assert bucket.open(3).require("core/items", "Toys").file("items.txt").read_text() == "core/items Toys 2"


def test_a_reader_whose_version_was_built_again_reads_the_new_objects(bucket: Place) -> None:
    made = make(bucket.open(), "core/items", "1")
    reader = bucket.open(1).require("core/items", "Toys")
    bucket.open().mark(made.named, "damaged")
    make(bucket.open(), "core/items", "1")
    for _ in range(3):
        bucket.collect(bucket.open())
    assert reader.file("items.txt").read_text() == "core/items Toys 1"
    other = bucket.open(2).require("core/items", "Toys")
    make(bucket.open(), "core/items", "2")
    for _ in range(3):
        bucket.collect(bucket.open())
    with pytest.raises(DamagedError, match="missing or damaged"):
        other.file("items.txt")


def _made_again(store: Any) -> Any:
    """The old version, as a run makes it: it holds what it reads."""
    make(store, "raw/metadata", "1")
    with store.holding([("raw/metadata", "Toys")]) as (raw,):
        return make(store, "core/items", "1", raw)
