"""What every artifact store does, wherever it keeps its versions: in a folder, and in a bucket."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.stores import Place, make, of, writes
from warehouse.artifacts.artifact import Artifact
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.lineage import Lineage, named


def _collected(place: Place, store: Any) -> list[str]:
    """The names of the versions that go, once all periods are over."""
    if place.kind == "folder":
        return [leftover.name for leftover in store.collect() if leftover.kind == "version"]
    return [leftover.name for leftover in place.collect(store) if leftover.kind == "version"]


def test_what_was_published_is_current_for_everybody(place: Place) -> None:
    store = place.open()
    assert store.current("core/items", "Toys") is None
    assert store.whole("core/items", "Toys") is None
    assert not store.is_published("core/items", "Toys")
    artifact, built = store.publish(of(), writes("a"))
    assert built
    for worker in (0, 1):
        found = place.open(worker).require("core/items", "Toys")
        assert found == artifact or place.kind == "bucket"
        assert (found.named, found.manifest) == (artifact.named, artifact.manifest)
        assert found.file("items.txt").read_text() == "a"
        assert (found.path / "items.txt").read_text() == "a"
        assert found.manifest.summary == {"rows": 1}
        assert place.open(worker).whole("core/items", "Toys")
        assert place.open(worker).is_published("core/items", "Toys")
        assert [one.named for one in place.open(worker).all_current()] == [artifact.named]
    assert store.sweep() == 0


def test_the_same_recipe_is_not_built_twice(place: Place) -> None:
    first, _ = place.open().publish(of(), writes("a"))
    again, built = place.open(1).publish(of(), writes("never written"))
    assert not built
    assert again.named == first.named
    assert again.file("items.txt").read_text() == "a"


def test_going_back_to_an_old_recipe_finds_its_version(place: Place) -> None:
    store = place.open()
    first, _ = store.publish(of(parameters={"k": 5}), writes("five"))
    store.publish(of(parameters={"k": 3}), writes("three"))
    _, built = store.publish(of(parameters={"k": 5}), writes("never written"))
    assert not built
    assert store.require("core/items", "Toys").version == first.version


def test_the_same_bytes_of_another_recipe_are_the_same_version(place: Place) -> None:
    store = place.open()
    first, _ = store.publish(of(), writes("a"))
    second, built = place.open(1).publish(of(code_version="c2"), writes("a"))
    assert built
    assert second.version == first.version
    assert store.require("core/items", "Toys").manifest.code_version == "c2"
    assert store.publish(of(code_version="c2"), writes("never written"))[1] is False


def test_identity_by_recipe_ignores_the_bytes(place: Place) -> None:
    artifact, _ = place.open().publish(of(), writes("a"), identity="recipe")
    assert artifact.version == of().digest


def test_a_missing_artifact_is_named_with_what_builds_it(place: Place) -> None:
    with pytest.raises(StoreError, match=r"core/items of Toys has not been built; `mmm4rec run Toys`"):
        place.open().require("core/items", "Toys")
    with pytest.raises(StoreError, match="no domain name"):
        place.open().current("core/items", "../x")
    with pytest.raises(StoreError, match="no artifact key"):
        place.open().current("items", "Toys")


@pytest.mark.parametrize("error", [ValueError("bad input"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_build_leaves_what_was_there(place: Place, error: BaseException) -> None:
    store = place.open()
    before, _ = store.publish(of(), writes("a"))

    def build(out: Path) -> dict[str, Any]:
        (out / "half.txt").write_text("half")
        raise error

    with pytest.raises(StoreError if isinstance(error, OSError) else type(error)):
        store.publish(of(code_version="c2"), build)
    assert store.require("core/items", "Toys").named == before.named
    assert list(store.versions()) == [before.named]


def test_a_build_that_writes_what_no_manifest_may_name_is_refused(place: Place) -> None:
    def build(out: Path) -> dict[str, Any]:
        (out / "a\nb").touch()
        return {}

    with pytest.raises(StoreError, match="no plain file name"):
        place.open().publish(of(), build)
    assert place.open().all_current() == []


@pytest.mark.parametrize("data", [None, b"", b"abX", b"longer than it was"])
def test_damage_is_found_marked_and_built_again(place: Place, data: bytes | None) -> None:
    store = place.open()
    artifact, _ = store.publish(of(), writes("abc", other="def"))
    assert store.verify(artifact) == []
    assert store.inspect(artifact) == []
    place.put(artifact, "items.txt", data)
    (problem,) = place.open(1).verify(artifact)
    assert "items.txt" in problem
    resized = data is None or len(data) != 3
    assert (place.open(1).whole("core/items", "Toys") is None) is resized
    assert store.mark(artifact.named, "damaged")
    assert store.whole("core/items", "Toys") is None
    assert store.marked("damaged") == [artifact.named]
    assert "core/items", "Toys" in store.damaged()
    assert store.all_current() == []
    again, built = place.open(1).publish(of(), writes("abc", other="def"))
    assert built
    assert again.named == artifact.named
    assert place.open(2).verify(again) == []
    assert place.open(2).require("core/items", "Toys").file("items.txt").read_text() == "abc"
    assert store.marked("damaged") == []
    assert store.damaged() == {}


@pytest.mark.parametrize(
    "text", ["{", "null", "[]", pytest.param("[" * 100_000, id="deep"), '{"key": ', "\x00", '{"format": 99}']
)
def test_a_manifest_that_is_none_is_built_again(place: Place, text: str) -> None:
    store = place.open()
    artifact, _ = store.publish(of(), writes("a"))
    place.put_manifest(artifact, text.encode())
    store = place.open(1)
    with pytest.raises(StoreError, match=r"no readable manifest .*mmm4rec run Toys"):
        store.require("core/items", "Toys")
    assert store.whole("core/items", "Toys") is None
    assert store.versions() == {artifact.named: None}
    assert "no readable manifest" in store.damaged()["core/items", "Toys"]
    assert "no readable manifest" in store.verify(artifact)[0]
    again, built = store.publish(of(), writes("a"))
    assert built
    assert store.verify(again) == []
    assert store.require("core/items", "Toys").named == artifact.named


@pytest.mark.parametrize("said", ["", "../../../etc", "v=1", "\xff\xfe\x00", '{"version": "x"}'])
def test_a_current_that_names_nothing_is_an_error_until_the_next_publication(place: Place, said: str) -> None:
    store = place.open()
    artifact, _ = store.publish(of(), writes("a"))
    other = make(store, "core/items", "other", domain="Mugs")
    place.put_current("core/items", "Toys", said.encode("latin-1"))
    with pytest.raises(StoreError, match=r"names no version, but .*mmm4rec run Toys"):
        store.current("core/items", "Toys")
    assert store.is_published("core/items", "Toys")
    assert store.whole("core/items", "Toys") is None
    assert [one.named for one in store.all_current()] == [other.named]
    assert list(store.damaged()) == [("core/items", "Toys")]
    assert store.pointed().keys() == {("core/items", "Toys"), ("core/items", "Mugs")}
    assert _collected(place, store) == []
    again, built = store.publish(of(), writes("never written"))
    assert not built
    assert again.named == artifact.named
    assert store.require("core/items", "Toys").named == artifact.named


def test_a_forgotten_domain_is_not_current_and_its_versions_stay(place: Place) -> None:
    store = place.open()
    toys, _ = store.publish(of(), writes("a"))
    mugs = make(store, "core/items", "b", domain="Mugs")
    assert store.forget("Toys") == [toys.named]
    assert store.forget("Toys") == []
    assert store.current("core/items", "Toys") is None
    assert not store.is_published("core/items", "Toys")
    assert [one.named for one in store.all_current()] == [mugs.named]
    assert store.pointed() == {("core/items", "Mugs"): mugs.named}
    assert store.versions().keys() == {toys.named, mugs.named}
    again, built = store.publish(of(), writes("never written"))
    assert (again.named, built) == (toys.named, False)


def test_a_broken_current_can_be_forgotten(place: Place) -> None:
    store = place.open()
    make(store, "core/items", "a")
    place.put_current("core/items", "Toys", b"nothing")
    assert store.forget("Toys") == [("core/items", "Toys", "nothing" if place.kind == "folder" else "")]
    assert store.damaged() == {}


def test_periods_tell_what_was_current_when(place: Place) -> None:
    store = place.open()
    first, second = make(store, "core/items", "1"), make(store, "core/items", "2")
    make(place.open(1), "core/items", "1")
    store.forget("Toys")
    periods = [period for period in store.periods() if period.key == "core/items"]
    assert [period.version for period in periods] == [first.version, second.version, first.version]
    assert [period.until for period in periods] == [*(period.since for period in periods[1:]), periods[-1].until]
    assert periods[-1].until is not None
    assert [period.since for period in periods] == sorted(period.since for period in periods)
    assert periods[0].summary == first.manifest.summary


def test_a_mark_is_of_a_version_that_exists(place: Place) -> None:
    store = place.open()
    artifact, _ = store.publish(of(), writes("a"))
    assert store.mark(artifact.named, "pin")
    assert store.mark(artifact.named, "pin")
    assert store.marked("pin") == [artifact.named]
    assert store.mark(artifact.named, "pin", on=False)
    assert store.marked("pin") == []
    absent = ("core/items", "Toys", "0" * 16)
    for on in (True, False):
        assert not store.mark(absent, "pin", on)
        assert not store.mark(absent, "damaged", on)
    assert store.marked("pin") == store.marked("damaged") == []


def test_an_exposed_file_is_swapped_under_its_readers(place: Place) -> None:
    store = place.open()
    old, _ = store.publish(of(), writes("old"))
    shown = store.expose(old, "items.txt")
    assert shown == place.shown() / "items.txt"
    with shown.open() as reader:
        new, _ = store.publish(of(code_version="c2"), writes("new"))
        assert not store.exposes(new, "items.txt")
        store.expose(new, "items.txt")
        assert reader.read() == "old"
    store.expose(old, "items.txt")  # by a slower process, which published first
    assert shown.read_text() == "new"
    assert store.exposes(new, "items.txt")
    other = place.open(1)
    assert other.expose(new, "items.txt").read_text() == "new"
    shown.unlink()
    assert not store.exposes(new, "items.txt")


def test_where_something_is_can_be_told(place: Place) -> None:
    store = place.open()
    artifact, _ = store.publish(of(), writes("a"))
    assert store.where("core/items", "Toys").endswith("/core/items/domain=Toys")
    assert store.where(*artifact.named).endswith(f"/core/items/domain=Toys/v={artifact.version}")
    assert store.where("core/items", "Toys").startswith(place.address)


# What nobody needs


def test_only_what_is_current_stays_and_the_history(place: Place) -> None:
    store = place.open()
    chains = []
    for number in "123":
        raw = make(store, "raw/metadata", number)
        chains.append([raw.named, make(store, "core/items", number, raw).named])
    before = set(store.versions())
    store.collect(dry_run=True)
    assert set(store.versions()) == before
    gone = _collected(place, place.open(1))
    assert sorted(gone) == sorted(named(version) for chain in chains[:2] for version in chain)
    for chain in chains[:2]:  # what was made before what it was made from
        assert gone.index(named(chain[1])) < gone.index(named(chain[0]))
    assert set(store.versions()) == set(chains[2])
    assert _collected(place, store) == []
    assert len([period for period in store.periods() if period.key == "core/items"]) == 3
    current = place.open(2).require("core/items", "Toys")
    assert place.open(2).verify(current) == []
    again, built = store.publish(of(parameters={"text": "1"}, code_version="code"), writes("core/items Toys 1"))
    assert built
    assert place.open(3).verify(again) == []


def test_a_pin_keeps_all_that_the_pinned_was_made_from(place: Place) -> None:
    store = place.open()
    chains = []
    for number in "12":
        raw = make(store, "raw/metadata", number)
        chains.append([raw.named, make(store, "core/items", number, raw).named])
    assert store.mark(chains[0][1], "pin")
    assert _collected(place, store) == []
    store.mark(chains[0][1], "pin", on=False)
    assert sorted(_collected(place, store)) == sorted(map(named, chains[0]))
    assert not store.mark(chains[0][1], "pin")
    assert store.marked("pin") == []


def test_what_is_held_stays_with_all_that_it_was_made_from(place: Place) -> None:
    store = place.open()
    raw = make(store, "raw/metadata", "1")
    old = make(store, "core/items", "1", raw)
    with place.open(1).holding([("core/items", "Toys")]) as (held,):
        assert held.named == old.named
        make(store, "core/items", "2", make(store, "raw/metadata", "2"))
        for _ in range(3):
            store.collect()
            place.later(300)
        assert set(store.versions()) >= {raw.named, old.named}
        assert held.file("items.txt").read_text() == "core/items Toys 1"
        assert store.building() == set()
        place.open(1).publish(of(code_version="builds"), _looks(store, of(code_version="builds").digest))
    make(store, "core/items", "2", make(store, "raw/metadata", "2"))
    place.later(3600)
    gone = _collected(place, store)
    assert {named(raw.named), named(old.named)} <= {*gone}


def _looks(store: Any, digest: str) -> Callable[[Path], dict[str, Any]]:
    def build(out: Path) -> dict[str, Any]:
        assert store.building() == {digest}
        return writes("x")(out)

    return build


def test_holding_what_was_never_built_is_an_error(place: Place) -> None:
    with pytest.raises(StoreError, match="has not been built"), place.open().holding([("core/items", "Toys")]):
        raise AssertionError("it was held")


def test_a_damaged_version_that_nothing_needs_goes_with_its_mark(place: Place) -> None:
    store = place.open()
    old, _ = make(store, "core/items", "1"), make(store, "core/items", "2")
    place.put_manifest(old, b"{")
    store.mark(old.named, "damaged")
    assert _collected(place, store) == [named(old.named)]
    assert store.marked("damaged") == []


def test_manifests_that_contradict_each_other_stop_a_collection(place: Place) -> None:
    store = place.open()
    first = make(store, "raw/metadata", "1")
    second = make(store, "core/items", "1", first)
    text = _manifest(place, first).replace('"inputs": {}', f'"inputs": {{"core/items@Toys": "{second.version}"}}')
    place.put_manifest(first, text.encode())
    with pytest.raises(StoreError, match="contradict"):
        place.open(1).collect()
    assert len(place.open(1).versions()) == 2


def _manifest(place: Place, artifact: Artifact) -> str:
    if place.kind == "folder":
        return (artifact.place / "manifest.json").read_text()
    from warehouse.artifacts.objects import layout

    return str(place.open().client.read(layout.versioned(artifact.named))[0].decode())


# At once


def _at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each gives; all begin at the same time."""
    barrier, results = threading.Barrier(len(work)), [None] * len(work)

    def run(number: int, one: Callable[[], Any]) -> None:
        barrier.wait(60)
        try:
            results[number] = one()
        except BaseException as error:
            results[number] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("identity", ["content", "recipe"])
def test_two_that_build_one_recipe_with_other_bytes_end_with_one_of_them(place: Place, identity: Any) -> None:
    both = threading.Barrier(2)

    def publish(worker: int) -> Callable[[], Artifact]:
        def build(out: Path) -> dict[str, Any]:
            both.wait(60)  # both are building now
            return writes(f"by {worker}", other="the same")(out)

        return lambda: place.open(worker).publish(of(), build, identity)[0]

    made = _at_once(publish(0), publish(1))
    for worker, artifact in enumerate(made):
        assert place.open(worker).verify(artifact) == []
        text = artifact.file("items.txt").read_text()
        assert text == place.open(5).versions()[artifact.named].file("items.txt").read_text()
    assert len({artifact.version for artifact in made}) == (1 if identity == "recipe" else 2)
    assert place.open(3).require("core/items", "Toys").named in {artifact.named for artifact in made}


def test_two_that_publish_the_same_bytes_make_one_version(place: Place) -> None:
    both = threading.Barrier(2)

    def publish(worker: int) -> Callable[[], Artifact]:
        def build(out: Path) -> dict[str, Any]:
            both.wait(60)
            return writes("same")(out)

        return lambda: place.open(worker).publish(of(code_version=f"c{worker}"), build)[0]

    first, second = _at_once(publish(0), publish(1))
    assert first.named == second.named
    assert len(place.open(2).versions()) == 1
    assert place.open(2).verify(first) == []


def test_a_reader_sees_a_whole_version_while_it_is_swapped(place: Place) -> None:
    make(place.open(), "core/items", "0")
    stop = threading.Event()

    def write() -> None:
        for number in range(12):
            make(place.open(), "core/items", str(number % 3))
        stop.set()

    def read() -> int:
        seen = 0
        while not stop.is_set() or not seen:
            found = place.open(1).require("core/items", "Toys")
            assert found.file("items.txt").read_text() in {f"core/items Toys {number}" for number in range(3)}
            seen += 1
        return seen

    _, seen = _at_once(write, read)
    assert seen
    assert _has_its_inputs(place.open(2))


def _has_its_inputs(store: Any) -> bool:
    lineage = Lineage.of(store)
    return all(read in lineage.versions for version in lineage.versions for read in lineage.inputs(version))
