"""The raw folder: which of its files are the ratings and the metadata of a category, and which are passed over.

Of several files for one thing one is read, by one order for all: ratings before reviews, since the k-core is ours to
make, and plain before compressed. What is not read though it looks as if it were meant is named, with the reason; no
file is renamed or converted.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Final, Literal

__all__ = ["Kind", "find_raw", "has_raw", "names", "pairs", "passed_over"]

Kind = Literal["ratings", "metadata"]

_NAMES: Final[dict[Kind, tuple[str, ...]]] = {
    "metadata": ("meta_{}.json", "meta_{}.json.gz"),
    "ratings": ("{}.csv", "{}.csv.gz", "{}_5.json", "{}_5.json.gz"),
}
_OF_2014: Final = "it is named as the files of 2014 are"
_OF_2023: Final = (
    "it is named as the files of 2023 are, which have other fields and are not read: write it anew as the files of "
    "2018 are"
)
_STRANGE: Final = {
    "ratings_{}.csv": f"{_OF_2014}, whose lines begin with the user: put the item first, and rename it {{0}}.csv",
    "reviews_{}_5.json": f"{_OF_2014}: rename it {{0}}_5.json, with .gz if it is compressed",
    "reviews_{}.json": f"{_OF_2014}: to have all these reviews read, rename it {{0}}_5.json, with .gz if compressed",
    "meta_{}.jsonl": _OF_2023,
    "{}.jsonl": _OF_2023,
}
"""Names that such files have elsewhere, plain or with .gz, and what is to be done."""
_ALL_REVIEWS: Final = (
    "it is named as a file of all reviews is: bring the ratings, {0}.csv, or rename it {0}_5.json, with .gz if it is "
    "compressed"
)
_ALIKE: Final = 0.7


def find_raw(folder: Path, category: str, kind: Kind) -> Path | None:
    """The first of the accepted names that exists, or None."""
    return next((path for name in names(category, kind) if (path := folder / name).is_file()), None)


def has_raw(folder: Path, category: str) -> bool:
    """Whether a category's ratings and metadata are both there."""
    return all(find_raw(folder, category, kind) for kind in _NAMES)


def names(category: str, kind: Kind) -> list[str]:
    """The names that the file of a category may have, in the order in which they are looked for."""
    return [pattern.format(category) for pattern in _NAMES[kind]]


def pairs(folder: Path) -> Iterator[tuple[Path, str]]:
    """The metadata file and the category of each pair of raw files, whatever it is called; each category once."""
    for category in sorted({stem for name in _files(folder) if (stem := _stem("metadata", name))}):
        metadata = find_raw(folder, category, "metadata")
        if metadata and has_raw(folder, category):
            yield metadata, category


def passed_over(folder: Path) -> dict[str, str]:
    """Files that are not read though they look like raw files: the reason by name."""
    there = _files(folder)
    chosen: dict[str, str] = {}
    """Of each name that a category with both files may have, the one that is read."""
    for _, category in pairs(folder):
        for kind in _NAMES:
            if path := find_raw(folder, category, kind):
                chosen |= dict.fromkeys(names(category, kind), path.name)
    read = {*chosen.values()}
    found = {}
    for name in there:
        if name in read:
            continue
        if name in chosen:
            found[name] = f"{chosen[name]} is read in its place: remove one of the two"
        elif reason := _reason(name, there, [other for other in there if other not in read]):
            found[name] = reason
    return found


def _reason(name: str, there: Sequence[str], left: Sequence[str]) -> str | None:
    """Why a file is not read, as far as its name tells, or None if it looks like none of ours."""
    for pattern, reason in _STRANGE.items():
        if stem := _match(pattern, name.lower().removesuffix(".gz"), name):
            return reason.format(stem)
    for kind in _NAMES:
        if stem := _stem(kind, name):
            return _alone(stem, kind, left)
    for pattern in chain.from_iterable(_NAMES.values()):
        if stem := _match(pattern, name.lower(), name):
            return f"capitals count: rename it {pattern.format(stem)}"
    stem = _match("{}.json", name.lower().removesuffix(".gz"), name)
    return _ALL_REVIEWS.format(stem) if stem and any(_stem("metadata", other) == stem for other in there) else None


def _alone(category: str, kind: Kind, left: Sequence[str]) -> str:
    """What is missing beside the file of a category, and which of the others might be meant to be it."""
    other: Kind = "ratings" if kind == "metadata" else "metadata"
    *most, last = names(category, other)
    alike = {stem: name for name in left if (stem := _stem(other, name))}
    meant = [alike[stem] for stem in get_close_matches(category, alike, 1, _ALIKE)]
    return f"there is no {', '.join(most)} or {last} beside it" + "".join(
        f"; if that is {name!r}, let both have the same name" for name in meant
    )


def _files(folder: Path) -> list[str]:
    """The names of the files in the folder that might be raw files, sorted."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        endings = (".csv", ".json", ".jsonl", ".gz")
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(endings) and entry.is_file())
    return []


def _stem(kind: Kind, name: str) -> str | None:
    """The category whose file a name is by the accepted ones, or None."""
    return next((stem for pattern in _NAMES[kind] if (stem := _match(pattern, name, name))), None)


def _match(pattern: str, compared: str, name: str) -> str | None:
    """What of `name` stands for the category where `compared`, the same in other letters, fits the pattern, or None."""
    before, after = pattern.split("{}")
    if compared.startswith(before) and compared.endswith(after) and len(compared) > len(before) + len(after):
        return name[len(before) : len(compared) - len(after)]
    return None
