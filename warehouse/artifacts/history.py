"""Which version of an artifact was current from when to when: the file HISTORY beside CURRENT.

A line of JSON a version, oldest first, with what its manifest counted, as versions are removed and this stays. The file
is written whole and renamed into place after CURRENT, so a kill may leave it one version behind: whoever reads it adds
what CURRENT names. It decides nothing. Which manifest a version has says `reader`, when a version becomes current
`store`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from warehouse.artifacts.artifact import Artifact
from warehouse.artifacts.files import regular
from warehouse.artifacts.manifest import VERSION

__all__ = ["HISTORY", "Entry", "Period", "continued", "entry", "now", "periods", "read", "text"]

HISTORY: Final = "HISTORY"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line: from then on this version was current, or, where it is None, none was."""

    version: str | None
    since: str
    """ISO 8601, UTC."""
    rows: int | None
    """Of the main table."""
    summary: dict[str, Any]
    """What the build counted."""


@dataclass(frozen=True)
class Period:
    """A time in which one version was current; `until` is None of the one that is."""

    key: str
    domain: str
    version: str
    since: str
    until: str | None
    rows: int | None
    summary: dict[str, Any]


def entry(artifact: Artifact | None, since: str) -> Entry:
    """The line that says that from then on `artifact` was current."""
    if artifact is None:
        return Entry(version=None, since=since, rows=None, summary={})
    main = artifact.manifest.files.get(artifact.main.name)
    rows = None if main is None else main.rows
    return Entry(version=artifact.version, since=since, rows=rows, summary=artifact.manifest.summary)


def now() -> str:
    """The present moment, as entries have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read(folder: Path) -> list[Entry]:
    """The entries of the artifact in `folder`. Lines that are none are left out."""
    try:
        lines = regular(folder / HISTORY).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return [one for line in lines if (one := _entry(line))]


def continued(entries: Sequence[Entry], last: Entry) -> list[Entry]:
    """The entries with one more, unless its version is that of the last."""
    known = entries[-1].version if entries else None
    return [*entries] if known == last.version else [*entries, last]


def text(entries: Sequence[Entry]) -> str:
    """The file that holds them."""
    return "".join(json.dumps(msgspec.structs.asdict(one), sort_keys=True) + "\n" for one in entries)


def periods(key: str, domain: str, entries: Sequence[Entry]) -> list[Period]:
    """What the entries of one artifact mean, oldest first."""
    ends = [*(following.since for _, following in pairwise(entries)), None]
    return [
        Period(key, domain, one.version, one.since, until, one.rows, one.summary)
        for one, until in zip(entries, ends, strict=True)
        if one.version is not None
    ]


def _entry(line: str) -> Entry | None:
    try:
        found = msgspec.convert(json.loads(line), Entry)  # not by msgspec, which refuses the NaN of a summary
        datetime.fromisoformat(found.since)
    except (ValueError, RecursionError):
        return None
    return found if found.version is None or VERSION.fullmatch(found.version) else None
