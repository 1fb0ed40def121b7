"""The artifact store: immutable, versioned directories on a file system.

    <root>/<layer>/<noun>/domain=<domain>/v=<version>/   the artifact's files and manifest.json
    <root>/<layer>/<noun>/domain=<domain>/CURRENT        the version readers take

A version is staged beside the store, flushed, described, renamed into place, and only then named by CURRENT, so a
reader sees a whole version or none and a crash leaves nothing but a staging directory. What lives here is how bytes
are kept and identified; what the bytes mean is the business of the rooms that write them.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from warehouse.errors import WarehouseError

ALL = "_all"
"""The domain of an artifact that spans all domains."""

_DOMAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_KEY = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")


def check_domain(domain: str) -> str:
    """Return `domain` if it is safe as a folder name and as text in SQL; raise `WarehouseError` otherwise."""
    if domain != ALL and not _DOMAIN.fullmatch(domain):
        raise WarehouseError(
            f"{domain!r} is no domain name: a letter, then at most 63 letters, digits or underscores; "
            "rename the raw files, or give the category a short name in domains.yaml"
        )
    return domain


@dataclass(frozen=True)
class Artifact:
    """One version of one artifact.

    `manifest` holds key, domain, version, recipe, code_version, inputs {"layer/noun@domain": version},
    sources {name: sha256}, parameters, files {name: {sha256, bytes, rows, columns}}, summary and created (UTC).
    """

    key: str
    domain: str
    version: str
    path: Path
    manifest: Mapping[str, Any]

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

    def folder(self, key: str, domain: str) -> Path:
        """The folder that holds every version of one artifact."""
        if not _KEY.fullmatch(key):
            raise WarehouseError(f"{key!r} is no artifact key; keys read layer/noun, such as core/sequences")
        return self.root / key / f"domain={check_domain(domain)}"

    def current(self, key: str, domain: str) -> Artifact | None:
        """The version readers should take, or None if the artifact was never published."""
        try:
            version = (self.folder(key, domain) / "CURRENT").read_text().strip()
        except FileNotFoundError:
            return None
        return self._read(key, domain, self.folder(key, domain) / f"v={version}")

    def require(self, key: str, domain: str) -> Artifact:
        """Like `current`, but absence is an error that says what to run."""
        artifact = self.current(key, domain)
        if artifact is None:
            what = "mmm4rec run" if domain == ALL else f"mmm4rec run {domain}"
            raise WarehouseError(f"{key} of {domain} has not been built; `{what}` builds it")
        return artifact

    def all_current(self) -> list[Artifact]:
        """The current version of everything, sorted by key and domain."""
        found = []
        for pointer in sorted(self.root.glob("*/*/domain=*/CURRENT")):
            layer, noun, domain = pointer.parts[-4:-1]
            artifact = self.current(f"{layer}/{noun}", domain.removeprefix("domain="))
            if artifact:
                found.append(artifact)
        return found

    def publish(
        self,
        recipe: Recipe,
        build: Callable[[Path], Mapping[str, Any]],
        identity: Literal["content", "recipe"] = "content",
    ) -> tuple[Artifact, bool]:
        """Return the artifact of `recipe` and whether `build` ran.

        `build` receives an empty directory and returns a JSON-able summary. With identity "content" the version is a
        hash of the files, so equal bytes are one version whatever made them; with "recipe" it is the recipe's own
        hash, for results that differ in the last bit between devices.

        An error in `build` leaves nothing behind but what was there before.
        """
        known = self._with_recipe(recipe)
        if known:
            self._point(known)
            return known, False
        staging = self.root / ".staging" / uuid.uuid4().hex
        files = staging / "files"
        try:
            files.mkdir(parents=True)
            summary = build(files)
            artifact = self._seal(recipe, files, summary, identity)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise WarehouseError(
                    f"no space left in {self.root} while building {recipe.key} of {recipe.domain}; "
                    "nothing was published: free some space and run it again"
                ) from error
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._point(artifact)
        return artifact, True

    def expose(self, artifact: Artifact, name: str) -> Path:
        """Let `<root>/<name>` be that file of `artifact`, in one step; whoever has the old one open keeps it."""
        shown = self.root / name
        made = artifact.path / name
        if not (shown.exists() and shown.samefile(made)):
            swap = self.root / f".{name}.{uuid.uuid4().hex}"
            os.link(made, swap)
            swap.replace(shown)
            _fsync(self.root)
        return shown

    def _seal(
        self, recipe: Recipe, files: Path, summary: Mapping[str, Any], identity: Literal["content", "recipe"]
    ) -> Artifact:
        """Describe, flush and rename a staged directory into place."""
        described = {path.name: describe_file(path) for path in sorted(files.iterdir())}
        content = json.dumps([[name, facts["sha256"]] for name, facts in described.items()])
        version = recipe.digest if identity == "recipe" else hashlib.sha256(content.encode()).hexdigest()[:16]
        manifest = {
            "key": recipe.key,
            "domain": recipe.domain,
            "version": version,
            "recipe": recipe.digest,
            "code_version": recipe.code_version,
            "inputs": dict(sorted(recipe.inputs.items())),
            "sources": dict(sorted(recipe.sources.items())),
            "parameters": dict(recipe.parameters),
            "files": described,
            "summary": dict(summary),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_durably(files / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))
        for path in files.iterdir():
            _fsync(path)
        _fsync(files)
        target = self.folder(recipe.key, recipe.domain) / f"v={version}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            files.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if _whole(self._read(recipe.key, recipe.domain, target)):
                # The same bytes from another recipe: the data stay, the manifest names the recipe that holds now.
                (files / "manifest.json").replace(target / "manifest.json")
            else:
                target.rename(files.with_name("broken"))
                files.rename(target)
        _fsync(target.parent)
        return Artifact(recipe.key, recipe.domain, version, target, manifest)

    def _with_recipe(self, recipe: Recipe) -> Artifact | None:
        for artifact in self._versions(recipe.key, recipe.domain):
            if artifact.manifest["recipe"] == recipe.digest and _whole(artifact):
                return artifact
        return None

    def _versions(self, key: str, domain: str) -> Iterator[Artifact]:
        for path in sorted(self.folder(key, domain).glob("v=*")):
            yield self._read(key, domain, path)

    def _read(self, key: str, domain: str, path: Path) -> Artifact:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise WarehouseError(
                f"{path} has no readable manifest ({error}); delete that folder and run the domain again"
            ) from error
        return Artifact(key, domain, path.name.removeprefix("v="), path, manifest)

    def _point(self, artifact: Artifact) -> None:
        """Move CURRENT, unless it stands there already."""
        pointer = artifact.path.parent / "CURRENT"
        if pointer.exists() and pointer.read_text().strip() == artifact.version:
            return
        swap = pointer.with_name(f"CURRENT.{uuid.uuid4().hex}")
        write_durably(swap, artifact.version)
        swap.replace(pointer)
        _fsync(pointer.parent)


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


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: sha256 and bytes; of a Parquet file also rows and columns {name: type}."""
    facts: dict[str, Any] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            facts["rows"] = table.metadata.num_rows
            facts["columns"] = {field.name: str(field.type) for field in table.schema_arrow}
    return facts


def write_durably(path: Path, text: str) -> None:
    """Write `text` and flush it to the disk before returning."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole(artifact: Artifact) -> bool:
    """Whether every file the manifest names is there at its size (hashes are the business of `verify`)."""
    for name, facts in artifact.manifest["files"].items():
        path = artifact.path / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return False
    return True
