"""The artifact store: whole versions or none, one version for the same bytes, nothing left by a failure."""

import errno
import hashlib
import json
import multiprocessing
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.warehouse.work import damage, leave, overwrite
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.store import ALL, Artifact, Recipe, Store, check_domain, recipe


def _recipe(**changes: Any) -> Recipe:
    fields = {
        "key": "core/items",
        "domain": "Toys",
        "code_version": "c1",
        "inputs": {},
        "sources": {},
        "parameters": {},
    }
    return Recipe(**{**fields, **changes})


def _writes(text: str) -> Callable[[Path], dict[str, Any]]:
    def build(out: Path) -> dict[str, Any]:
        (out / "items.txt").write_text(text)
        return {"rows": len(text)}

    return build


def test_what_was_published_is_current(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.current("core/items", "Toys") is None
    artifact, built = store.publish(_recipe(), _writes("a"))
    assert built
    current = store.current("core/items", "Toys")
    assert current == artifact
    assert (artifact.path / "items.txt").read_text() == "a"
    assert artifact.manifest.summary == {"rows": 1}
    assert not list((tmp_path / ".staging").iterdir())


def test_the_same_recipe_is_not_built_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, _ = store.publish(_recipe(), _writes("a"))
    again, built = store.publish(_recipe(), _writes("never written"))
    assert not built
    assert again == first


def test_going_back_to_an_old_recipe_finds_its_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, _ = store.publish(_recipe(parameters={"k": 5}), _writes("five"))
    store.publish(_recipe(parameters={"k": 3}), _writes("three"))
    _, built = store.publish(_recipe(parameters={"k": 5}), _writes("never written"))
    assert not built
    current = store.current("core/items", "Toys")
    assert current is not None
    assert current.version == first.version


def test_the_same_bytes_from_other_code_are_the_same_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, _ = store.publish(_recipe(), _writes("a"))
    second, built = store.publish(_recipe(code_version="c2"), _writes("a"))
    assert built
    assert second.version == first.version
    current = store.current("core/items", "Toys")
    assert current is not None
    assert current.manifest.code_version == "c2"


def test_identity_by_recipe_ignores_the_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"), identity="recipe")
    assert artifact.version == _recipe().digest


def test_a_file_that_went_missing_is_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    overwrite(artifact.path / "items.txt", "cut short by a full disk")
    again, built = store.publish(_recipe(), _writes("a"))
    assert built
    assert (again.path / "items.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError("bad input"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_build_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    store = Store(tmp_path)
    before, _ = store.publish(_recipe(), _writes("a"))

    def build(out: Path) -> dict[str, Any]:
        (out / "half.txt").write_text("half")
        raise error

    expected = StoreError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        store.publish(_recipe(code_version="c2"), build)
    assert store.current("core/items", "Toys") == before
    assert not list((tmp_path / ".staging").iterdir())
    assert [p.name for p in before.path.parent.glob("v=*")] == [before.path.name]


def _publish(root: Path, text: str) -> None:
    Store(root).publish(_recipe(parameters={"text": text}), _writes(text))


@pytest.mark.long
def test_eight_processes_publish_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_publish, args=(tmp_path, f"text {n % 3}")) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    current = Store(tmp_path).current("core/items", "Toys")
    assert current is not None
    assert (current.path / "items.txt").read_text() in {"text 0", "text 1", "text 2"}


@given(st.text(max_size=12))
def test_a_domain_name_cannot_leave_its_folder(name: str) -> None:
    try:
        check_domain(name)
    except StoreError:
        return
    assert name == ALL or (name.isascii() and name.replace("_", "a").isalnum())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "é", "x" * 65, "1st", "a'b", "a\n"])
def test_hostile_domain_names_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="no domain name"):
        check_domain(name)


def test_a_recipe_knows_its_inputs_by_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    item, _ = store.publish(_recipe(), _writes("a"))
    made = recipe("core/interactions", "Toys", "c", [item], {"raw.csv": "00"}, {"k": 5})
    assert made.inputs == {"core/items@Toys": item.version}
    assert made.digest != recipe("core/interactions", "Toys", "c", [item], {"raw.csv": "01"}, {"k": 5}).digest


def test_an_exposed_file_is_swapped_under_its_readers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, _ = store.publish(_recipe(), _writes("old"))
    shown = store.expose(old, "items.txt")
    with shown.open() as reader:
        new, _ = store.publish(_recipe(code_version="c2"), _writes("new"))
        store.expose(new, "items.txt")
        assert reader.read() == "old"
    assert shown.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".staging", "core", "items.txt"]


def test_a_broken_manifest_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    overwrite(artifact.path / "manifest.json", "{")
    with pytest.raises(StoreError, match="delete that folder"):
        store.current("core/items", "Toys")


def test_manifest_is_json_with_hashes(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).publish(_recipe(), _writes("a"))
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["files"]["items.txt"]["bytes"] == 1
    assert len(manifest["files"]["items.txt"]["sha256"]) == 64


def _spoil_manifest(artifact: Artifact, **changes: Any) -> None:
    path = artifact.path / "manifest.json"
    overwrite(path, json.dumps({**json.loads(path.read_text()), **changes}))


_FACTS = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize("said", ["", "../../../etc", "v=1", "0123456789abcdeg", "a" * 10_000, "x\ny", "\0"])
def test_a_current_from_elsewhere_leads_nowhere_else(tmp_path: Path, said: str) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    (artifact.path.parent / "CURRENT").write_text(said)
    with pytest.raises(StoreError, match=r"names no version, but .*mmm4rec run Toys"):
        store.current("core/items", "Toys")
    assert store.all_current() == []
    assert "names no version" in store.damaged()["core/items", "Toys"]
    assert store.whole("core/items", "Toys") is None
    assert list(damage(store)) == ["core/items@Toys"]
    assert damage(store)["core/items@Toys"]
    again, built = store.publish(_recipe(), _writes("never written"))
    assert not built
    assert store.current("core/items", "Toys") == again


def test_a_current_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    pointer = artifact.path.parent / "CURRENT"
    pointer.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="names no version"):
        store.current("core/items", "Toys")
    pointer.unlink()
    pointer.mkdir()
    with pytest.raises(StoreError, match=r"CURRENT cannot be read.*delete it"):
        store.current("core/items", "Toys")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../../../secret": _FACTS}},
        {"files": {"/etc/passwd": _FACTS}},
        {"files": {"..": _FACTS}},
        {"files": {"a\\b": _FACTS}},
        {"files": {"a\nb": _FACTS}},
        {"files": {"manifest.json": _FACTS}},
        {"files": {"x" * 300: _FACTS}},
        {"files": {"": _FACTS}},
        {"files": {"a": {"sha256": "0" * 64}}},
        {"files": {"a": {**_FACTS, "bytes": -1}}},
        {"files": {"a": {**_FACTS, "rows": "many"}}},
        {"files": {"a": {**_FACTS, "sha256": 5}}},
        {"files": {"a": None}},
        {"files": ["items.txt"]},
        {"inputs": {"../x@Toys": "0" * 16}},
        {"inputs": {"raw/ratings@../x": "0" * 16}},
        {"inputs": {"raw/ratings@Toys": "../x"}},
        {"inputs": {"raw/ratings": "0" * 16}},
        {"sources": {"x": None}},
        {"domain": "Pots"},
        {"key": "core/sequences"},
        {"version": "../../../../etc"},
        {"recipe": None},
        {"summary": "none"},
    ],
)
def test_a_manifest_from_elsewhere_is_checked(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    _spoil_manifest(artifact, **changes)
    with pytest.raises(StoreError, match=r"no readable manifest .*mmm4rec run Toys.*or delete that folder") as said:
        store.current("core/items", "Toys")
    assert store.damaged() == {("core/items", "Toys"): str(said.value)}
    assert store.all_current() == []
    assert "no readable manifest" in store.verify(artifact)[0]
    _, built = store.publish(_recipe(), _writes("a"))
    assert built
    assert damage(store) == {"core/items@Toys": []}


@pytest.mark.parametrize("text", ["", "null", "[]", pytest.param("[" * 100_000, id="deep"), '{"key": ', "\x00"])
def test_a_manifest_that_is_no_object_is_built_again(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    overwrite(artifact.path / "manifest.json", text)
    with pytest.raises(StoreError, match="no readable manifest"):
        store.require("core/items", "Toys")
    store.publish(_recipe(), _writes("a"))
    again = store.require("core/items", "Toys")
    assert again.version == artifact.version  # made at another time
    assert store.verify(again) == []


def test_folders_that_are_no_artifacts_are_named(tmp_path: Path) -> None:
    for folder in ("core/items/domain=a b", "My notes/x/domain=Toys"):
        stray = tmp_path / folder
        stray.mkdir(parents=True)
        (stray / "CURRENT").write_text("0" * 16)
        (said,) = Store(tmp_path).damaged().values()
        assert re.search(r"no domain name|no artifact key", said)
        assert Store(tmp_path).pointed() == {}
        (stray / "CURRENT").unlink()


def _damage_manifest(artifact: Artifact) -> None:
    (artifact.path / "manifest.json").write_text("{")


def _lose_a_file(artifact: Artifact) -> None:
    (artifact.path / "items.txt").unlink()


def _delete(artifact: Artifact) -> None:
    shutil.rmtree(artifact.path)


def _hide_current(artifact: Artifact) -> None:
    pointer = artifact.path.parent / "CURRENT"
    pointer.unlink()
    pointer.mkdir()


@pytest.mark.parametrize("damage", [_damage_manifest, _lose_a_file, _delete, _hide_current])
def test_what_is_damaged_is_left_out_and_stops_nobody(tmp_path: Path, damage: Callable[[Artifact], None]) -> None:
    store = Store(tmp_path)
    damaged, _ = store.publish(_recipe(), _writes("a"))
    other, _ = store.publish(Recipe("core/items", "Mugs", "code", {}, {}, {}), _writes("b"))
    damage(damaged)
    assert store.all_current() == [other]
    assert store.damaged().keys() == {("core/items", "Toys")}
    assert store.pointed().keys() == {("core/items", "Toys"), ("core/items", "Mugs")}
    assert store.is_published("core/items", "Toys")
    assert len(store.forget("Toys")) == 1
    assert store.damaged() == {}


def test_a_forgotten_domain_is_not_current_and_its_versions_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    toys, _ = store.publish(_recipe(), _writes("a"))
    mugs, _ = store.publish(Recipe("core/items", "Mugs", "code", {}, {}, {}), _writes("b"))
    assert store.forget("Toys") == [toys.named]
    assert store.forget("Toys") == []
    assert not store.is_published("core/items", "Toys")
    assert store.all_current() == [mugs]
    assert store.versions().keys() == {toys.named, mugs.named}
    assert store.publish(_recipe(), _writes("never written")) == (toys, False)


def test_verify_finds_every_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("abc"))
    file = artifact.path / "items.txt"
    assert store.verify(artifact) == []
    assert store.whole("core/items", "Toys") == artifact

    overwrite(file, "abd")
    assert "items.txt has the sha256" in store.verify(artifact)[0]
    file.write_text("ab")
    assert store.verify(artifact) == [f"{file} has 2 bytes, not 3"]
    assert store.whole("core/items", "Toys") is None
    file.unlink()
    assert store.verify(artifact) == [f"{file} is missing"]
    (tmp_path / "elsewhere").write_text("abc")
    file.symlink_to(tmp_path / "elsewhere")
    assert store.verify(artifact) == [f"{file} is a link, no file"]
    assert store.whole("core/items", "Toys") is None
    file.unlink()
    file.write_text("abc")
    (artifact.path / "more.txt").touch()
    assert store.verify(artifact) == [f"{artifact.path / 'more.txt'} is not in the manifest"]
    (artifact.path / "more.txt").unlink()
    assert damage(store) == {"core/items@Toys": []}

    # One who changes a file and the manifest alike is found by the version.
    file.write_text("abd")
    digest = hashlib.sha256(b"abd").hexdigest()
    _spoil_manifest(artifact, files={"items.txt": {"sha256": digest, "bytes": 3}})
    assert "neither the hash of its files" in store.verify(artifact)[0]
    (artifact.path / "manifest.json").unlink()
    assert "no readable manifest" in store.verify(artifact)[0]


def test_what_a_dead_process_left_is_swept_and_the_living_are_spared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead, never_locked = leave(tmp_path), leave(tmp_path)
    shutil.rmtree(never_locked / "files")
    (never_locked / "lock").unlink()

    def build(out: Path) -> dict[str, Any]:
        assert not dead.exists()
        assert Store(tmp_path).sweep() == 0
        Store(tmp_path).publish(_recipe(domain="Pots"), _writes("b"))
        (out / "items.txt").write_text("still mine")
        return {}

    artifact, _ = store.publish(_recipe(), build)
    assert (artifact.path / "items.txt").read_text() == "still mine"
    assert not list((tmp_path / ".staging").iterdir())


def test_leftovers_are_swept_also_where_nothing_is_built(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish(_recipe(), _writes("a"))
    leave(tmp_path)
    _, built = store.publish(_recipe(), _writes("never written"))
    assert not built
    assert not list((tmp_path / ".staging").iterdir())


def test_what_is_exposed_is_the_current_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, _ = store.publish(_recipe(), _writes("old"))
    new, _ = store.publish(_recipe(code_version="c2"), _writes("new"))
    assert not store.exposes(new, "items.txt")
    store.expose(old, "items.txt")  # by a slower process, which published first
    assert (tmp_path / "items.txt").read_text() == "new"
    assert store.exposes(new, "items.txt")
    (tmp_path / "items.txt").unlink()
    assert not store.exposes(new, "items.txt")


def test_a_build_that_writes_what_no_manifest_may_name_is_refused(tmp_path: Path) -> None:
    def build(out: Path) -> dict[str, Any]:
        (out / "a\nb").touch()
        return {}

    with pytest.raises(StoreError, match="no plain file name"):
        Store(tmp_path).publish(_recipe(), build)
    assert Store(tmp_path).all_current() == []
