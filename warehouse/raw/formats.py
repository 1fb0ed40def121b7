"""Which formats raw files may have: how a file's name tells its format, where the publisher has it, what reads it.

To add a format, write a module that reads it and declare it in `FORMATS`. The module of a format knows what the lines
of a file mean; `pipelines.data_folder.raw_files` decides which files of a folder are read.

A reader is named as text, `module:function`. So a new or a changed reader makes only the domains stale whose files have
its format, and a list of raw files needs no reader.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

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


FORMATS: Final = (
    RawFormat(
        name="ratings",
        kind="ratings",
        file_names=("{}.csv", "{}.csv.gz"),
        reader="warehouse.raw.ratings:ingest_ratings",
        origin="categoryFilesSmall/{}.csv",
        misnamed={
            "ratings_{}.csv": "it is named as the files of 2014 are, whose lines begin with the user: "
            "put the item first, and rename it {0}.csv"
        },
    ),
    RawFormat(
        name="reviews",
        kind="ratings",
        file_names=("{}_5.json", "{}_5.json.gz"),
        reader="warehouse.raw.reviews:ingest_reviews",
        origin="categoryFilesSmall/{}_5.json.gz",
        misnamed={
            "reviews_{}_5.json": "it is named as the files of 2014 are: "
            "rename it {0}_5.json, with .gz if it is compressed",
            "reviews_{}.json": "it is named as the files of 2014 are: to have all these reviews read, rename it "
            "{0}_5.json, with .gz if compressed",
            "{}.jsonl": "it is named as the files of 2023 are, which have other fields and are not read: "
            "write it anew as the files of 2018 are",
        },
    ),
    RawFormat(
        name="metadata",
        kind="metadata",
        file_names=("meta_{}.json", "meta_{}.json.gz"),
        reader="warehouse.raw.metadata:ingest_metadata",
        origin="metaFiles2/meta_{}.json.gz",
        misnamed={
            "meta_{}.jsonl": "it is named as the files of 2023 are, which have other fields and are not read: "
            "write it anew as the files of 2018 are"
        },
    ),
)
"""Of several files of one kind, that of the format named first is read: ratings come before reviews, because the k-core
is ours to make."""


def formats(kind: Kind | None = None) -> tuple[RawFormat, ...]:
    """The formats of a kind, or of all kinds, those first that are to be read first."""
    return tuple(each for each in FORMATS if kind in (None, each.kind))


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
