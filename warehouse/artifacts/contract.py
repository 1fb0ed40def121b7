"""The contract of an artifact store, wherever it keeps its versions, and what its methods speak of.

`warehouse.artifacts.store.Store` keeps them in a folder, `warehouse.artifacts.objects.store.Bucket` in a bucket. One
suite of tests runs over both. `warehouse.artifacts.opened` chooses.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from warehouse.artifacts.artifact import Artifact, Recipe, Version
from warehouse.artifacts.history import Period
from warehouse.artifacts.kept import Shared

__all__ = ["DAY", "UNFIT", "ArtifactStore", "Identity", "Leftover", "Mark"]

Mark = Literal["pin", "damaged", "refused"]
UNFIT: Final[tuple[Mark, ...]] = ("damaged", "refused")
"""Marks of versions that count as absent until they are built again."""

Identity = Literal["content", "recipe"]

DAY: Final = 24 * 3600
"""Seconds: the default grace period of a collection."""


@dataclass(frozen=True)
class Leftover:
    """Something that is not needed: its name for people, and its size in bytes.

    A version of the kind "doomed" is still there; a later collection removes it, unless it is used until then.
    """

    kind: Literal["version", "doomed", "files", "staging", "cache"]
    name: str
    bytes: int = 0


class ArtifactStore(Protocol):
    """Versions of artifacts, which any number of processes read and publish at once.

    Every method raises `StoreError` where the store cannot be read, and `ReadOnlyError` where it would have to be
    changed and may not be.
    """

    @property
    def shared(self) -> Shared | None:
        """What the machines that use this store share of their caches; None if the store is in a folder, where nothing
        is shared."""

    def current(self, key: str, domain: str) -> Artifact | None:
        """The version that readers should use, or None if the artifact was never published, or was forgotten.

        Raises:
            StoreError: what names it, or its manifest, is damaged or belongs to another artifact.
        """

    def whole(self, key: str, domain: str) -> Artifact | None:
        """Like `current`, but also None if the version is unfit: a file is missing or has another size, or it is
        marked. Nothing is an error here that only says that the version cannot be used."""

    def require(self, key: str, domain: str) -> Artifact:
        """Like `current`, but a missing version is an error that names the command to run."""

    def is_published(self, key: str, domain: str) -> bool:
        """Whether there is a current version, complete or not."""

    def all_current(self) -> list[Artifact]:
        """The current version of every complete artifact, sorted by key and domain. See `damaged` for the rest."""

    def damaged(self) -> dict[tuple[str, str], str]:
        """Why a current version cannot be used, and how to fix that, by (key, domain)."""

    def versions(self) -> dict[Version, Artifact | None]:
        """Every existing version, current or not, sorted; None if its manifest cannot be read."""

    def pointed(self) -> dict[tuple[str, str], Version]:
        """The version that is said to be current, by (key, domain), whether or not it exists and is complete.

        Where that cannot be read, it is the version "", which never exists.
        """

    def periods(self) -> list[Period]:
        """The periods in which versions were current, for every artifact that ever was, by key, domain and time."""

    def marked(self, mark: Mark) -> list[Version]:
        """The versions with a mark, sorted."""

    def mark(self, version: Version, mark: Mark, on: bool = True) -> bool:
        """Set or remove a mark of a version, and return whether that version exists.

        A pinned version is never collected. A damaged or refused version counts as absent for `whole`, so that the next
        run rebuilds it. The rebuilt version has no such mark.
        """

    def verify(self, artifact: Artifact) -> list[str]:
        """The problems of a version, each with its place. Every byte of the store is read. An empty list means that it
        is complete."""

    def inspect(self, artifact: Artifact) -> list[str]:
        """Like `verify`, for a version that was just published or found. Bytes that each reader verifies anyway need
        not be read."""

    def holding(self, refs: Sequence[tuple[str, str]]) -> AbstractContextManager[list[Artifact]]:
        """The current versions of (key, domain) pairs. They are not collected before the end of the block.

        Everything that they were made from is kept too. A process that is killed releases all of them, at once or after
        a while.

        Raises:
            StoreError: one of them has not been built.
        """

    def publish(
        self, recipe: Recipe, build: Callable[[Path], Mapping[str, Any]], identity: Identity = "content"
    ) -> tuple[Artifact, bool]:
        """Return the artifact of `recipe` and whether `build` ran. It is current when this returns.

        `build` gets an empty directory and returns a summary that JSON can represent. With identity "content", the
        version is a hash of the files, so equal bytes are one version, whatever made them. With "recipe", it is the
        hash of the recipe, for results that differ in the last bit between devices. A version with missing files or
        files of another size is built again. Any number of processes may publish at once.

        An error in `build` leaves the store as it was before.

        Raises:
            StoreError: there is no space. `build` may raise other errors.
        """

    def forget(self, domain: str) -> list[Version]:
        """Make every version of a domain non-current, and return the versions that were current, sorted.

        The versions stay until they are collected; pinned ones stay until unpinned.
        """

    def expose(self, artifact: Artifact, name: str) -> Path:
        """Show this file of the artifact's current version at the top of the data folder, and return its path.

        Readers of the old file keep it open.
        """

    def exposes(self, artifact: Artifact, name: str) -> bool:
        """Whether the file at the top of the data folder is that file of `artifact`."""

    def sweep(self) -> int:
        """Remove what killed processes of this machine have left unfinished, and return how many they were."""

    def collect(self, dry_run: bool = False) -> list[Leftover]:
        """Remove what nobody needs and return what was removed. With `dry_run`, only return it.

        A version is needed if it is current, pinned or held, or if a needed version was made from it.

        Raises:
            StoreError: manifests contradict each other; nothing was removed.
        """

    def building(self) -> set[str]:
        """Digests of the recipes that running processes build."""

    def where(self, key: str, domain: str, version: str | None = None) -> str:
        """The place of an artifact, or of one version, for people: an absolute path or an address."""
