"""The staging area and the lock: no link is followed, only what was made there is removed, nobody waits in silence."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.read_only import read_only
from tests.warehouse.test_lineage import make
from tests.warehouse.work import leave
from warehouse.artifacts.errors import ReadOnlyError, StoreError
from warehouse.artifacts.lineage import named
from warehouse.artifacts.locks import held, is_held
from warehouse.artifacts.store import Artifact, Store, recipe


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's folder, in which all looks like a store."""
    folder = tmp_path / "elsewhere"
    leave(folder).rename(folder / ("0" * 32))
    (folder / "photos").mkdir()
    (folder / "photos" / "one").write_text("dear")
    make(Store(folder), "core/items", "old")
    make(Store(folder), "core/items", "theirs")
    return folder


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("link", "target"),
    [
        (".staging", "."),
        (".staging", ".staging"),
        ("core", "core"),
        ("core/items", "core/items"),
        ("core/items/domain=Toys", "core/items/domain=Toys"),
    ],
)
def test_a_link_in_a_store_is_an_error_and_what_it_leads_to_stays(
    store: Store, elsewhere: Path, link: str, target: str
) -> None:
    (store.root / link).parent.mkdir(parents=True)
    (store.root / link).symlink_to(elsewhere / target)
    before = _files(elsewhere)
    for act in (store.sweep, lambda: store.collect(), lambda: make(store, "core/items", "ours")):
        if link != ".staging" and act == store.sweep:
            continue
        with pytest.raises(StoreError, match=f"{link} is a link.*remove it"):
            act()
    if link != ".staging":
        for look in (store.all_current, store.versions, store.pointed, lambda: store.current("core/items", "Toys")):
            with pytest.raises(StoreError, match=f"{link} is a link"):
                look()
    assert _files(elsewhere) == before


@pytest.mark.parametrize("linked", ["", "file.txt", "manifest.json"])
def test_a_version_behind_a_link_is_not_read_and_is_built_again(store: Store, elsewhere: Path, linked: str) -> None:
    ours = make(store, "core/items", "theirs")
    place = ours.path / linked
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(elsewhere / "core/items/domain=Toys" / ours.path.name / linked)
    before = _files(elsewhere)
    with pytest.raises(StoreError, match=f"{place} is a link"):
        store.require("core/items", "Toys")
    assert store.whole("core/items", "Toys") is None
    assert make(store, "core/items", "theirs").version == ours.version
    assert not place.is_symlink()
    assert store.whole("core/items", "Toys")
    assert _files(elsewhere) == before


def test_a_mark_or_a_lock_that_is_a_link_writes_nothing_elsewhere(store: Store, tmp_path: Path) -> None:
    made = make(store, "core/items", "1")
    target = tmp_path / "target"
    made.path.with_name(f"pin={made.version}").symlink_to(target)
    assert store.mark(made.named, "pin")
    (store.root / ".lock").unlink()
    (store.root / ".lock").symlink_to(target)
    with pytest.raises(StoreError, match=r"\.lock is a link, and no lock: remove it"):
        store.mark(made.named, "damaged")
    assert not target.exists()


def test_a_data_folder_that_is_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "data")
    old, new = make(store, "core/items", "1"), make(store, "core/items", "2")
    leave(store.root)
    assert store.sweep() == 1
    assert [leftover.name for leftover in store.collect()] == [named(old.named)]
    assert store.require("core/items", "Toys") == new


def test_in_the_staging_area_only_what_was_made_there_is_removed(store: Store, tmp_path: Path) -> None:
    made = [leave(store.root) for _ in range(4)]
    dead, linked_lock, no_lock, empty = made
    named_otherwise = dead.parent / "photos"
    shutil.copytree(dead, named_otherwise)
    shutil.copytree(dead, tmp_path / "elsewhere")
    link = dead.parent / ("0" * 32)
    link.symlink_to(tmp_path / "elsewhere")
    for folder in (linked_lock, no_lock, empty):
        (folder / "lock").unlink()
    (linked_lock / "lock").symlink_to(tmp_path / "elsewhere" / "lock")
    (empty / "files").rmdir()
    assert store.sweep() == 2
    assert sorted(dead.parent.iterdir()) == sorted([linked_lock, no_lock, named_otherwise, link])
    assert (tmp_path / "elsewhere" / "lock").exists()
    assert [leftover.name for leftover in store.collect()] == []


def test_published_files_are_read_only_and_a_version_can_be_collected(store: Store) -> None:
    old, new = make(store, "core/items", "1"), make(store, "core/items", "2")
    for path in (*old.path.iterdir(), *new.path.iterdir()):
        assert not path.stat().st_mode & 0o222, path
    store.collect()
    assert not old.path.exists()
    assert new.path.is_dir()


def test_who_may_read_the_folder_may_read_its_files(store: Store) -> None:
    """safetensors writes for the owner alone."""

    def build(out: Path) -> dict[str, str]:
        (out / "weights").write_text("1 2 3")
        (out / "weights").chmod(0o600)
        return {}

    artifact, _ = store.publish(recipe("models/scratch", "Toys", "code", [], {}, {}), build)
    readable = artifact.path.stat().st_mode & 0o444
    assert {path.stat().st_mode & 0o777 for path in artifact.path.iterdir()} == {readable}


# A store that cannot be written to


@pytest.fixture
def backup(store: Store) -> Iterator[Artifact]:
    """What is current in a store that is read-only; there is an older version and something left by a dead process."""
    make(store, "core/items", "1")
    new = make(store, "core/items", "2")
    leave(store.root)
    with read_only(store.root):
        yield new


def test_what_only_reads_works_where_nothing_can_be_written(store: Store, backup: Artifact) -> None:
    assert store.require("core/items", "Toys") == backup
    assert store.verify(backup) == []
    assert store.mark(backup.named, "damaged", False)
    assert sorted(leftover.kind for leftover in store.collect(dry_run=True)) == ["staging", "version"]


def test_what_writes_says_that_the_folder_is_read_only(store: Store, backup: Artifact) -> None:
    for act in (
        store.sweep,
        lambda: store.collect(),
        lambda: store.mark(backup.named, "pin"),
        lambda: make(store, "core/items", "3"),
        lambda: store.expose(backup, "file.txt"),
    ):
        with pytest.raises(ReadOnlyError, match=f"{store.root} cannot be written to .*what only reads works there"):
            act()


def test_a_store_without_a_lock_file_can_be_looked_at(store: Store) -> None:
    make(store, "core/items", "1")
    make(store, "core/items", "2")
    (store.root / ".lock").unlink()
    with read_only(store.root):
        assert len(store.collect(dry_run=True)) == 1


# Waiting

_HOLDS = """
import sys, time
from pathlib import Path
from warehouse.artifacts.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input ends."""
    command = [sys.executable, "-c", _HOLDS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)


def test_who_waits_for_a_lock_says_for_whom_and_gives_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lock"
    with _holder(path) as process:
        assert is_held(path)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        said = rf"{path} is locked by process {process.pid} \(.*\), which is stopped \(`kill -CONT {process.pid}`"
        with pytest.raises(StoreError, match=f"{said}.*end that process"), held(path, notice=0, limit=0.05):
            pass
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(": waiting for it")
    assert not is_held(path)
    with held(path, limit=0):
        assert is_held(path)


def test_who_waits_long_enough_gets_the_lock(tmp_path: Path) -> None:
    with _holder(tmp_path / "lock") as process:
        assert process.stdin
        process.stdin.close()
        with held(tmp_path / "lock"):
            assert is_held(tmp_path / "lock")
