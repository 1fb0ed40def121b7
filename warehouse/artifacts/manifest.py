"""The typed contents of a manifest. A store may come from elsewhere, so everything in a manifest is checked.

A manifest is JSON beside the files of a version. The environment that made the version (`Environment`) is not part of
its recipe: it decides nothing, so a new Python or another commit makes nothing stale (docs/decisions/0019). Manifests
of format 1, which have neither `format` nor `environment`, can still be read.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from warehouse.artifacts.files import sha256_file

__all__ = [
    "FORMAT",
    "MANIFEST",
    "VERSION",
    "Environment",
    "FileEntry",
    "Input",
    "Manifest",
    "content_version",
    "describe_file",
    "parse",
]

MANIFEST: Final = "manifest.json"
VERSION: Final = re.compile(r"[0-9a-f]{16}")
FORMAT: Final = 2
"""What is written. 1 had no environment."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE: Final = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]{1,255}")
_INPUT: Final = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*@(_all|[A-Za-z][A-Za-z0-9_]{0,63})")

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Input(NamedTuple):
    """An artifact that another was made from."""

    key: str
    domain: str
    version: str


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file of an artifact. Only Parquet files have rows and columns {name: type}."""

    sha256: str
    bytes: _Count
    rows: _Count | None = None
    columns: dict[str, str] | None = None


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The environment that made an artifact, from `warehouse.artifacts.environment`, without host, user or path."""

    python: str
    packages: dict[str, str]
    """Versions of `warehouse.artifacts.environment.PACKAGES`, without those that were not installed."""
    git_commit: str | None
    """The project's commit; null where the code is no checkout, or git could not be asked."""
    git_clean: bool | None
    """Whether the code was as the commit has it; null where there is no commit."""
    device: str
    """Where tensors were: the names of the CUDA devices that the build used, else cpu."""
    processor: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is recorded about one version of an artifact."""

    format: int
    key: str
    domain: str
    version: str
    recipe: str
    """The digest of what decided the bytes: of the code version, inputs, sources and parameters that follow."""
    code_version: str
    inputs: dict[str, str]
    """Versions by `layer/noun@domain`."""
    sources: dict[str, str]
    """sha256 of raw files, by name."""
    parameters: dict[str, Any]
    files: dict[str, FileEntry]
    summary: dict[str, Any]
    """What the build counted."""
    created: str
    """ISO 8601, UTC."""
    environment: Environment | None
    """None in format 1."""

    @property
    def made_from(self) -> list[Input]:
        """The inputs, sorted."""
        found = []
        for reference, version in self.inputs.items():
            key, domain = reference.split("@")
            found.append(Input(key, domain, version))
        return sorted(found)

    @property
    def text(self) -> str:
        """The manifest as text: the same manifest gives the same JSON."""
        return json.dumps(msgspec.structs.asdict(self), indent=1, sort_keys=True, default=_plain)


def parse(text: str, key: str, domain: str, version: str) -> Manifest:
    """The manifest of the given version.

    Raises:
        ValueError: this cannot be the manifest; the message names the problem.
        RecursionError: it is nested too deeply.
    """
    plain = json.loads(text)  # not by msgspec, which refuses the NaN that a summary may hold
    if not isinstance(plain, dict):
        raise ValueError("it is no JSON object")
    written = plain.get("format", 1)
    if type(written) is int and written not in (1, FORMAT):
        raise ValueError(
            f"format is {written}, and only 1 and {FORMAT} are known here: a newer mmm4rec may have written it"
        )
    if "format" not in plain:
        plain = {"format": 1, "environment": None} | plain
    try:
        manifest = msgspec.convert(plain, Manifest)
    except msgspec.ValidationError as error:
        raise ValueError(_located(plain, str(error))) from error
    if wrong := _flaw(manifest, key, domain, version):
        raise ValueError(wrong)
    return manifest


def content_version(files: Mapping[str, FileEntry]) -> str:
    """The version of files that a manifest describes: a hash of their names and hashes."""
    facts = json.dumps([[name, entry.sha256] for name, entry in sorted(files.items())])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def describe_file(path: Path) -> FileEntry:
    """The manifest entry of a file."""
    sha256, size = sha256_file(path), path.stat().st_size
    if path.suffix != ".parquet":
        return FileEntry(sha256=sha256, bytes=size)
    import pyarrow.parquet as pq  # only who writes needs it

    with pq.ParquetFile(path) as table:
        columns = {field.name: str(field.type) for field in table.schema_arrow}
        return FileEntry(sha256=sha256, bytes=size, rows=table.metadata.num_rows, columns=columns)


def _plain(part: Any) -> Any:
    if isinstance(part, msgspec.Struct):
        return msgspec.to_builtins(part)
    raise TypeError(f"{type(part).__name__} is nothing that JSON has")


def _located(plain: dict[str, Any], message: str) -> str:
    """The message of msgspec, with the name of the entry, for which it writes [...]."""
    kinds: dict[str, Any] = {"files": FileEntry, "inputs": str, "sources": str}
    for field, kind in kinds.items() if "[...]" in message else ():
        for name, entry in plain[field].items() if isinstance(plain.get(field), dict) else ():
            try:
                msgspec.convert(entry, kind)
            except msgspec.ValidationError as error:
                return f"{field} {name[:80]!r}: {error}"
    return message


def _flaw(manifest: Manifest, key: str, domain: str, version: str) -> str | None:
    """Why this cannot be the manifest of that version, though its types are right; or None."""
    if (manifest.format == 1) != (manifest.environment is None):
        return "environment is missing" if manifest.environment is None else "format 1 has no environment"
    names = (manifest.key, manifest.domain, manifest.version)
    if names != (key, domain, version):
        return f"it is of {names[0][:80]!r}, {names[1][:80]!r}, version {names[2][:40]!r}"
    for reference, of in manifest.inputs.items():
        if not _INPUT.fullmatch(reference) or not VERSION.fullmatch(of):
            return f"inputs: {reference[:80]!r} is no input"
    for name, entry in manifest.files.items():
        if not _FILE.fullmatch(name) or name == MANIFEST:
            return f"files: {name[:80]!r} is no plain file name"
        if not _SHA256.fullmatch(entry.sha256):
            return f"files: {name!r} has no sha256"
    return None
