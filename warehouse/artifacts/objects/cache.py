"""The local folder that holds the files of a bucket's versions, so that a version is a plain folder with plain files.

    <cache>/<layer>/<noun>/domain=<domain>/v=<version>/    files that were asked for or built here, and manifest.json
    <cache>/STORE                                          which store they are from
    <cache>/.staging, <cache>/.lock                        as in a store in a folder

A file is verified by its sha256 and then put in place by a rename. When there are more than `limit` bytes, the versions
that were used longest ago are removed. These stay: versions that a running process was given, and versions that a
catalogue shows which is open or at the top of the data folder. The whole folder may be deleted while nothing runs.
"""

import json
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from warehouse.artifacts.artifact import Version
from warehouse.artifacts.durable import flush, replacing
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.files import regular
from warehouse.artifacts.garbage import size
from warehouse.artifacts.locks import is_open
from warehouse.artifacts.manifest import MANIFEST, Manifest, parse
from warehouse.artifacts.objects.layout import STORE, folder
from warehouse.artifacts.staging import HELD, Staging, make_folder, unlinked

__all__ = ["Cache"]

_CATALOGUE: Final = ".duckdb"


class Cache:
    """The cache at `root`. `shown` is the folder at whose top catalogues are shown."""

    def __init__(self, root: Path, shown: Path, limit: int) -> None:
        self.root, self.shown, self.limit = root, shown, limit
        self.staging = Staging(root)
        self._held: set[Version] = set()
        self._hold: Path | None = None
        self._one_thread = threading.Lock()

    def claim(self, store: str) -> None:
        """Record that the files here are from this store.

        Raises:
            StoreError: they are from another store.
        """
        note = self.root / STORE
        with suppress(FileNotFoundError):
            if (other := regular(note).read_text(encoding="utf-8", errors="replace")) != store:
                raise StoreError(
                    f"{self.root} holds files of another store ({other[:40]!r}, and this one is {store!r}): check "
                    "`store`, or delete that folder"
                )
            return
        make_folder(self.root)
        with replacing(note) as file:
            file.write(store.encode())

    def place(self, version: Version) -> Path:
        """The folder of a version. A link on the way there is an error."""
        key, domain, digest = version
        return unlinked(self.root, self.root / folder(key, domain) / f"v={digest}")

    def fetch(
        self, version: Version, manifest: Manifest, names: Iterable[str], get: Callable[[str, Path], None]
    ) -> list[str]:
        """See that these files are in place, and return the names of those that were not.

        `get` is called with a name and a path, and writes that file there.
        """
        self.keep(version)
        missing = self._missing(version, manifest, names)
        if not missing:
            return []
        self._make_room(sum(manifest.files[name].bytes for name in missing))
        with self.staging.new() as staging:
            for name in missing:
                get(name, staging / "file")
                self._put(version, staging / "file", name)
        return missing

    def complete(self, version: Version) -> Manifest | None:
        """The manifest of a version all of whose files are in place. From now on they stay until this process ends."""
        self.keep(version)
        manifest = _recorded(self.place(version) / MANIFEST, version)
        return manifest if manifest and not self._missing(version, manifest, manifest.files) else None

    def adopt(self, version: Version, manifest: Manifest, files: Path, names: Iterable[str]) -> None:
        """Take over some of the files of a version that were built in the folder `files`."""
        self.keep(version)
        for name in self._missing(version, manifest, names):
            self._put(version, files / name, name)
        self._make_room(0)

    def verified(self, version: Version, manifest: Manifest, check: Callable[[Path], str]) -> None:
        """Remove copies whose sha256, as `check` tells it, is not that of the manifest: they will be fetched again."""
        for name, entry in manifest.files.items():
            path = self.place(version) / name
            if path.is_file() and check(path) != entry.sha256:
                path.unlink(missing_ok=True)

    def _put(self, version: Version, made: Path, name: str) -> None:
        made.chmod(0o444)
        flush(made)
        with self.staging.lock():
            made.replace(self.place(version) / name)

    def _missing(self, version: Version, manifest: Manifest, names: Iterable[str]) -> list[str]:
        """Which of these files are not in place. It also records the manifest, and that the version is used now."""
        place, record = self.place(version), self.place(version) / MANIFEST
        known = _recorded(record, version)
        if known is None or known.files != manifest.files:
            make_folder(place)
            with self.staging.lock():
                for path in place.iterdir():  # files of another build of this version may have other bytes
                    entry = known.files.get(path.name) if known else None
                    if entry is None or entry != manifest.files.get(path.name):
                        path.unlink()
                with replacing(record, record.with_suffix(f".{id(self)}")) as file:
                    file.write(manifest.text.encode())
        else:
            record.touch()
        return [name for name in names if not _is_there(place / name, manifest.files[name].bytes)]

    def keep(self, *versions: Version) -> None:
        """Record that this process uses the versions. They stay in the cache until the process ends."""
        with self._one_thread:
            if self._held.issuperset(versions):
                return
            if self._hold is None:
                stack = ExitStack()
                self._hold = stack.enter_context(self.staging.new())
                weakref.finalize(self, stack.close)
            with self.staging.lock():
                self._held.update(versions)
                with replacing(self._hold / HELD) as file:
                    file.write(json.dumps(sorted(self._held)).encode())

    def _make_room(self, needed: int) -> None:
        """Remove the versions that were used longest ago, until there is room for `needed` bytes."""
        sizes = {path: size(path) for path in self.root.glob("[!.]*/*/domain=*/v=*")}
        surplus = sum(sizes.values()) + needed - self.limit
        if surplus <= 0:
            return
        with self.staging.new() as bin_, self.staging.lock():
            kept = {self.place(version) for version in (*self._used(), *self._shown())}
            oldest = sorted(sizes.keys() - kept, key=lambda path: (_last_used(path), path))
            for number, path in enumerate(oldest):
                if surplus <= 0:
                    break
                with suppress(FileNotFoundError):  # another process has just removed it
                    path.rename(bin_ / str(number))
                surplus -= sizes[path]

    def _used(self) -> Iterator[Version]:
        """The versions that running processes use. Call it under the lock."""
        for living in self.staging.folders(living=True):
            with suppress(FileNotFoundError):
                said = json.loads((living / HELD).read_text(encoding="utf-8"))
                yield from ((key, domain, digest) for key, domain, digest in said)

    def _shown(self) -> Iterator[Version]:
        """The catalogues that are open or at the top of the data folder, and the versions that they show."""
        for path in self.root.glob(f"[!.]*/*/domain=*/v=*/*{_CATALOGUE}"):
            shown = self.shown / path.name
            if is_open(path) or (shown.exists() and shown.samefile(path)):
                layer, noun, domain, digest = path.parts[-5:-1]
                version = (f"{layer}/{noun}", domain.removeprefix("domain="), digest.removeprefix("v="))
                yield version
                if manifest := _recorded(path.with_name(MANIFEST), version):
                    yield from manifest.made_from


def _recorded(record: Path, version: Version) -> Manifest | None:
    try:
        return parse(regular(record).read_text(encoding="utf-8"), *version)
    except (OSError, ValueError, RecursionError):
        return None


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def _last_used(folder: Path) -> float:
    with suppress(FileNotFoundError):
        return (folder / MANIFEST).stat().st_mtime
    return 0.0
