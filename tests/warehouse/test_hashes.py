"""Remembered hashes: never another than the file's own, whatever happens to the file or to what was remembered."""

import os
import time
from pathlib import Path

import pytest

from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.hashes import Hashes


def _settle(path: Path) -> None:
    """Wait until a change of the file is older than the clock of a file system is coarse."""
    while time.time_ns() - path.stat().st_ctime_ns < 2.1e9:
        time.sleep(0.05)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "raw.csv"
    path.write_bytes(b"one" * 1000)
    return path


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that no test changes, so that they wait for it once."""
    path = tmp_path_factory.mktemp("settled") / "raw.csv"
    path.write_bytes(b"one" * 1000)
    _settle(path)
    return path


def test_a_hash_is_remembered_once_the_file_has_settled(file: Path, tmp_path: Path) -> None:
    hashes = Hashes(tmp_path / "cache")
    assert hashes.sha256(file) == sha256_file(file)
    assert not (tmp_path / "cache").exists()  # just written: the next write could fall into the same tick
    _settle(file)
    assert hashes.sha256(file) == sha256_file(file)
    (record,) = (tmp_path / "cache").iterdir()
    # What is remembered is used: a record of the right file with a false hash is believed.
    record.write_text(record.read_text().replace(sha256_file(file), "f" * 64))
    assert Hashes(tmp_path / "cache").sha256(file) == "f" * 64


def test_every_way_to_change_a_file_is_seen(file: Path, tmp_path: Path) -> None:
    _settle(file)
    hashes = Hashes(tmp_path / "cache")
    hashes.sha256(file)
    before = file.stat()

    file.write_bytes(b"two" * 1000)  # the same size, and the time set back
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hashes.sha256(file) == sha256_file(file)

    other = tmp_path / "other"
    other.write_bytes(b"six" * 1000)  # another file in its place, as old as the first
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert hashes.sha256(file) == sha256_file(file)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff", b'{"look": 1}', b"null"])
def test_a_damaged_record_is_none(settled: Path, tmp_path: Path, damage: bytes) -> None:
    hashes = Hashes(tmp_path / "cache")
    hashes.sha256(settled)
    (record,) = (tmp_path / "cache").iterdir()
    record.write_bytes(damage)
    assert hashes.sha256(settled) == sha256_file(settled)
    assert sha256_file(settled) in record.read_text()


def test_a_folder_that_cannot_be_written_costs_time_only(settled: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert Hashes(tmp_path / "cache").sha256(settled) == sha256_file(settled)
