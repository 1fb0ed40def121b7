"""Reading a store: which versions exist, which one is current, and whether it is complete. Nothing here writes.

A store may have been copied from elsewhere, so CURRENT and manifests are checked when they are read, and no link below
the root is followed. `warehouse.artifacts.store` adds versions to a store.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from warehouse.artifacts import history
from warehouse.artifacts.artifact import Artifact, Version, check_domain, is_domain, is_key, mend, missing
from warehouse.artifacts.contract import UNFIT, Mark
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.files import regular, sha256_file
from warehouse.artifacts.history import HISTORY, Entry, Period
from warehouse.artifacts.manifest import MANIFEST, VERSION, content_version, parse
from warehouse.artifacts.staging import unlinked

__all__ = ["StoreReader", "is_whole"]

_LAYER: Final = "[!.]*"
"""Not the staging area, whose folders come and go."""


class StoreReader:
    """The artifacts below one data folder, read-only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str, domain: str) -> Path:
        """The folder with every version of one artifact. A link on the way there is an error."""
        if not is_key(key):
            raise StoreError(f"{key!r} is no artifact key; keys read layer/noun, such as core/sequences")
        return unlinked(self.root, self.root / key / f"domain={check_domain(domain)}")

    def path(self, version: Version) -> Path:
        """The folder of one version."""
        key, domain, digest = version
        return self.folder(key, domain) / f"v={digest}"

    def current(self, key: str, domain: str) -> Artifact | None:
        """The version that readers should use, or None if the artifact was never published.

        Raises:
            StoreError: CURRENT or the manifest is damaged or belongs to another artifact.
        """
        folder = self.folder(key, domain)
        version = _pointed(folder)
        if version is None:
            return None
        if not VERSION.fullmatch(version):
            raise StoreError(f"{folder / 'CURRENT'} names no version, but {version[:40]!r}; {mend(domain)}")
        try:
            return self._without_links(self._read(key, domain, folder / f"v={version}"))
        except StoreError:
            if _pointed(folder) == version:
                raise
            return self.current(key, domain)  # it moved on between the two looks

    def whole(self, key: str, domain: str) -> Artifact | None:
        """Like `current`, but also None if the version is unfit: a file is missing or has another size, or it is
        marked.
        """
        try:
            artifact = self.current(key, domain)
        except StoreError:
            return None
        return artifact if artifact and is_whole(artifact) else None

    def is_published(self, key: str, domain: str) -> bool:
        """Whether there is a current version, complete or not."""
        return (self.folder(key, domain) / "CURRENT").exists()

    def require(self, key: str, domain: str) -> Artifact:
        """Like `current`, but a missing version is an error that names the command to run."""
        artifact = self.current(key, domain)
        if artifact is None:
            raise missing(key, domain)
        return artifact

    def all_current(self) -> list[Artifact]:
        """The current version of every complete artifact, sorted by key and domain. See `damaged` for the rest."""
        return [found for _, found in self._current_or_flaw() if isinstance(found, Artifact)]

    def damaged(self) -> dict[tuple[str, str], str]:
        """Why a version that CURRENT names cannot be used, and how to fix that, by (key, domain)."""
        return {ref: found for ref, found in self._current_or_flaw() if isinstance(found, str)}

    def versions(self) -> dict[Version, Artifact | None]:
        """Every existing version, current or not, sorted; None if its manifest cannot be read."""
        found: dict[Version, Artifact | None] = {}
        for path in self._found("v=*"):
            key, domain, version = named = _named(path, "v")
            if not (is_key(key) and is_domain(domain) and VERSION.fullmatch(version)):
                continue  # nothing of ours
            try:
                found[named] = self._read(key, domain, path)
            except StoreError:
                found[named] = None
        return found

    def pointed(self) -> dict[tuple[str, str], Version]:
        """The version that each CURRENT names, by (key, domain), whether or not it exists and is complete.

        A CURRENT that cannot be read gives the version "", which never exists.
        """
        found = {}
        for key, domain in self._pointers():
            if is_key(key) and is_domain(domain):
                try:
                    version = _pointed(self.folder(key, domain))
                except StoreError:
                    version = ""
                if version is not None:
                    found[key, domain] = (key, domain, version)
        return found

    def periods(self) -> list[Period]:
        """The periods in which versions were current, for every artifact that ever was, by key, domain and time."""
        folders = {path.parent for name in (HISTORY, "CURRENT") for path in self._found(name)}
        found = []
        for folder in sorted(folders):
            layer, noun, domain = folder.parts[-3:]
            key, domain = f"{layer}/{noun}", domain.removeprefix("domain=")
            if is_key(key) and is_domain(domain):
                found += history.periods(key, domain, self._entries(key, domain))
        return sorted(found, key=lambda period: (period.key, period.domain))

    def _entries(self, key: str, domain: str) -> list[Entry]:
        """The lines of HISTORY, with what is current last; a damaged version is left out unless a line names it."""
        folder = self.folder(key, domain)
        entries = history.read(folder)
        # A store may be older than its HISTORY, and a kill may have left that behind.
        with suppress(StoreError):
            if not entries or entries[-1].version != _pointed(folder):
                current = self.current(key, domain)
                if current:
                    return history.continued(entries, history.entry(current, current.manifest.created))
        return entries

    def marked(self, mark: Mark) -> list[Version]:
        """The versions with a mark, sorted."""
        return [_named(path, mark) for path in self._found(f"{mark}=*")]

    def verify(self, artifact: Artifact) -> list[str]:
        """The problems of a version, each with its path. Every byte is read. An empty list means it is complete."""
        try:
            manifest = self._read(artifact.key, artifact.domain, artifact.path).manifest
        except StoreError as error:
            return [str(error)]
        problems = []
        for name, entry in manifest.files.items():
            path = artifact.path / name
            if path.is_symlink() or not path.is_file():
                problems.append(f"{path} is missing" if not path.is_symlink() else f"{path} is a link, no file")
            elif (size := path.stat().st_size) != entry.bytes:
                problems.append(f"{path} has {size:,} bytes, not {entry.bytes:,}")
            elif (digest := sha256_file(path)) != entry.sha256:
                problems.append(f"{path} has the sha256 {digest[:16]}…, not {entry.sha256[:16]}…")
        strange = {path.name for path in artifact.path.iterdir()} - {*manifest.files, MANIFEST}
        problems += [f"{artifact.path / name} is not in the manifest" for name in sorted(strange)]
        if artifact.version not in (content_version(manifest.files), manifest.recipe):
            problems.append(f"{artifact.path / MANIFEST}: the version is neither the hash of its files nor its recipe")
        return problems

    def inspect(self, artifact: Artifact) -> list[str]:
        """The same as `verify`: readers of a folder do not verify what they read."""
        return self.verify(artifact)

    def where(self, key: str, domain: str, version: str | None = None) -> str:
        """The absolute path of an artifact's folder, or of that of one version."""
        folder = self.folder(key, domain).absolute()
        return str(folder if version is None else folder / f"v={version}")

    def exposes(self, artifact: Artifact, name: str) -> bool:
        """Whether `<root>/<name>` is that file of `artifact`."""
        shown, made = self.root / name, artifact.path / name
        return shown.exists() and made.exists() and shown.samefile(made)

    def _marking(self, version: Version, mark: Mark) -> Path:
        key, domain, digest = version
        return self.folder(key, domain) / f"{mark}={digest}"

    def _points_to(self, artifact: Artifact) -> bool:
        """Whether CURRENT names this version."""
        return _pointed(artifact.path.parent) == artifact.version

    def _found(self, name: str) -> list[Path]:
        """What is so called in the folders of artifacts, sorted; a link on the way there is an error."""
        return [unlinked(self.root, path) for path in sorted(self.root.glob(f"{_LAYER}/*/domain=*/{name}"))]

    def _current_or_flaw(self) -> Iterator[tuple[tuple[str, str], Artifact | str]]:
        """The current version of all that has one, or what is wrong with it."""
        for key, domain in self._pointers():
            try:
                artifact = self.current(key, domain)
            except StoreError as error:
                yield (key, domain), str(error)
                continue
            if artifact:
                wrong = f"{artifact.path} lacks files, or `mmm4rec verify` found it damaged; {mend(domain)}"
                yield (key, domain), artifact if is_whole(artifact) else wrong

    def _pointers(self) -> Iterator[tuple[str, str]]:
        """(key, domain) of all that has a CURRENT."""
        for pointer in self._found("CURRENT"):
            layer, noun, domain = pointer.parts[-4:-1]
            yield f"{layer}/{noun}", domain.removeprefix("domain=")

    def _without_links(self, artifact: Artifact) -> Artifact:
        for name in artifact.manifest.files:
            unlinked(self.root, artifact.path / name)
        return artifact

    def _read(self, key: str, domain: str, path: Path) -> Artifact:
        version = path.name.removeprefix("v=")
        unlinked(self.root, path / MANIFEST)
        try:
            text = regular(path / MANIFEST).read_text(encoding="utf-8")
            return Artifact(key, domain, version, path, parse(text, key, domain, version))
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(
                f"{path} has no readable manifest ({error}); {mend(domain)}, or delete that folder"
            ) from error


def _pointed(folder: Path) -> str | None:
    """What CURRENT says, unchecked; None if there is none."""
    try:
        return regular(folder / "CURRENT").read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{folder / 'CURRENT'} cannot be read ({error.strerror}): delete it") from error


def _named(path: Path, what: str) -> Version:
    """The version that `<layer>/<noun>/domain=<domain>/<what>=<version>` speaks of, unchecked."""
    layer, noun, domain, name = path.parts[-4:]
    return f"{layer}/{noun}", domain.removeprefix("domain="), name.removeprefix(f"{what}=")


def is_whole(artifact: Artifact) -> bool:
    """Whether every file in the manifest exists with its size, and the version is not marked as unfit."""
    if any((artifact.path.parent / f"{mark}={artifact.version}").exists() for mark in UNFIT):
        return False
    for name, entry in artifact.manifest.files.items():
        path = artifact.path / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.bytes:
            return False
    return True
