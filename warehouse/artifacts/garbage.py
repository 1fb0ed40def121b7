"""Garbage collection of a store in a folder: finding and removing the versions that are not needed any more.

A version is needed if CURRENT names it, a person has pinned it, or a running process holds it (`Store.holding`). Every
catalogue that is open or shown at the top of the store is needed. So is every version that a needed version was made
from. Everything else is removed, including what ended processes left in the staging area. The reasons are in
docs/decisions/0008.

Versions are selected and moved away under the store's lock, derived versions before their inputs, and only then
deleted. So processes that read or build at the same time lose nothing, and a kill at any moment leaves a store where
every version still has its inputs.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from warehouse.artifacts.artifact import Artifact, Version
from warehouse.artifacts.contract import UNFIT, Leftover
from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.locks import is_open
from warehouse.artifacts.reader import StoreReader
from warehouse.artifacts.staging import HELD, RECIPE, Staging

__all__ = ["building", "collect", "size"]

_CATALOGUE: Final = ".duckdb"
"""Ending of the files whose readers hold a lock on them."""


@dataclass(frozen=True)
class _Found:
    """A leftover at its present or last path."""

    kind: Literal["version", "staging"]
    name: str
    path: Path

    def sized(self) -> Leftover:
        """What is told of it."""
        return Leftover(self.kind, self.name, size(self.path))

    def moved(self, target: Path) -> "_Found":
        """The same elsewhere; of a version, the marks that it is unfit go."""
        with suppress(FileNotFoundError):  # what a process has staged it may itself have just removed
            self.path.rename(target)
        if self.kind == "version":
            for mark in UNFIT:
                self.path.with_name(self.path.name.replace("v=", f"{mark}=")).unlink(missing_ok=True)
        return replace(self, path=target)


def collect(store: StoreReader, staging: Staging, dry_run: bool = False) -> list[Leftover]:
    """Remove unneeded data and return what was removed. With `dry_run`, only return it.

    Raises:
        StoreError: manifests contradict each other; nothing was removed.
    """
    if dry_run:
        with staging.looking():
            found = _leftovers(store, staging)
        return [leftover.sized() for leftover in found]
    with staging.new() as bin_:
        with staging.lock():
            found = [leftover.moved(bin_ / str(number)) for number, leftover in enumerate(_leftovers(store, staging))]
        return [leftover.sized() for leftover in found]


def building(staging: Staging) -> set[str]:
    """Digests of the recipes that running processes build."""
    with staging.looking():
        return {text for folder in staging.folders(living=True) if (text := _read(folder / RECIPE))}


def size(folder: Path) -> int:
    """The size in bytes of all files below a folder."""
    total = 0
    with suppress(FileNotFoundError):  # removed meanwhile
        for path in folder.rglob("*"):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _leftovers(store: StoreReader, staging: Staging) -> list[_Found]:
    """What nobody needs; to be asked under the store's lock."""
    return [
        *(_Found("staging", folder.name, folder) for folder in staging.folders(living=False)),
        *(_Found("version", named(version), store.path(version)) for version in _unneeded(store, staging)),
    ]


def _unneeded(store: StoreReader, staging: Staging) -> list[Version]:
    """Versions that nothing needs, each before whatever it was made from."""
    lineage = Lineage.of(store)
    needed = set(lineage.upstream({*_roots(store, staging, lineage)}))
    return [version for version in lineage.upstream(lineage.versions) if version in lineage.versions.keys() - needed]


def _roots(store: StoreReader, staging: Staging, lineage: Lineage) -> Iterator[Version]:
    yield from lineage.current
    yield from store.marked("pin")
    for folder in staging.folders(living=True):
        yield from ((key, domain, digest) for key, domain, digest in json.loads(_read(folder / HELD) or "[]"))
    # Where CURRENT leads nowhere, the next run may go back to any version.
    lost = {version[:2] for version in lineage.current if lineage.versions.get(version) is None}
    for version, artifact in lineage.versions.items():
        if version[:2] in lost or (artifact and _catalogue_in_use(store, artifact)):
            yield version


def _catalogue_in_use(store: StoreReader, artifact: Artifact) -> bool:
    """Whether the artifact is a catalogue that a DuckDB, anywhere, has open, or the one that people would open now."""
    names = [name for name in artifact.manifest.files if name.endswith(_CATALOGUE)]
    return any(store.exposes(artifact, name) or is_open(artifact.path / name) for name in names)


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    return ""
