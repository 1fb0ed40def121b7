"""When each version of an artifact was current: the file HISTORY beside CURRENT.

It has one line of JSON per version, oldest first, with the counts of the manifest, because versions are removed but the
history stays. The file is written completely and renamed into place after CURRENT. So after a kill it may lack the last
version, and readers add the version that CURRENT names. The file decides nothing. `reader` finds the manifest of a
version; `store` makes a version current.
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

__all__ = ["HISTORY", "Entry", "Period", "continued", "entry", "now", "parse", "periods", "read", "text"]

HISTORY: Final = "HISTORY"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line: from this time on this version was current, or none if the version is None."""

    version: str | None
    since: str
    """ISO 8601, UTC."""
    rows: int | None
    """Of the main table."""
    summary: dict[str, Any]
    """What the build counted."""


@dataclass(frozen=True)
class Period:
    """A period in which one version was current. `until` is None for the present version."""

    key: str
    domain: str
    version: str
    since: str
    until: str | None
    rows: int | None
    summary: dict[str, Any]


def entry(artifact: Artifact | None, since: str) -> Entry:
    """The line that records `artifact` as current from a time on."""
    if artifact is None:
        return Entry(version=None, since=since, rows=None, summary={})
    main = artifact.manifest.files.get(artifact.main_name)
    rows = None if main is None else main.rows
    return Entry(version=artifact.version, since=since, rows=rows, summary=artifact.manifest.summary)


def now() -> str:
    """The present time in the format of the entries."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read(folder: Path) -> list[Entry]:
    """The entries of the artifact in `folder`. Invalid lines are left out."""
    try:
        return parse(regular(folder / HISTORY).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def parse(text: str) -> list[Entry]:
    """The entries that a text holds. Invalid lines are left out."""
    return [one for line in text.splitlines() if (one := _entry(line))]


def continued(entries: Sequence[Entry], last: Entry) -> list[Entry]:
    """The entries plus one more, unless its version is the same as that of the last entry."""
    known = entries[-1].version if entries else None
    return [*entries] if known == last.version else [*entries, last]


def text(entries: Sequence[Entry]) -> str:
    """The contents of the file with these entries."""
    return "".join(json.dumps(msgspec.structs.asdict(one), sort_keys=True) + "\n" for one in entries)


def periods(key: str, domain: str, entries: Sequence[Entry]) -> list[Period]:
    """The periods that follow from the entries of one artifact, oldest first."""
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
