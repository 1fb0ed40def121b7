"""The names of the objects in a bucket, below the prefix of the store.

    STORE                                          the format, the store's id and its periods
    files/<sha256[:2]>/<sha256>/<random>           the contents of artifacts' files
    leases/<random>                                what a running process reads and builds
    cache/...                                      what machines share of their caches: see `shared`
    <layer>/<noun>/domain=<domain>/
        CURRENT                                    the history; its last line names the current version
        v=<version>/manifest.json                  the manifest with the names of its files' objects; before that, for a
                                                   moment, a draft of it; empty if the version was removed
        recipe=<digest>                            the version that a recipe made
        {pin,damaged,refused}=<version>            marks
        doomed=<version>                           whether it may be removed: see `doom`

An object of `files` is never written again. A publication that needs the content of an old one writes it under another
random name. So an object that no manifest names can be removed at any time.
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from warehouse.artifacts.artifact import Version, check_domain, is_domain, is_key
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.manifest import MANIFEST, VERSION, Manifest, parse

__all__ = [
    "CACHE",
    "FILES",
    "LEASES",
    "STORE",
    "Described",
    "current",
    "describe",
    "doomed",
    "folder",
    "layers",
    "mark",
    "named",
    "new_file",
    "pointer",
    "read_manifest",
    "stored",
    "versioned",
]

STORE: Final = "STORE"
FILES: Final = "files"
LEASES: Final = "leases"
CACHE: Final = "cache"


class Described(NamedTuple):
    """A manifest, and the objects that hold its files, by file name.

    A draft protects the objects against garbage collection. It is not yet a version.
    """

    manifest: Manifest
    objects: dict[str, str]
    draft: bool = False


def folder(key: str, domain: str) -> str:
    """Where everything of one artifact is."""
    if not is_key(key):
        raise StoreError(f"{key!r} is no artifact key; keys read layer/noun, such as core/sequences")
    return f"{key}/domain={check_domain(domain)}"


def current(key: str, domain: str) -> str:
    """The history of an artifact."""
    return f"{folder(key, domain)}/CURRENT"


def versioned(version: Version) -> str:
    """The manifest of a version."""
    key, domain, digest = version
    return f"{folder(key, domain)}/v={digest}/{MANIFEST}"


def mark(version: Version, name: str) -> str:
    """A mark of a version."""
    key, domain, digest = version
    return f"{folder(key, domain)}/{name}={digest}"


def doomed(version: Version) -> str:
    """The object that decides whether a version may be removed."""
    return mark(version, "doomed")


def pointer(key: str, domain: str, recipe: str) -> str:
    """The object that names the version of a recipe."""
    return f"{folder(key, domain)}/recipe={recipe}"


def stored(sha256: str) -> str:
    """Where objects with this content are."""
    return f"{FILES}/{sha256[:2]}/{sha256}"


def new_file(sha256: str) -> str:
    """A name that no object with this content has had."""
    return f"{stored(sha256)}/{uuid.uuid4().hex}"


def layers(names: Iterable[str]) -> list[str]:
    """Of the first names in a bucket those of layers."""
    return [name for name in names if name not in (FILES, LEASES, CACHE, STORE)]


def named(key: str) -> tuple[Version, str] | None:
    """The version that an object is about, and what the object is (v, pin, doomed, ...). None for other objects.

    For CURRENT, the version is "".
    """
    parts = key.removesuffix(f"/{MANIFEST}").split("/")
    if len(parts) != 4 or not parts[2].startswith("domain="):
        return None
    artifact, domain, (what, _, digest) = "/".join(parts[:2]), parts[2].removeprefix("domain="), parts[3].partition("=")
    if not (is_key(artifact) and is_domain(domain)) or (what == "v") != key.endswith(f"/{MANIFEST}"):
        return None
    if what == "CURRENT" and not digest:
        return (artifact, domain, ""), what
    return ((artifact, domain, digest), what) if VERSION.fullmatch(digest) else None


def describe(described: Described) -> bytes:
    """The contents of a manifest in a bucket."""
    more = {"objects": described.objects} | ({"draft": True} if described.draft else {})
    return json.dumps(json.loads(described.manifest.text) | more, indent=1, sort_keys=True).encode()


def read_manifest(data: bytes, version: Version) -> Described:
    """What `describe` wrote.

    Raises:
        ValueError: this cannot be the manifest; the message names the problem.
        RecursionError: it is nested too deeply.
    """
    plain: Any = json.loads(data)
    if not isinstance(plain, dict):
        raise ValueError("it is no JSON object")
    try:
        objects = msgspec.convert(plain.pop("objects", None), dict[str, str])
        draft = msgspec.convert(plain.pop("draft", False), bool)
    except msgspec.ValidationError as error:
        raise ValueError(f"objects or draft: {error}") from error
    manifest = parse(json.dumps(plain), *version)
    for name, entry in manifest.files.items():
        if not objects.get(name, "").startswith(f"{stored(entry.sha256)}/"):
            raise ValueError(f"objects: {name!r} leads elsewhere")
    return Described(manifest, {name: objects[name] for name in manifest.files}, draft)
