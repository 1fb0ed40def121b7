"""Which formats raw files may have: how a file's name tells its format, where the publisher has it, what reads it.

A format is declared in the module that reads it, as a `RawFormat` named FORMAT, and is known by its line in `FORMATS`.
To add one is to write such a module and such a line. What the lines of a file mean is the business of those modules;
which of the files of a folder are read is that of `pipelines.data_folder.raw_files`.

Formats and readers are named as texts, `module:name`. So a new or a changed format concerns the domains whose files
have it, and no other.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, cast

from warehouse.artifacts.progress import Progress

__all__ = [
    "FORMATS",
    "KINDS",
    "Kind",
    "RawFormat",
    "category_in",
    "format_named",
    "format_of",
    "formats",
]

Kind = Literal["ratings", "metadata"]
"""The table that a raw file becomes, raw/ratings or raw/metadata."""
KINDS: Final[tuple[Kind, ...]] = ("ratings", "metadata")
"""What a category needs a file of, each."""

FORMATS: Final = (
    "warehouse.raw.ratings:FORMAT",
    "warehouse.raw.reviews:FORMAT",
    "warehouse.raw.metadata:FORMAT",
)
"""Where each format is. Of several files of one kind, that of the format named first is read: ratings go before
reviews, since the k-core is ours to make."""


@dataclass(frozen=True)
class RawFormat:
    """A format of raw files.

    In names, `{}` stands for the category. Its reader is a function of (source, out, progress): it writes the table of
    its kind and `quarantine`, laid out as `warehouse.tables` says, into the folder `out`, and returns a
    `warehouse.raw.ratings.RatingsSummary` or a `warehouse.raw.metadata.MetadataSummary`.
    """

    name: str
    """How commands speak of it."""
    kind: Kind
    file_names: tuple[str, ...]
    """Names that its files have, in the order in which they are looked for: plain before compressed."""
    reader: str
    """What reads it, as `module:function`."""
    origin: str | None = None
    """Where a publisher has the file of a category, below the location that the settings name; None: nowhere."""
    misnamed: Mapping[str, str] = field(default_factory=dict)
    """Names that such files have elsewhere, in small letters and without .gz, and what is to be done; there too `{}`
    stands for the category. A name that is one of another format's is that format's."""

    def read(self, source: Path, out: Path, progress: Progress | None = None) -> Any:
        """Read a file of this format into the folder `out`; return the summary.

        Raises:
            DataError: the file is missing, empty, cut or damaged, or hardly any of it is of this format.
        """
        return pkgutil.resolve_name(self.reader)(source, out, progress)


@cache
def formats(kind: Kind | None = None) -> tuple[RawFormat, ...]:
    """The formats of a kind, or of all kinds, those first that are to be read first."""
    found = [cast(RawFormat, pkgutil.resolve_name(name)) for name in FORMATS]
    return tuple(each for each in found if kind in (None, each.kind))


def format_named(name: str) -> RawFormat:
    """The format of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in formats()}[name]


def format_of(kind: Kind, file_name: str) -> RawFormat:
    """The format of a file of that kind, by its name.

    Raises:
        KeyError: no format of that kind has files of such a name.
    """
    for each in formats(kind):
        if any(category_in(pattern, file_name) for pattern in each.file_names):
            return each
    raise KeyError(f"{file_name} is named as no file of {kind} is")


def category_in(pattern: str, name: str) -> str | None:
    """What of a name stands for the category where it fits the pattern; None where it does not fit."""
    before, after = pattern.split("{}")
    if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
        return name[len(before) : len(name) - len(after)]
    return None
