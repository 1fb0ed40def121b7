"""The artifact store: whole versions or none, one version for the same bytes, nothing left by a failure."""

import errno
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.errors import WarehouseError
from warehouse.store import ALL, Recipe, Store, check_domain, recipe


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
    assert artifact.manifest["summary"] == {"rows": 1}
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
    assert current.manifest["code_version"] == "c2"


def test_identity_by_recipe_ignores_the_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"), identity="recipe")
    assert artifact.version == _recipe().digest


def test_a_file_that_went_missing_is_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    (artifact.path / "items.txt").write_text("cut short by a full disk")
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

    expected = WarehouseError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        store.publish(_recipe(code_version="c2"), build)
    assert store.current("core/items", "Toys") == before
    assert not list((tmp_path / ".staging").iterdir())
    assert [p.name for p in before.path.parent.glob("v=*")] == [before.path.name]


def _publish(root: Path, text: str) -> None:
    Store(root).publish(_recipe(parameters={"text": text}), _writes(text))


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
    except WarehouseError:
        return
    assert name == ALL or (name.isascii() and name.replace("_", "a").isalnum())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "é", "x" * 65, "1st", "a'b", "a\n"])
def test_hostile_domain_names_are_refused(name: str) -> None:
    with pytest.raises(WarehouseError, match="no domain name"):
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
    assert sorted(p.name for p in tmp_path.iterdir()) == [".staging", "core", "items.txt"]


def test_a_broken_manifest_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.publish(_recipe(), _writes("a"))
    (artifact.path / "manifest.json").write_text("{")
    with pytest.raises(WarehouseError, match="delete that folder"):
        store.current("core/items", "Toys")


def test_manifest_is_json_with_hashes(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).publish(_recipe(), _writes("a"))
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["files"]["items.txt"]["bytes"] == 1
    assert len(manifest["files"]["items.txt"]["sha256"]) == 64
