"""The artifact store: immutable, versioned directories on a file system.

    <root>/<layer>/<noun>/domain=<domain>/v=<version>/   the artifact's files and manifest.json
    <root>/<layer>/<noun>/domain=<domain>/CURRENT        the version readers take
    <root>/<layer>/<noun>/domain=<domain>/pin=<version>      a person wants it kept: see `garbage`
    <root>/<layer>/<noun>/domain=<domain>/damaged=<version>  its bytes are not what the manifest says
    <root>/<layer>/<noun>/domain=<domain>/refused=<version>  it has failed a check of its content

A version is staged beside the store, flushed, described, made read-only, renamed into place, and only then named by
CURRENT, so a reader sees a whole version or none and a crash leaves nothing but a staging directory, which the next
publication removes. A store may have been copied from elsewhere, so CURRENT and manifests are
checked as they are read, and no link below the root is followed. What lives here is how bytes are kept and identified;
what they mean is the business of the rooms that write them.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from warehouse.artifacts.durable import flush, write_durably
from warehouse.artifacts.environment import watch
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.files import regular, sha256_file
from warehouse.artifacts.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    Environment,
    FileEntry,
    Manifest,
    content_version,
    parse,
)
from warehouse.artifacts.staging import Staging, is_full, make_folder, unlinked

ALL = "_all"
"""The domain of an artifact that spans all domains."""
HELD, RECIPE = "held.json", "recipe"
"""In the staging area: which versions a process reads, and the digest of the recipe that it builds."""
Version = tuple[str, str, str]
"""(key, domain, version)."""
Mark = Literal["pin", "damaged", "refused"]
UNFIT: tuple[Mark, ...] = ("damaged", "refused")
"""Marks of versions that count as absent until they are built again."""

_DOMAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_LAYER = "[!.]*"
"""Not the staging area, whose folders come and go."""
_KEY = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")


def check_domain(domain: str) -> str:
    """Return `domain` if it is safe as a folder name and as text in SQL; raise `StoreError` otherwise."""
    if not _is_domain(domain):
        raise StoreError(
            f"{domain!r} is no domain name: a letter, then at most 63 letters, digits or underscores; "
            "rename the raw files, or give the category a short name in domains.yaml"
        )
    return domain


def _is_domain(name: str) -> bool:
    return name == ALL or bool(_DOMAIN.fullmatch(name))


@dataclass(frozen=True)
class Artifact:
    """One version of one artifact."""

    key: str
    domain: str
    version: str
    path: Path
    manifest: Manifest

    @property
    def named(self) -> Version:
        """(key, domain, version)."""
        return self.key, self.domain, self.version

    @property
    def ref(self) -> str:
        """`layer/noun@domain`, the name by which lineage speaks of it."""
        return f"{self.key}@{self.domain}"

    @property
    def main(self) -> Path:
        """The main table, named after the noun."""
        return self.path / f"{self.key.split('/')[1]}.parquet"


@dataclass(frozen=True)
class Recipe:
    """All that decides an artifact's bytes: code, inputs by version, raw sources by sha256, parameters."""

    key: str
    domain: str
    code_version: str
    inputs: Mapping[str, str]
    sources: Mapping[str, str]
    parameters: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over the recipe's canonical JSON, 16 hex digits."""
        parts = [self.key, self.domain, self.code_version, self.inputs, self.sources, self.parameters]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=dict).encode()).hexdigest()[:16]


class Store:
    """Artifacts below one data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging = Staging(root)

    def folder(self, key: str, domain: str) -> Path:
        """The folder that holds every version of one artifact; a link on the way there is an error."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key!r} is no artifact key; keys read layer/noun, such as core/sequences")
        return unlinked(self.root, self.root / key / f"domain={check_domain(domain)}")

    def path(self, version: Version) -> Path:
        """The folder of one version."""
        key, domain, digest = version
        return self.folder(key, domain) / f"v={digest}"

    def current(self, key: str, domain: str) -> Artifact | None:
        """The version readers should take, or None if the artifact was never published.

        Raises:
            StoreError: CURRENT or the manifest is damaged, or not of this artifact.
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
        """Like `current`, but None also if it is unfit: a file is missing or has another size, or it bears a mark."""
        try:
            artifact = self.current(key, domain)
        except StoreError:
            return None
        return artifact if artifact and _whole(artifact) else None

    def published(self, key: str, domain: str) -> bool:
        """Whether there is a current version, whole or not."""
        return (self.folder(key, domain) / "CURRENT").exists()

    def require(self, key: str, domain: str) -> Artifact:
        """Like `current`, but absence is an error that says what to run."""
        artifact = self.current(key, domain)
        if artifact is None:
            what = "mmm4rec run" if domain == ALL else f"mmm4rec run {domain}"
            raise StoreError(f"{key} of {domain} has not been built; `{what}` builds it")
        return artifact

    def all_current(self) -> list[Artifact]:
        """The current version of everything that is whole, sorted by key and domain; see `damaged` for the rest."""
        return [found for _, found in self._taken() if isinstance(found, Artifact)]

    def damaged(self) -> dict[tuple[str, str], str]:
        """Why a version that CURRENT names cannot be taken, by (key, domain), with what mends it."""
        return {ref: found for ref, found in self._taken() if isinstance(found, str)}

    def versions(self) -> dict[Version, Artifact | None]:
        """Every version there is, current or not, sorted; None for one whose manifest cannot be read."""
        found: dict[Version, Artifact | None] = {}
        for path in self._found("v=*"):
            key, domain, version = named = _named(path, "v")
            if not (_KEY.fullmatch(key) and _is_domain(domain) and VERSION.fullmatch(version)):
                continue  # nothing of ours
            try:
                found[named] = self._read(key, domain, path)
            except StoreError:
                found[named] = None
        return found

    def pointed(self) -> dict[tuple[str, str], Version]:
        """The version that each CURRENT names, by (key, domain), whether or not it is there and whole.

        One that cannot be read names the version "", which there never is.
        """
        found = {}
        for key, domain in self._published():
            if _KEY.fullmatch(key) and _is_domain(domain):
                try:
                    version = _pointed(self.folder(key, domain))
                except StoreError:
                    version = ""
                if version is not None:
                    found[key, domain] = (key, domain, version)
        return found

    def forget(self, domain: str) -> list[Version]:
        """Let nothing of a domain be current any more, and return what was, sorted.

        The versions stay until they are collected (`warehouse.artifacts.garbage`), pinned ones until they are unpinned.
        """
        with self.staging.new() as bin_, self.staging.lock():
            found = [version for (_, of), version in self.pointed().items() if of == domain]
            for number, version in enumerate(found):
                folder = self.path(version).parent
                (folder / "CURRENT").rename(bin_ / str(number))  # it need not be a file
                flush(folder)
        return found

    def marked(self, mark: Mark) -> list[Version]:
        """The versions that bear a mark, sorted."""
        return [_named(path, mark) for path in self._found(f"{mark}=*")]

    def mark(self, version: Version, mark: Mark, on: bool = True) -> bool:
        """Set or remove a mark of a version, and return whether that version is there.

        A pinned version is never collected. A damaged or refused one counts as absent for `whole`, so that the next
        run builds it again; what is then put in its place bears no such mark.

        Raises:
            ReadOnlyError: the mark would change, and the store cannot be written to.
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
        """The current versions of (key, domain) pairs, which nobody collects until the end of the block.

        With them is kept what they were made of. A process that is killed lets go of all.

        Raises:
            StoreError: one has not been built.
        """
        with ExitStack() as stack:
            with self._room_for("noting what is read"):
                hold = stack.enter_context(self.staging.new())
                # Under the lock, so that nothing is collected between being found and being held.
                with self.staging.lock():
                    found = [self.require(key, domain) for key, domain in refs]
                    text = json.dumps([[a.key, a.domain, a.version] for a in found])
                    (hold / HELD).write_text(text, encoding="utf-8")
            yield found

    def verify(self, artifact: Artifact) -> list[str]:
        """What is wrong with a version, each with its path; every byte is read. An empty list: it is whole."""
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

    def sweep(self) -> int:
        """Remove what killed processes have left in the staging area, and return how many there were.

        What a living process is making stays.
        """
        return self.staging.sweep()

    def publish(
        self,
        recipe: Recipe,
        build: Callable[[Path], Mapping[str, Any]],
        identity: Literal["content", "recipe"] = "content",
    ) -> tuple[Artifact, bool]:
        """Return the artifact of `recipe` and whether `build` ran.

        `build` receives an empty directory and returns a JSON-able summary. With identity "content" the version is a
        hash of the files, so equal bytes are one version whatever made them; with "recipe" it is the recipe's own
        hash, for results that differ in the last bit between devices. A version whose files are not all there at
        their sizes is built again. Any number of processes may publish at once.

        An error in `build` leaves nothing behind but what was there before.

        Raises:
            StoreError: there is no room; whatever `build` raises.
        """
        with self._room_for(f"building {recipe.key} of {recipe.domain}"):
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
        """Let `<root>/<name>` be that file of the artifact's current version; whoever has the old one open keeps it."""
        with self._room_for(f"showing {name}"):
            if not self.exposes(artifact, name):
                with self.staging.new() as staging, self.staging.lock():
                    # Of two that expose at once, the later one might be the one with the older version.
                    latest = self.current(artifact.key, artifact.domain) or artifact
                    os.link(latest.path / name, staging / "exposed")
                    (staging / "exposed").replace(self.root / name)
                    flush(self.root)
        return self.root / name

    def exposes(self, artifact: Artifact, name: str) -> bool:
        """Whether `<root>/<name>` is that file of `artifact`."""
        shown, made = self.root / name, artifact.path / name
        return shown.exists() and made.exists() and shown.samefile(made)

    @contextmanager
    def _room_for(self, doing: str) -> Iterator[None]:
        """Say clearly that there is no room, whichever library has found out."""
        try:
            yield
        except Exception as error:
            if is_full(error):
                raise StoreError(
                    f"no space left in {self.root} while {doing}; "
                    "nothing was published: free some space and run it again"
                ) from error
            raise

    def _marking(self, version: Version, mark: Mark) -> Path:
        key, domain, digest = version
        return self.folder(key, domain) / f"{mark}={digest}"

    def _found(self, name: str) -> list[Path]:
        """What is so called in the folders of artifacts, sorted; a link on the way there is an error."""
        return [unlinked(self.root, path) for path in sorted(self.root.glob(f"{_LAYER}/*/domain=*/{name}"))]

    def _taken(self) -> Iterator[tuple[tuple[str, str], Artifact | str]]:
        """The current version of all that has one, or what is wrong with it."""
        for key, domain in self._published():
            try:
                artifact = self.current(key, domain)
            except StoreError as error:
                yield (key, domain), str(error)
                continue
            if artifact:
                wrong = f"{artifact.path} lacks files, or `mmm4rec verify` found it damaged; {mend(domain)}"
                yield (key, domain), artifact if _whole(artifact) else wrong

    def _published(self) -> Iterator[tuple[str, str]]:
        """(key, domain) of all that has a CURRENT."""
        for pointer in self._found("CURRENT"):
            layer, noun, domain = pointer.parts[-4:-1]
            yield f"{layer}/{noun}", domain.removeprefix("domain=")

    def _seal(
        self,
        recipe: Recipe,
        staging: Path,
        summary: Mapping[str, Any],
        identity: Literal["content", "recipe"],
        environment: Environment,
    ) -> Artifact:
        """Describe, flush and move into place what was built, then move CURRENT."""
        files = staging / "files"
        described = {path.name: describe_file(path) for path in sorted(files.iterdir())}
        version = recipe.digest if identity == "recipe" else content_version(described)
        text = Manifest(
            format=FORMAT,
            key=recipe.key,
            domain=recipe.domain,
            version=version,
            recipe=recipe.digest,
            code_version=recipe.code_version,
            inputs=dict(recipe.inputs),
            sources=dict(recipe.sources),
            parameters=dict(recipe.parameters),
            files=described,
            summary=dict(summary),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=environment,
        ).text
        try:
            manifest = parse(text, recipe.key, recipe.domain, version)  # so that it is what readers will read
        except ValueError as error:
            raise StoreError(
                f"{recipe.key} of {recipe.domain} cannot be published: {error}; this is a fault of its build"
            ) from error
        write_durably(files / MANIFEST, text)
        for path in files.iterdir():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
            flush(path)
        flush(files)
        artifact = Artifact(
            recipe.key, recipe.domain, version, self.folder(recipe.key, recipe.domain) / f"v={version}", manifest
        )
        make_folder(artifact.path.parent)
        # All that takes room is done before anything moves.
        write_durably(staging / "CURRENT", version)
        with self.staging.lock():
            artifact = self._place(artifact, staging)
            (staging / "CURRENT").replace(artifact.path.parent / "CURRENT")
            flush(artifact.path.parent)
        return artifact

    def _place(self, made: Artifact, staging: Path) -> Artifact:
        """Move the staged files to where `made` says, or keep what is there if that is as good."""
        files, target = staging / "files", made.path
        try:
            there = self._read(made.key, made.domain, target)
        except StoreError:
            there = None
        if there is None or not _whole(there):
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
            if artifact.manifest.recipe == recipe.digest and _whole(artifact):
                return artifact
        return None

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

    def _point(self, artifact: Artifact, staging: Path) -> None:
        """Move CURRENT, unless it stands there already."""
        folder = artifact.path.parent
        if _pointed(folder) != artifact.version:
            write_durably(staging / "CURRENT", artifact.version)
            (staging / "CURRENT").replace(folder / "CURRENT")
            flush(folder)


def recipe(
    key: str,
    domain: str,
    code_version: str,
    inputs: Sequence[Artifact],
    sources: Mapping[str, str],
    parameters: Mapping[str, Any],
) -> Recipe:
    """The recipe of an artifact made from `inputs` as they stand."""
    # Through JSON, so that what is compared is what the manifest stores.
    plain = json.loads(json.dumps(parameters, sort_keys=True))
    return Recipe(key, domain, code_version, {a.ref: a.version for a in inputs}, sources, plain)


def describe_file(path: Path) -> FileEntry:
    """What a manifest says of a file."""
    sha256, size = sha256_file(path), path.stat().st_size
    if path.suffix != ".parquet":
        return FileEntry(sha256=sha256, bytes=size)
    with pq.ParquetFile(path) as table:
        columns = {field.name: str(field.type) for field in table.schema_arrow}
        return FileEntry(sha256=sha256, bytes=size, rows=table.metadata.num_rows, columns=columns)


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


def mend(domain: str) -> str:
    """Which command builds a damaged artifact of a domain again."""
    return f"`mmm4rec run{'' if domain == ALL else f' {domain}'}` builds it again"


def _whole(artifact: Artifact) -> bool:
    """Whether every file the manifest names is there at its size, and nobody has found it unfit."""
    if any((artifact.path.parent / f"{mark}={artifact.version}").exists() for mark in UNFIT):
        return False
    for name, entry in artifact.manifest.files.items():
        path = artifact.path / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.bytes:
            return False
    return True
