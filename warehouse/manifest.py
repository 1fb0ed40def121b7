"""What a manifest must look like. A store may come from elsewhere, so nothing in it is believed unread.

A manifest holds key, domain, version, recipe, code_version, inputs {"layer/noun@domain": version}, sources
{name: sha256}, parameters, files {name: {sha256, bytes, rows, columns}}, summary and created (UTC).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MANIFEST", "VERSION", "content_version", "flaw"]

MANIFEST: Final = "manifest.json"
VERSION: Final = re.compile(r"[0-9a-f]{16}")

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE: Final = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]{1,255}")
_INPUT: Final = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*@(_all|[A-Za-z][A-Za-z0-9_]{0,63})")
_FIELDS: Final = {
    **dict.fromkeys(("key", "domain", "version", "recipe", "code_version", "created"), str),
    **dict.fromkeys(("inputs", "sources", "parameters", "files", "summary"), dict),
}


def content_version(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The version of files as a manifest describes them: a hash of their names and hashes."""
    facts = json.dumps([[name, facts["sha256"]] for name, facts in sorted(files.items())])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def flaw(manifest: Any, key: str, domain: str, version: str) -> str | None:
    """Why this cannot be the manifest of that version, or None."""
    if not isinstance(manifest, dict):
        return "it is no JSON object"
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            return f"{name} is missing or of the wrong kind"
    said = (manifest["key"], manifest["domain"], manifest["version"])
    if said != (key, domain, version):
        return f"it is of {said[0][:80]!r}, {said[1][:80]!r}, version {said[2][:40]!r}"
    for reference, of in manifest["inputs"].items():
        if not _INPUT.fullmatch(reference) or not _is(VERSION, of):
            return f"{reference[:80]!r} is no input"
    for name, sha256 in manifest["sources"].items():
        if not isinstance(sha256, str):
            return f"the source {name[:80]!r} has no sha256"
    for name, facts in manifest["files"].items():
        if not _FILE.fullmatch(name) or name == MANIFEST:
            return f"{name[:80]!r} is no plain file name"
        if not isinstance(facts, dict) or not _is(_SHA256, facts.get("sha256")):
            return f"{name!r} has no sha256"
        if not all(type(count) is int and count >= 0 for count in (facts.get("bytes"), facts.get("rows", 0))):
            return f"{name!r} has no count of bytes or rows"
    return None


def _is(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and bool(pattern.fullmatch(text))
