"""The artifact store in a bucket: everything that changes it, except garbage collection.

First the files of a version are uploaded, under names that nobody else uses. Then a conditional write makes the
manifest, and another one changes CURRENT. So a reader sees a complete version or none. A crash leaves objects that no
manifest names; they are collected later. docs/decisions/0024 says why nothing is lost.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from warehouse.artifacts import history
from warehouse.artifacts.artifact import Artifact, Recipe, Version, sealed
from warehouse.artifacts.contract import DAY, UNFIT, Identity, Leftover, Mark
from warehouse.artifacts.environment import watch
from warehouse.artifacts.errors import DamagedError, StoreError
from warehouse.artifacts.history import Entry
from warehouse.artifacts.manifest import Environment, Manifest, content_version, describe_file
from warehouse.artifacts.objects import doom, garbage, layout
from warehouse.artifacts.objects.client import Tag
from warehouse.artifacts.objects.layout import Described
from warehouse.artifacts.objects.leases import Hold, Leases
from warehouse.artifacts.objects.reader import BucketReader
from warehouse.artifacts.staging import room_for

__all__ = ["Bucket"]

_TRIES: Final = 20
"""How often a change is tried again, if others have changed the same in the meantime."""
_CATALOGUE: Final = ".duckdb"


class Bucket(BucketReader):
    """The artifacts below one address, to read and to change."""

    def __init__(self, url: str, shown: Path, cache: Path, limit: int, grace: int = DAY) -> None:
        super().__init__(url, shown, cache, limit, grace)
        self.leases = Leases(self.client, lambda: self.terms)

    def forget(self, domain: str) -> list[Version]:
        """See `ArtifactStore`."""
        found = [version for (_, of), version in self.pointed().items() if of == domain]
        for key, _, _ in found:
            self._continue(key, domain, None)
        return sorted(found)

    def mark(self, version: Version, mark: Mark, on: bool = True) -> bool:
        """See `ArtifactStore`."""
        self.is_there  # noqa: B018 - a store of another layout is not changed
        name = layout.mark(version, mark)
        if (self.client.look(name) is not None) != on:
            if not on:
                self.client.remove(name)
            elif self._exists(version):
                self.client.write(name, b"")
        if on and mark == "pin" and not (doom.keep(self.client, version) and self._exists(version)):
            self.client.remove(name)  # it was collected before the pin was set
            return False
        return self._exists(version)

    @contextmanager
    def holding(self, refs: Sequence[tuple[str, str]]) -> Iterator[list[Artifact]]:
        """See `ArtifactStore`."""
        self.terms  # noqa: B018 - before the lease of a store that is none
        with self.leases.hold() as hold:
            for _ in range(_TRIES):
                found = [self.require(key, domain) for key, domain in refs]
                kept = [*self._at_once(lambda artifact: self._use(hold, artifact.named), found)]
                if None not in kept:
                    break
            else:
                raise StoreError(f"{', '.join(f'{key}@{domain}' for key, domain in refs)} change too often: try again")
            yield [artifact for artifact in kept if artifact]

    def sweep(self) -> int:
        """See `ArtifactStore`. What they have left in the bucket is collected."""
        return self.cache.staging.sweep()

    def collect(self, dry_run: bool = False) -> list[Leftover]:
        """See `ArtifactStore`. It takes two collections and the grace period between them to remove a version."""
        self.terms  # noqa: B018 - before the lease of a store that is none
        return garbage.collect(self, self.leases, dry_run)

    def building(self) -> set[str]:
        """See `ArtifactStore`."""
        return {*self.leases.living().recipes}

    def publish(
        self,
        recipe: Recipe,
        build: Callable[[Path], Mapping[str, Any]],
        identity: Identity = "content",
    ) -> tuple[Artifact, bool]:
        """See `ArtifactStore`."""
        self.terms  # noqa: B018 - before the lease of a store that is none
        with room_for(f"building {recipe.key} of {recipe.domain}", self.cache.root), self.leases.hold() as hold:
            self.sweep()
            for _ in range(_TRIES):
                known = self._with_recipe(recipe, hold)
                if known and self._point(known):
                    return known, False
                if known is None:
                    break
            hold.recipe(recipe.digest)
            with self.cache.staging.new() as staging:
                files = staging / "files"
                files.mkdir()
                made_by = watch()
                summary = build(files)
                return self._seal(recipe, files, summary, identity, made_by(), hold), True

    def expose(self, artifact: Artifact, name: str) -> Path:
        """See `ArtifactStore`. A catalogue names the files of what it was made from, so these are fetched, too."""
        with room_for(f"showing {name}", self.cache.root):
            if not self.exposes(artifact, name):
                latest = self.current(artifact.key, artifact.domain) or artifact
                if name.endswith(_CATALOGUE):
                    for read in latest.manifest.made_from:
                        if shown := self._read(read):
                            self._fetch(shown, [file for file in shown.manifest.files if file.endswith(".parquet")])
                self._show(latest.file(name), name)
        return self.shown / name

    def _exists(self, version: Version) -> bool:
        try:
            return self._read(version) is not None
        except DamagedError:
            return True

    def _use(self, hold: Hold, version: Version) -> Artifact | None:
        """Hold a version, which then stays; None if it does not exist."""
        hold.versions(version)
        return self._read(version) if doom.keep(self.client, version) else None

    def _with_recipe(self, recipe: Recipe, hold: Hold) -> Artifact | None:
        said = self.client.read(layout.pointer(recipe.key, recipe.domain, recipe.digest))
        version = (recipe.key, recipe.domain, said[0].decode(errors="replace")) if said else None
        if version is None or not layout.named(layout.doomed(version)):
            return None
        try:
            artifact = self._use(hold, version)
        except DamagedError:
            return None  # if it is wanted, it is built again
        if artifact and artifact.manifest.recipe == recipe.digest and self._is_whole(artifact):
            return artifact
        return None

    def _seal(
        self,
        recipe: Recipe,
        files: Path,
        summary: Mapping[str, Any],
        identity: Identity,
        environment: Environment,
        hold: Hold,
    ) -> Artifact:
        """Describe and upload what was built, then move CURRENT."""
        described = {path.name: describe_file(path) for path in sorted(files.iterdir())}
        digest = recipe.digest if identity == "recipe" else content_version(described)
        version = (recipe.key, recipe.domain, digest)
        hold.versions(version)
        for _ in range(_TRIES):
            artifact = self._settle(
                version, lambda: sealed(recipe, digest, described, summary, self._time(), environment), files
            )
            if self._point(artifact):
                # If somebody else has built this version, its files may have other bytes than ours.
                own = [name for name, entry in described.items() if artifact.manifest.files.get(name) == entry]
                self.cache.adopt(version, artifact.manifest, files, own)
                return artifact
        raise _too_busy(recipe.key, recipe.domain)

    def _settle(self, version: Version, manifest: Callable[[], Manifest], files: Path) -> Artifact:
        """See that a version is in the bucket (`_place`), however often others change it meanwhile."""
        for _ in range(_TRIES):
            found = self._place(version, manifest(), files)
            if found:
                return self._artifact(version, found)
            time.sleep(random.random() / 5)  # so that of two who publish the same version one is first
            self.leases.now(fresh=True)
        raise _too_busy(version[0], version[1])

    def _place(self, version: Version, manifest: Manifest, files: Path) -> Described | None:
        """Upload a version, unless it is there. None: others have changed it at the same time.

        If the same files are there by another recipe, only the manifest is replaced.
        """
        doom.keep(self.client, version)  # if its removal has begun, this finishes it
        there, tag = self._there(version)
        name = layout.versioned(version)
        pointer = layout.pointer(manifest.key, manifest.domain, manifest.recipe)
        if there and self._is_whole(self._artifact(version, there)):
            if there.manifest.recipe == manifest.recipe:
                # Somebody was faster. Made by recipe, their bytes need not be ours: their manifest stays with them.
                self.client.write(pointer, version[2].encode())
                return there
            # The same bytes from another recipe: the data stay, the manifest names the recipe that holds now.
            made = Described(manifest, there.objects)
        else:
            oldest = self.leases.now()
            # What is there may be damaged: then no object that holds these contents is used again.
            marks = self._at_once(self.client.look, [layout.mark(version, mark) for mark in UNFIT])
            objects, used = self._upload(manifest, files, reuse=there is None and not any(marks))
            made = Described(manifest, objects)
            tag = self._draft(name, made, tag, min([oldest, *used]))
            if tag is None:
                return None
        # Before the manifest, so that every manifest can be found by its recipe.
        self.client.write(pointer, version[2].encode())
        if tag is None or self.client.replace(name, layout.describe(made), tag) is None:
            return None
        if there is None or made.objects != there.objects:
            self.client.remove(*(layout.mark(version, mark) for mark in UNFIT))
        self._known[version] = made
        return made

    def _draft(self, name: str, made: Described, tag: Tag | None, oldest: datetime) -> Tag | None:
        """Write a draft and return its state; None if others have changed the object, or if the draft is too late.

        It is too late if the oldest of its objects could already have been collected.
        """
        data = layout.describe(made._replace(draft=True))
        written = self.client.create(name, data) if tag is None else self.client.replace(name, data, tag)
        found = self.client.look(name) if written else None
        in_time = found and found.modified - oldest < timedelta(seconds=self.terms.grace) * 3 / 4
        return written if in_time else None

    def _there(self, version: Version) -> tuple[Described | None, Tag | None]:
        """The manifest of a version, or None if there is none that can be read; and the state of the object."""
        with suppress(DamagedError):
            if found := self._describe(version):
                return (None if found[0].draft else found[0]), found[1]
        said = self.client.read(layout.versioned(version))
        return None, said[1] if said else None

    def _upload(self, manifest: Manifest, files: Path, reuse: bool) -> tuple[dict[str, str], list[datetime]]:
        """Upload files. Return their objects by file name, and the times of the objects that were there already.

        An existing object is used if it is younger than half the grace period, because then nobody collects it before
        the manifest is there.
        """
        youngest = self.leases.now() - timedelta(seconds=self.terms.grace) / 2

        def send(name: str) -> tuple[str, str, datetime | None]:
            entry = manifest.files[name]
            for found in self.client.listed(layout.stored(entry.sha256)) if reuse else ():
                if found.bytes == entry.bytes and found.modified > youngest:
                    return name, found.key, found.modified
            key = layout.new_file(entry.sha256)
            self.client.upload(files / name, key)
            return name, key, None

        sent = self._at_once(send, sorted(manifest.files))
        return {name: key for name, key, _ in sent}, [since for _, _, since in sent if since]

    def _point(self, artifact: Artifact) -> bool:
        """Make a version current; False if it was removed before that."""
        self._continue(artifact.key, artifact.domain, artifact)
        # Once more, after it is current: a collection that has not seen that has removed it by now, or fails.
        return doom.keep(self.client, artifact.named) and self._exists(artifact.named)

    def _continue(self, key: str, domain: str, artifact: Artifact | None) -> None:
        """Make a version the current one, or none, in the history."""

        def on(entries: list[Entry]) -> list[Entry]:
            # Servers of one service do not all have the same time, and it is told in whole seconds.
            last = history.entry(artifact, max([self._time(), *(entry.since for entry in entries[-1:])]))
            return history.continued(entries, last) or [last]

        self._change_history(key, domain, on)

    def _change_history(self, key: str, domain: str, on: Callable[[list[Entry]], list[Entry]]) -> None:
        """Replace the history of an artifact by what `on` makes of it. `on` is called again if others were faster."""
        for _ in range(10 * _TRIES):
            name, broken = layout.current(key, domain), False
            try:
                entries, tag = self._history(key, domain)
            except DamagedError:  # the lines that can be read stay
                said, broken = self.client.read(name), True
                entries, tag = (history.parse(said[0].decode(errors="replace")), said[1]) if said else ([], None)
            new = on(entries)
            if new == entries and not broken:
                return
            data = history.text(new).encode()
            if self.client.create(name, data) if tag is None else self.client.replace(name, data, tag):
                return
        raise _too_busy(key, domain)

    def _time(self) -> str:
        """The time of the server's clock, to the microsecond, so that no two manifests have the same bytes."""
        return self.leases.now().astimezone(UTC).isoformat(timespec="microseconds")


def _too_busy(key: str, domain: str) -> StoreError:
    return StoreError(f"{key} of {domain} is changed by others again and again: try it again later")
