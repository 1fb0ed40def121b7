"""Garbage collection: finding and removing the versions in a store that are not needed any more.

A version is needed if CURRENT names it, a person has pinned it, or a running process holds it (`Store.holding`). Every
catalogue that is open or shown at the top of the store is needed. So is every version that a needed version was made
from. Everything else is removed, including what ended processes left in the staging area. The reasons are in
docs/decisions/0008.

Versions are selected and moved away under the store's lock, derived versions before their inputs, and only then
deleted. So processes that read or build at the same time lose nothing, and a kill at any moment leaves a store where
every version still has its inputs.
"""

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.reader import UNFIT
from warehouse.artifacts.store import HELD, RECIPE, Artifact, Store, Version

__all__ = ["Leftover", "collect", "size"]

_CATALOGUE: Final = ".duckdb"
"""Ending of the files whose readers hold a lock on them."""


@dataclass(frozen=True)
class Leftover:
    """Something that is not needed: its name for people, its present or last path, and its size in bytes."""

    kind: Literal["version", "staging", "cache"]
    name: str
    path: Path = field(compare=False)
    bytes: int = 0

    def moved(self, target: Path) -> "Leftover":
        """The same elsewhere; of a version, the marks that it is unfit go."""
        with suppress(FileNotFoundError):  # what a process has staged it may itself have just removed
            self.path.rename(target)
        if self.kind == "version":
            for mark in UNFIT:
                self.path.with_name(self.path.name.replace("v=", f"{mark}=")).unlink(missing_ok=True)
        return replace(self, path=target)


def collect(store: Store, dry_run: bool = False) -> list[Leftover]:
    """Remove unneeded data and return what was removed. With `dry_run`, only return it.

    Raises:
        StoreError: manifests contradict each other; nothing was removed.
    """
    if dry_run:
        with store.staging.looking():
            found = _leftovers(store)
        return [replace(leftover, bytes=size(leftover.path)) for leftover in found]
    with store.staging.new() as bin_:
        with store.staging.lock():
            found = [leftover.moved(bin_ / str(number)) for number, leftover in enumerate(_leftovers(store))]
        return [replace(leftover, bytes=size(leftover.path)) for leftover in found]


def building(store: Store) -> set[str]:
    """Digests of the recipes that running processes build."""
    with store.staging.looking():
        return {text for folder in store.staging.folders(living=True) if (text := _read(folder / RECIPE))}


def size(folder: Path) -> int:
    """The size in bytes of all files below a folder."""
    total = 0
    with suppress(FileNotFoundError):  # removed meanwhile
        for path in folder.rglob("*"):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _leftovers(store: Store) -> list[Leftover]:
    """What nobody needs; to be asked under the store's lock."""
    return [
        *(Leftover("staging", folder.name, folder) for folder in store.staging.folders(living=False)),
        *(Leftover("version", named(version), store.path(version)) for version in _unneeded(store)),
    ]


def _unneeded(store: Store) -> list[Version]:
    """Versions that nothing needs, each before whatever it was made from."""
    lineage = Lineage.of(store)
    needed = set(lineage.upstream({*_roots(store, lineage)}))
    return [version for version in lineage.upstream(lineage.versions) if version in lineage.versions.keys() - needed]


def _roots(store: Store, lineage: Lineage) -> Iterator[Version]:
    yield from lineage.current
    yield from store.marked("pin")
    for folder in store.staging.folders(living=True):
        yield from ((key, domain, digest) for key, domain, digest in json.loads(_read(folder / HELD) or "[]"))
    # Where CURRENT leads nowhere, the next run may go back to any version.
    lost = {version[:2] for version in lineage.current if lineage.versions.get(version) is None}
    for version, artifact in lineage.versions.items():
        if version[:2] in lost or (artifact and _catalogue_in_use(store, artifact)):
            yield version


def _catalogue_in_use(store: Store, artifact: Artifact) -> bool:
    """Whether the artifact is a catalogue that a DuckDB, anywhere, has open, or the one that people would open now."""
    names = [name for name in artifact.manifest.files if name.endswith(_CATALOGUE)]
    return any(store.exposes(artifact, name) or _is_open(artifact.path / name) for name in names)


def _is_open(file: Path) -> bool:
    """Whether a process reads or writes a DuckDB file: DuckDB holds a POSIX lock on it, shared or exclusive.

    To be asked by a process that has not opened it itself: locks are a process's own, and closing a file drops them.
    """
    # Who may write would be locked out? To ask that, unlike to lock, needs no right to write, which published files
    # give to nobody. struct flock of Linux: type, whence, start, length (0: to the end), process.
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with file.open("rb") as opened:
            kind, *_ = struct.unpack("hhqqi", fcntl.fcntl(opened, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be told, and then it stays
    return bool(kind != fcntl.F_UNLCK)


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    return ""
