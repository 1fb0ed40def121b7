"""The formats of raw files: the names of their files, where the publisher keeps them, and which function reads them.

To add a format, write a module that reads it and declare it in `FORMATS`. Readers of ratings share
`warehouse.raw.rating_rows`, readers of lines with JSON objects `warehouse.raw.records`. The module of a format knows
what the lines of a file mean; `pipelines.data_folder.raw_files` decides which files of a folder are read.

A reader is named as text, `module:function`. So a new or changed reader makes only those domains stale whose files have
its format, and code that only lists raw files does not import the readers.
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
    "format_of",
    "formats",
]

Kind = Literal["ratings", "metadata"]
"""The table that a raw file becomes, raw/ratings or raw/metadata."""
KINDS: Final[tuple[Kind, ...]] = ("ratings", "metadata")
"""The kinds of files: a category needs one of each kind."""


@dataclass(frozen=True)
class RawFormat:
    """A format of raw files. In file names, `{}` stands for the category.

    The reader is a function of (source, out, progress). It writes two tables into the folder `out`: the table of its
    kind, and `quarantine`. `warehouse.tables` declares their columns. It returns a
    `warehouse.raw.rating_rows.RatingsSummary` or a `warehouse.raw.metadata.MetadataSummary`.
    """

    name: str
    """The name of the format in commands and their output."""
    kind: Kind
    file_names: tuple[str, ...]
    """Names of its files, in the order in which they are looked for: plain before compressed."""
    reader: str
    """The function that reads it, as `module:function`."""
    origin: str | None = None
    """Path of a category's file below the publisher's location in the settings; None if it is not published there."""
    misnamed: Mapping[str, str] = field(default_factory=dict)
    """Names that other publications give to files of this kind, in lower case and without .gz, each with the advice
    that a user gets; `{}` stands for the category here too. If a name also fits `file_names` of another format, the
    file belongs to that format."""

    def read(self, source: Path, out: Path, progress: Progress | None = None) -> Any:
        """Read a file of this format into the folder `out`; return the summary.

        Raises:
            DataError: the file is missing, empty, cut off or damaged, or hardly any line has this format.
        """
        return pkgutil.resolve_name(self.reader)(source, out, progress)


Registry = tuple[RawFormat, ...]
"""`pipelines.planner.code_version` knows a registry by this annotation: one more format makes nothing stale."""

FORMATS: Final[Registry] = (
    RawFormat(
        name="ratings",
        kind="ratings",
        file_names=("{}.csv", "{}.csv.gz"),
        reader="warehouse.raw.ratings:ingest_ratings",
        origin="categoryFilesSmall/{}.csv",
        misnamed={
            "ratings_{}.csv": "it is named like the files of 2014, whose lines begin with the user: "
            "put the item first, and rename the file to {0}.csv"
        },
    ),
    RawFormat(
        name="reviews",
        kind="ratings",
        file_names=("{}_5.json", "{}_5.json.gz"),
        reader="warehouse.raw.reviews:ingest_reviews",
        origin="categoryFilesSmall/{}_5.json.gz",
        misnamed={
            "reviews_{}_5.json": "it is named like the files of 2014: "
            "rename it to {0}_5.json, with .gz if it is compressed",
            "reviews_{}.json": "it is named like the files of 2014: to have all its reviews read, rename it to "
            "{0}_5.json, with .gz if it is compressed",
            "{}.jsonl": "it is named like the files of 2023, which have other fields and are not read: "
            "convert it to the format of the files of 2018",
        },
    ),
    RawFormat(
        name="metadata",
        kind="metadata",
        file_names=("meta_{}.json", "meta_{}.json.gz"),
        reader="warehouse.raw.metadata:ingest_metadata",
        origin="metaFiles2/meta_{}.json.gz",
        misnamed={
            "meta_{}.jsonl": "it is named like the files of 2023, which have other fields and are not read: "
            "convert it to the format of the files of 2018; if its lines have an `asin`, rename it to meta_{0}.json",
            **{
                f"meta_{{}}.{ending}": "metadata must be JSON Lines, one object with an `asin` per line: write it as "
                "meta_{0}.json, with .gz if it is compressed"
                for ending in ("csv", "tsv", "parquet")
            },
        },
    ),
)
"""If a folder has several files of one kind, the file whose format comes first here is read. Ratings come before
reviews, because review files hold only a 5-core, and `warehouse.core` computes the k-core itself."""


def formats(kind: Kind | None = None) -> tuple[RawFormat, ...]:
    """The formats of a kind, or of all kinds, in the order in which they are preferred."""
    return tuple(each for each in FORMATS if kind in (None, each.kind))


def format_of(kind: Kind, file_name: str) -> RawFormat:
    """The format of a file of that kind, by its name.

    Raises:
        KeyError: no format of that kind has files of such a name.
    """
    for each in formats(kind):
        if any(category_in(pattern, file_name) for pattern in each.file_names):
            return each
    raise KeyError(f"{file_name} is not a name of a file of {kind}")


def category_in(pattern: str, name: str) -> str | None:
    """The category in a file name: the part at the `{}` of the pattern; None if the name does not fit the pattern."""
    before, after = pattern.split("{}")
    if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
        return name[len(before) : len(name) - len(after)]
    return None
