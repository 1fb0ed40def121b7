"""The local folder that holds the files of a bucket's versions, so that a version is a plain folder with plain files.

    <cache>/<layer>/<noun>/domain=<domain>/v=<version>/    files that were asked for or built here, and manifest.json
    <cache>/STORE                                          which store they are from
    <cache>/.staging, <cache>/.lock                        as in a store in a folder

A file is put in place by a rename once its sha256 is right. What was used longest ago goes when there is more than
`limit` bytes, but nothing that a running process has been given, and nothing that a catalogue shows that is open or at
the top of the data folder. The whole folder may be deleted while nothing runs.
"""

import json
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

    def claim(self, store: str) -> None:
        """Note which store the files are from.

        Raises:
            StoreError: they are from another.
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
    ) -> None:
        """See that these files are in place; `get` writes one that is not, by its name, to a path, or raises."""
        self._keep(version)
        missing = self._missing(version, manifest, names)
        if not missing:
            return
        self._make_room(sum(manifest.files[name].bytes for name in missing))
        with self.staging.new() as staging:
            for name in missing:
                get(name, staging / "file")
                self._put(version, staging / "file", name)

    def adopt(self, version: Version, manifest: Manifest, files: Path, names: Iterable[str]) -> None:
        """Take over some of the files of a version that were built in the folder `files`."""
        self._keep(version)
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
        """Those of the files that are not in place; notes that the version is used."""
        place, record = self.place(version), self.place(version) / MANIFEST
        known = _recorded(record, version)
        if known is None or known.files != manifest.files:
            make_folder(place)
            with self.staging.lock():
                for path in place.iterdir():  # what another build of this version has left, if its bytes differ
                    entry = known.files.get(path.name) if known else None
                    if entry is None or entry != manifest.files.get(path.name):
                        path.unlink()
                with replacing(record, record.with_suffix(f".{id(self)}")) as file:
                    file.write(manifest.text.encode())
        else:
            record.touch()
        return [name for name in names if not _is_there(place / name, manifest.files[name].bytes)]

    def _keep(self, version: Version) -> None:
        """Note that this process has been given the version, until it ends."""
        if version in self._held:
            return
        if self._hold is None:
            stack = ExitStack()
            self._hold = stack.enter_context(self.staging.new())
            weakref.finalize(self, stack.close)
        with self.staging.lock():
            self._held.add(version)
            with replacing(self._hold / HELD) as file:
                file.write(json.dumps(sorted(self._held)).encode())

    def _make_room(self, needed: int) -> None:
        """Let those versions go that were used longest ago, until there is room for so many bytes."""
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
                path.rename(bin_ / str(number))
                surplus -= sizes[path]

    def _used(self) -> Iterator[Version]:
        """The versions that running processes have been given; under the lock."""
        for living in self.staging.folders(living=True):
            with suppress(FileNotFoundError):
                said = json.loads((living / HELD).read_text(encoding="utf-8"))
                yield from ((key, domain, digest) for key, domain, digest in said)

    def _shown(self) -> Iterator[Version]:
        """Catalogues that are open or shown, and what they show."""
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
