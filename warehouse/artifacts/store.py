"""The artifact store: immutable, versioned directories on a file system.

    <root>/<layer>/<noun>/domain=<domain>/v=<version>/       the artifact's files and manifest.json
    <root>/<layer>/<noun>/domain=<domain>/CURRENT            the version that readers use
    <root>/<layer>/<noun>/domain=<domain>/HISTORY            when each version was current: see `history`
    <root>/<layer>/<noun>/domain=<domain>/pin=<version>      a person wants to keep it: see `garbage`
    <root>/<layer>/<noun>/domain=<domain>/damaged=<version>  its bytes differ from the manifest
    <root>/<layer>/<noun>/domain=<domain>/refused=<version>  it has failed a check of its content

A version is staged beside the store, flushed, described, made read-only and renamed into place. Only then CURRENT names
it. So a reader sees a complete version or none, and a crash leaves only a staging directory, which the next publication
removes. This module contains everything that changes a store, and `reader` contains everything that reads it. The
packages that write the bytes define their meaning.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warehouse.artifacts import garbage, history
from warehouse.artifacts.artifact import ALL, Artifact, Recipe, Version, check_domain, mend, recipe, sealed
from warehouse.artifacts.contract import UNFIT, Identity, Leftover, Mark
from warehouse.artifacts.durable import flush, write_durably
from warehouse.artifacts.environment import watch
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.history import HISTORY
from warehouse.artifacts.manifest import MANIFEST, Environment, content_version, describe_file
from warehouse.artifacts.reader import StoreReader, is_whole
from warehouse.artifacts.staging import HELD, RECIPE, Staging, make_folder, room_for

# Whoever uses a store names artifacts too, so those names are to be had here.
__all__ = ["ALL", "Artifact", "Recipe", "Store", "Version", "check_domain", "mend", "recipe"]


class Store(StoreReader):
    """The artifacts below one data folder, to read and to change."""

    shared = None

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.staging = Staging(root)

    def forget(self, domain: str) -> list[Version]:
        """Make every version of a domain non-current, and return the versions that were current, sorted.

        The versions stay until garbage collection (`warehouse.artifacts.garbage`); pinned ones stay until unpinned.
        """
        with self.staging.new() as bin_, self.staging.lock():
            found = [version for (_, of), version in self.pointed().items() if of == domain]
            for number, version in enumerate(found):
                folder = self.path(version).parent
                self._write_history(version[0], domain, None, bin_)
                (folder / "CURRENT").rename(bin_ / str(number))  # it need not be a file
                (bin_ / HISTORY).replace(folder / HISTORY)
                flush(folder)
        return found

    def mark(self, version: Version, mark: Mark, on: bool = True) -> bool:
        """Set or remove a mark of a version, and return whether that version exists.

        A pinned version is never collected. A damaged or refused version counts as absent for `whole`, so that the next
        run rebuilds it. The rebuilt version has no such mark.

        Raises:
            ReadOnlyError: the mark would change, and the store is not writable.
        """
        path = self._marking(version, mark)
        if os.path.lexists(path) == on:
            return self.path(version).is_dir()
        with self.staging.lock():  # so that it is not collected meanwhile
            there = self.path(version).is_dir()
            if on and there:
                path.touch()
            else:
                path.unlink(missing_ok=True)
            flush(path.parent)
        return there

    @contextmanager
    def holding(self, refs: Sequence[tuple[str, str]]) -> Iterator[list[Artifact]]:
        """The current versions of (key, domain) pairs. They are not collected before the end of the block.

        Everything that they were made from is kept too. A process that is killed releases all of them.

        Raises:
            StoreError: one of them has not been built.
        """
        with ExitStack() as stack:
            with room_for("noting what is read", self.root):
                hold = stack.enter_context(self.staging.new())
                # Under the lock, so that nothing is collected between being found and being held.
                with self.staging.lock():
                    found = [self.require(key, domain) for key, domain in refs]
                    text = json.dumps([[a.key, a.domain, a.version] for a in found])
                    (hold / HELD).write_text(text, encoding="utf-8")
            yield found

    def sweep(self) -> int:
        """Remove the leftovers of killed processes from the staging area, and return their number.

        The work of running processes stays.
        """
        return self.staging.sweep()

    def collect(self, dry_run: bool = False) -> list[Leftover]:
        """Remove what nobody needs (`warehouse.artifacts.garbage`), and return it. With `dry_run`, only return it.

        Raises:
            StoreError: manifests contradict each other; nothing was removed.
        """
        return garbage.collect(self, self.staging, dry_run)

    def building(self) -> set[str]:
        """Digests of the recipes that running processes build."""
        return garbage.building(self.staging)

    def publish(
        self,
        recipe: Recipe,
        build: Callable[[Path], Mapping[str, Any]],
        identity: Identity = "content",
    ) -> tuple[Artifact, bool]:
        """See `ArtifactStore`."""
        with room_for(f"building {recipe.key} of {recipe.domain}", self.root):
            self.sweep()
            with self.staging.new() as staging:
                # Found and pointed to in one, so that nobody collects it in between.
                with self.staging.lock():
                    known = self._with_recipe(recipe)
                    if known:
                        self._point(known, staging)
                        return known, False
                    (staging / RECIPE).write_text(recipe.digest, encoding="utf-8")
                files = staging / "files"
                files.mkdir()
                made_by = watch()
                summary = build(files)
                return self._seal(recipe, staging, summary, identity, made_by()), True

    def expose(self, artifact: Artifact, name: str) -> Path:
        """Make `<root>/<name>` this file of the artifact's current version. Readers of the old file keep it open."""
        with room_for(f"showing {name}", self.root):
            if not self.exposes(artifact, name):
                with self.staging.new() as staging, self.staging.lock():
                    # Of two that expose at once, the later one might be the one with the older version.
                    latest = self.current(artifact.key, artifact.domain) or artifact
                    os.link(latest.path / name, staging / "exposed")
                    (staging / "exposed").replace(self.root / name)
                    flush(self.root)
        return self.root / name

    def _seal(
        self,
        recipe: Recipe,
        staging: Path,
        summary: Mapping[str, Any],
        identity: Identity,
        environment: Environment,
    ) -> Artifact:
        """Describe, flush and move into place what was built, then move CURRENT."""
        files = staging / "files"
        described = {path.name: describe_file(path) for path in sorted(files.iterdir())}
        version = recipe.digest if identity == "recipe" else content_version(described)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = sealed(recipe, version, described, summary, created, environment)
        write_durably(files / MANIFEST, manifest.text)
        # Read-only, for everybody who may read the folder: some libraries write files for their owner alone.
        readable = stat.S_IMODE(files.stat().st_mode) & 0o444
        for path in files.iterdir():
            path.chmod(readable)
            flush(path)
        flush(files)
        artifact = Artifact(
            recipe.key, recipe.domain, version, self.folder(recipe.key, recipe.domain) / f"v={version}", manifest
        )
        make_folder(artifact.path.parent)
        # Everything that needs space is done before anything moves.
        write_durably(staging / "CURRENT", version)
        with self.staging.lock():
            self._write_history(recipe.key, recipe.domain, artifact, staging)
            artifact = self._place(artifact, staging)
            self._move(artifact, staging)
        return artifact

    def _move(self, artifact: Artifact, staging: Path) -> None:
        """Move CURRENT, and HISTORY after it; both are staged."""
        for name in ("CURRENT", HISTORY):
            (staging / name).replace(artifact.path.parent / name)
        flush(artifact.path.parent)

    def _write_history(self, key: str, domain: str, artifact: Artifact | None, staging: Path) -> None:
        """Stage the HISTORY that holds once `artifact`, or nothing, is current; under the lock."""
        entries = history.continued(self._entries(key, domain), history.entry(artifact, history.now()))
        write_durably(staging / HISTORY, history.text(entries))

    def _place(self, made: Artifact, staging: Path) -> Artifact:
        """Move the staged files to where `made` says, or keep what is there if that is as good."""
        files, target = staging / "files", made.path
        try:
            there = self._read(made.key, made.domain, target)
        except StoreError:
            there = None
        if there is None or not is_whole(there):
            if os.path.lexists(target):
                target.rename(staging / "broken")
            files.rename(target)
            for mark in UNFIT:
                self._marking(made.named, mark).unlink(missing_ok=True)
        elif there.manifest.recipe == made.manifest.recipe:
            # Somebody was faster. Made by recipe, their bytes need not be ours: their manifest stays with them.
            return there
        else:
            # The same bytes from another recipe: the data stay, the manifest names the recipe that holds now.
            (files / MANIFEST).replace(target / MANIFEST)
        flush(target.parent)
        return made

    def _with_recipe(self, recipe: Recipe) -> Artifact | None:
        for path in sorted(self.folder(recipe.key, recipe.domain).glob("v=*")):
            try:
                artifact = self._read(recipe.key, recipe.domain, path)
            except StoreError:
                continue  # damaged: if it is wanted, it is built again
            if artifact.manifest.recipe == recipe.digest and is_whole(artifact):
                return artifact
        return None

    def _point(self, artifact: Artifact, staging: Path) -> None:
        """Move CURRENT, unless it stands there already."""
        if not self._points_to(artifact):
            write_durably(staging / "CURRENT", artifact.version)
            self._write_history(artifact.key, artifact.domain, artifact, staging)
            self._move(artifact, staging)
