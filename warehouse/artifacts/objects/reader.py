"""Reading a store in a bucket: which versions exist, which one is current, and whether it is complete.

Nothing here changes a version. Everything is checked when it is read, because somebody else may have written it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from warehouse.artifacts import history
from warehouse.artifacts.artifact import Artifact, Version, mend, missing
from warehouse.artifacts.contract import DAY, UNFIT, Mark
from warehouse.artifacts.durable import flush
from warehouse.artifacts.errors import DamagedError
from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.history import Entry, Period
from warehouse.artifacts.manifest import content_version
from warehouse.artifacts.objects import layout, terms
from warehouse.artifacts.objects.cache import Cache
from warehouse.artifacts.objects.client import Client, Found, Tag
from warehouse.artifacts.objects.layout import Described
from warehouse.artifacts.objects.shared import SharedObjects
from warehouse.artifacts.staging import make_folder, room_for

__all__ = ["BucketReader"]

A = TypeVar("A")
B = TypeVar("B")

_AT_ONCE: Final = 16
"""The largest number of requests at the same time."""
_DELETED: Final = (
    "a missing object was deleted by a person or by a lifecycle rule of the bucket: switch such a rule off"
)


class BucketReader:
    """The artifacts below one address, read-only. `shown` is the data folder, at whose top files are shown."""

    def __init__(self, url: str, shown: Path, cache: Path, limit: int, grace: int = DAY) -> None:
        self.client = Client(url)
        self.shown = shown
        self.cache = Cache(cache, shown, limit)
        self.shared = SharedObjects(self.client, layout.CACHE)
        self._grace = grace
        self._known: dict[Version, Described] = {}

    def __reduce__(self) -> tuple[type["BucketReader"], tuple[str, Path, Path, int, int]]:
        """So that an artifact may be sent to another process or machine: there it fetches its files itself, into a
        cache with the same path."""
        return type(self), (self.client.url, self.shown, self.cache.root, self.cache.limit, self._grace)

    @cached_property
    def terms(self) -> terms.Terms:
        """The format and the periods of this store. If there is no store yet, it is made."""
        found = terms.establish(self.client, self._grace)
        self.cache.claim(found.id)
        return found

    @cached_property
    def is_there(self) -> bool:
        """Whether there is a store. Asked before anything is read, because a newer mmm4rec may write another layout.

        Raises:
            StoreError: as `terms.read`.
        """
        return terms.read(self.client) is not None

    def current(self, key: str, domain: str) -> Artifact | None:
        """See `ArtifactStore`."""
        entries, _ = self._history(key, domain)
        if not entries or entries[-1].version is None:
            return None
        version = (key, domain, entries[-1].version)
        found = self._read(version)
        if found is None:
            if self._history(key, domain)[0][-1:] != entries[-1:]:
                return self.current(key, domain)  # it moved on between the two looks
            raise DamagedError(f"{self.where(*version)} is current and has no manifest; {_DELETED}; {mend(domain)}")
        return found

    def whole(self, key: str, domain: str) -> Artifact | None:
        """See `ArtifactStore`."""
        try:
            artifact = self.current(key, domain)
        except DamagedError:
            return None
        return artifact if artifact and self._is_whole(artifact) else None

    def require(self, key: str, domain: str) -> Artifact:
        """See `ArtifactStore`."""
        artifact = self.current(key, domain)
        if artifact is None:
            raise missing(key, domain)
        return artifact

    def is_published(self, key: str, domain: str) -> bool:
        """See `ArtifactStore`."""
        try:
            entries, _ = self._history(key, domain)
        except DamagedError:
            return True
        return bool(entries) and entries[-1].version is not None

    def all_current(self) -> list[Artifact]:
        """See `ArtifactStore`."""
        return [found for _, found in self._current_or_flaw() if isinstance(found, Artifact)]

    def damaged(self) -> dict[tuple[str, str], str]:
        """See `ArtifactStore`."""
        return {ref: found for ref, found in self._current_or_flaw() if isinstance(found, str)}

    def versions(self) -> dict[Version, Artifact | None]:
        """See `ArtifactStore`."""
        read = self._described(version for version, what, found in self._objects() if what == "v" and found.bytes)
        found = {version: one for version, one in sorted(read.items()) if not (one and one[0].draft)}
        return {version: self._artifact(version, one[0]) if one else None for version, one in found.items()}

    def pointed(self) -> dict[tuple[str, str], Version]:
        """See `ArtifactStore`."""
        refs = [version[:2] for version, what, _ in self._objects() if what == "CURRENT"]
        return self._pointed(refs)

    def periods(self) -> list[Period]:
        """See `ArtifactStore`."""
        refs = sorted({version[:2] for version, what, _ in self._objects() if what == "CURRENT"})
        texts = self._at_once(lambda ref: self.client.read(layout.current(*ref)), refs)
        found = []
        for ref, said in zip(refs, texts, strict=True):
            found += history.periods(*ref, history.parse(said[0].decode(errors="replace") if said else ""))
        return found

    def marked(self, mark: Mark) -> list[Version]:
        """See `ArtifactStore`."""
        return sorted(version for version, what, _ in self._objects() if what == mark)

    def verify(self, artifact: Artifact) -> list[str]:
        """See `ArtifactStore`. Copies in the cache that are damaged are removed."""

        def read(name: str) -> str | None:
            entry, found = manifest.files[name], _Summed()
            if not self.client.stream(objects[name], found.begin):
                return f"{self._file(artifact, name)} is missing; {_DELETED}"
            return _flaw(self._file(artifact, name), entry.sha256, entry.bytes, found.digest.hexdigest(), found.count)

        try:
            found = self._describe(artifact.named)
        except DamagedError as error:
            return [str(error)]
        if found is None:
            return [f"{self.where(*artifact.named)} has no readable manifest"]
        (manifest, objects, _), _ = found
        self.cache.verified(artifact.named, manifest, sha256_file)
        problems = [problem for problem in self._at_once(read, sorted(manifest.files)) if problem]
        if artifact.version not in (content_version(manifest.files), manifest.recipe):
            where = f"{self.client.url}/{layout.versioned(artifact.named)}"
            problems.append(f"{where}: the version is neither the hash of its files nor its recipe")
        return problems

    def inspect(self, artifact: Artifact) -> list[str]:
        """See `ArtifactStore`: every download is verified, so here the sizes are enough."""
        found = self._known.get(artifact.named)
        if found is None:
            return [f"{self.where(*artifact.named)} has no readable manifest"]
        return self._lacking(artifact, found)

    def exposes(self, artifact: Artifact, name: str) -> bool:
        """See `ArtifactStore`."""
        shown, made = self.shown / name, artifact.place / name
        return shown.exists() and made.exists() and shown.samefile(made)

    def where(self, key: str, domain: str, version: str | None = None) -> str:
        """See `ArtifactStore`."""
        place = f"{self.client.url}/{layout.folder(key, domain)}"
        return place if version is None else f"{place}/v={version}"

    def _history(self, key: str, domain: str) -> tuple[list[Entry], Tag | None]:
        """The history of an artifact, whose last entry holds now, and the state that it was read in.

        Raises:
            DamagedError: the last line cannot be read.
        """
        self.is_there  # noqa: B018
        name = layout.current(key, domain)
        said = self.client.read(name)
        if said is None:
            return [], None
        lines = said[0].decode(errors="replace").splitlines()
        if not history.parse("".join(lines[-1:])):
            raise DamagedError(f"{self.client.url}/{name} names no version, but {lines[-1:]!r:.60}; {mend(domain)}")
        return history.parse("\n".join(lines)), said[1]

    def _pointed(self, refs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Version]:
        def look(ref: tuple[str, str]) -> str | None:
            try:
                entries, _ = self._history(*ref)
            except DamagedError:
                return ""
            return entries[-1].version if entries else None

        asked = sorted({*refs})
        named = zip(asked, self._at_once(look, asked), strict=True)
        return {ref: (*ref, version) for ref, version in named if version is not None}

    def _current_or_flaw(self) -> Iterator[tuple[tuple[str, str], Artifact | str]]:
        """The current version of all that has one, or what is wrong with it."""

        def look(ref: tuple[str, str]) -> Artifact | str | None:
            try:
                artifact = self.current(*ref)
            except DamagedError as error:
                return str(error)
            if artifact is None or self._is_whole(artifact):
                return artifact
            wrong = f"lacks files, or `mmm4rec verify` found it damaged; {_DELETED}"
            return f"{self.where(*artifact.named)} {wrong}; {mend(artifact.domain)}"

        refs = sorted({version[:2] for version, what, _ in self._objects() if what == "CURRENT"})
        for ref, found in zip(refs, self._at_once(look, refs), strict=True):
            if found is not None:
                yield ref, found

    def _objects(self) -> Iterator[tuple[Version, str, Found]]:
        """All objects that speak of versions, and what they say."""
        self.is_there  # noqa: B018
        for layer in layout.layers(self.client.folders()):
            for found in self.client.listed(layer):
                if named := layout.named(found.key):
                    yield *named, found

    def _is_whole(self, artifact: Artifact) -> bool:
        """Whether every file in the manifest exists with its size, and the version is not marked as unfit."""
        marks = (layout.mark(artifact.named, mark) for mark in UNFIT)
        found = self._known.get(artifact.named)
        if found is None or any(self._at_once(self.client.look, marks)):
            return False
        return not self._lacking(artifact, found)

    def _lacking(self, artifact: Artifact, found: Described) -> list[str]:
        """The problems of a version that can be seen without reading its files."""

        def look(name: str) -> str | None:
            entry, there = found.manifest.files[name], self.client.look(found.objects[name])
            if there is None:
                return f"{self._file(artifact, name)} is missing; {_DELETED}"
            return _flaw(self._file(artifact, name), entry.sha256, entry.bytes, entry.sha256, there.bytes)

        return [problem for problem in self._at_once(look, sorted(found.objects)) if problem]

    def _read(self, version: Version) -> Artifact | None:
        """A version that exists, or None."""
        found = self._describe(version)
        return self._artifact(version, found[0]) if found and not found[0].draft else None

    def _describe(self, version: Version) -> tuple[Described, Tag] | None:
        """The manifest of a version, or a draft, and the state that it was read in; None if there is no version."""
        self.is_there  # noqa: B018
        said = self.client.read(layout.versioned(version))
        if said is None or not said[0]:
            return None
        try:
            found = layout.read_manifest(said[0], version)
        except (ValueError, RecursionError) as error:
            raise DamagedError(
                f"{self.where(*version)} has no readable manifest ({error}); {mend(version[1])}"
            ) from error
        if not found.draft:
            self._known[version] = found
        return found, said[1]

    def _described(self, versions: Iterable[Version]) -> dict[Version, tuple[Described, Tag] | None]:
        """The manifests of versions that exist; None where it cannot be read."""

        def look(version: Version) -> tuple[Described, Tag] | bool | None:
            try:
                return self._describe(version) or False
            except DamagedError:
                return None

        asked = list(versions)
        read = zip(asked, self._at_once(look, asked), strict=True)
        return {version: one for version, one in read if not isinstance(one, bool)}

    def _artifact(self, version: Version, found: Described) -> Artifact:
        return Artifact(*version, self.cache.place(version), found.manifest, self._fetch)

    def _fetch(self, artifact: Artifact, names: Iterable[str]) -> list[str]:
        """Bring files of a version into the cache, and return the names of those that were not there."""

        def get(name: str, path: Path) -> None:
            entry, wanted = artifact.manifest.files[name], self._known.get(artifact.named)
            for _ in range(2):
                same = wanted and wanted.manifest.files.get(name) == entry
                got = self.client.download(wanted.objects[name], path) if wanted and same else None
                if got and got[1] == entry.sha256:
                    return
                self._read(artifact.named)  # it may have been built again since
                wanted = self._known.get(artifact.named)
            raise DamagedError(
                f"{self._file(artifact, name)} is missing or damaged: `mmm4rec verify`, then {mend(artifact.domain)}; "
                f"if nobody has built this version again, and `mmm4rec gc` has not removed it, {_DELETED}"
            )

        with room_for(f"fetching files of {artifact.ref}", self.cache.root):
            self.terms  # noqa: B018 - so that the cache is known to be of this store
            return self.cache.fetch(artifact.named, artifact.manifest, names, get)

    def _show(self, made: Path, name: str) -> None:
        """Let a file of the cache be the one with this name at the top of the data folder."""
        with self.cache.staging.new() as staging, self.cache.staging.lock():
            os.link(made, staging / "exposed")
            make_folder(self.shown)
            (staging / "exposed").replace(self.shown / name)
            flush(self.shown)

    def _file(self, artifact: Artifact, name: str) -> str:
        return f"{self.where(*artifact.named)}/{name}"

    def _at_once(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """The result of a function for each item. The calls wait for the server at the same time."""
        asked = list(items)
        if len(asked) < 2:
            return [function(item) for item in asked]
        with ThreadPoolExecutor(min(_AT_ONCE, len(asked))) as pool:
            return list(pool.map(function, asked))


class _Summed:
    """The sha256 and the number of bytes of a download."""

    def begin(self) -> Callable[[bytes], None]:
        """Start a download: what came before does not count."""
        self.digest, self.count = hashlib.sha256(), 0
        return self._take

    def _take(self, piece: bytes) -> None:
        self.digest.update(piece)
        self.count += len(piece)


def _flaw(where: str, sha256: str, size: int, digest: str, count: int) -> str | None:
    if count != size:
        return f"{where} has {count:,} bytes, not {size:,}"
    if digest != sha256:
        return f"{where} has the sha256 {digest[:16]}…, not {sha256[:16]}…"
    return None
