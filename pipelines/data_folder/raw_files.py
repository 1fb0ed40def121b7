"""The raw folder: which files are the ratings and the metadata of a category, and which files are not read.

`warehouse.raw.formats` lists the formats and their file names. If there are several files for the same thing, one of
them is read. The order is the same everywhere: first by format, then plain before compressed. A file that looks like a
raw file but is not read is listed with the reason. No file is renamed or converted.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Final

from pipelines.data_folder.raw_folder import LocalFolder, RawFolder
from warehouse.raw.formats import KINDS, Kind, category_in, formats

__all__ = ["concerns", "find_raw", "has_raw", "lacking", "misplaced", "names", "no_category", "pairs", "passed_over"]

_ALL_REVIEWS: Final = (
    "it has the name of a file of all reviews: get the ratings file {0}.csv, or rename this file to {0}_5.json, with "
    ".gz if it is compressed"
)
_ALIKE: Final = 0.7
_BY_LONGER_NAMES: Final[tuple[Kind, ...]] = ("metadata", "ratings")
"""meta_Toys_5.json is read as the metadata of Toys_5, not as the reviews of meta_Toys."""
_CATEGORY: Final = re.compile(r"[^./\\\x00-\x1f\x7f\ud800-\udfff-][^/\\\x00-\x1f\x7f\ud800-\udfff]*")
_LONGEST: Final = 200
"""In bytes. A file name may have 255, and a raw file's name has a prefix and an ending besides the category."""


def no_category(name: Any) -> str | None:
    """Why this cannot be a category, which is the part that the names of its raw files share; None if it can be one."""
    if isinstance(name, str) and _CATEGORY.fullmatch(name) and len(name.encode()) <= _LONGEST:
        return None
    return (
        f"{str(name)[:80]!r} is not a category: give the name of the raw files without meta_ and endings. It begins "
        f"with neither a dot nor a hyphen, has no slash or control character, and at most {_LONGEST} bytes"
    )


def find_raw(folder: RawFolder, category: str, kind: Kind) -> str | None:
    """The name of the first file that exists with one of the accepted names, or None."""
    return next(filter(folder.has, names(category, kind)), None)


def has_raw(folder: RawFolder, category: str) -> bool:
    """Whether both the ratings and the metadata of a category exist."""
    return all(find_raw(folder, category, kind) for kind in KINDS)


def names(category: str, kind: Kind) -> list[str]:
    """The names that a category's file may have, in search order."""
    return [pattern.format(category) for pattern in _patterns(kind)]


def pairs(folder: RawFolder) -> Iterator[tuple[str, str]]:
    """The name of the metadata file and the category of each pair of raw files. Each category comes once."""
    for category in sorted({category for name in _files(folder) if (category := _category("metadata", name))}):
        metadata = find_raw(folder, category, "metadata")
        if metadata and has_raw(folder, category):
            yield metadata, category


def passed_over(folder: RawFolder) -> dict[str, str]:
    """Files that look like raw files but are not read: file name -> reason."""
    there = _files(folder)
    chosen: dict[str, str] = {}
    """For each possible file name of a category that has both files: the name of the file that is read."""
    for _, category in pairs(folder):
        for kind in KINDS:
            if name := find_raw(folder, category, kind):
                chosen |= dict.fromkeys(names(category, kind), name)
    read = {*chosen.values()}
    found = {}
    for name in there:
        if name in read:
            continue
        if name in chosen:
            found[name] = f"{chosen[name]} is read instead: remove one of the two"
        elif reason := _reason(name, there, [other for other in there if other not in read]):
            found[name] = reason
    return found


def misplaced(folder: RawFolder, data: LocalFolder) -> dict[str, str]:
    """Raw files in a wrong folder: in `data`, or in a subfolder of the raw folder that is named like the publisher's.

    Returns: path -> reason. The path starts from the raw folder where it can. Names of ratings files are ambiguous, so
    these count only if their metadata file is known.
    """
    origins = sorted({PurePath(each.origin).parent.name for each in formats() if each.origin})
    seen = [(f"{origin}/{name}", name) for origin in origins for name in _files(folder, origin)]
    if folder.path != data.path:
        seen += [(_from(folder, data.path / name), name) for name in _files(data)]
    found = [
        (kind, category, place)
        for place, name in seen
        for kind in _BY_LONGER_NAMES
        if (category := _category(kind, name))
    ]
    described = {category for kind, category, _ in found if kind == "metadata"}
    return {
        place: f"raw files are not read from there: move it to {folder}"
        for kind, category, place in found
        if category in described or find_raw(folder, category, "metadata")
    }


def _from(folder: RawFolder, path: Path) -> str:
    """A path as it is from the raw folder; from a bucket none is."""
    return os.path.relpath(path, folder.path) if folder.path else str(path)


def concerns(name: str, categories: Collection[str]) -> bool:
    """Whether a file (a name or a path) may be meant as one of these categories' files. Case does not matter."""
    asked = {category.lower() for category in categories}
    name = PurePath(name).name
    patterns = {"{}.json", *_misnamed(), *chain.from_iterable(map(_patterns, KINDS))}
    found = (_category_in_any_case(pattern, part) for pattern in patterns for part in (name, _unpacked(name)))
    return any(category.lower() in asked for category in found if category)


def lacking(folder: RawFolder, category: str) -> str | None:
    """Which raw files of a category are missing, and which similarly named files may be these; None if both exist."""
    missing = [kind for kind in KINDS if not find_raw(folder, category, kind)]
    if not missing:
        return None
    said = " and no ".join(_any_of(names(category, kind)) for kind in missing)
    others: dict[str, list[str]] = {}
    for name in _files(folder):
        if found := next((found for kind in _BY_LONGER_NAMES if (found := _category(kind, name))), None):
            others.setdefault(found, []).append(name)
    strangers = {other: files for other, files in others.items() if other != category}
    similar = [file for other in get_close_matches(category, strangers, 1, _ALIKE) for file in strangers[other]]
    hint = f"; similar: {', '.join(map(repr, similar))}" if similar else ""
    return f"there is no {said} in {folder}{hint}"


def _any_of(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _reason(name: str, there: Sequence[str], left: Sequence[str]) -> str | None:
    """Why a file is not read, judged by its name; None if it does not look like a raw file."""
    for pattern, reason in _misnamed().items():
        if category := _category_in_any_case(pattern, _unpacked(name)):
            return reason.format(category)
    for kind in _BY_LONGER_NAMES:
        if category := _category(kind, name):
            return _alone(category, kind, left)
    for pattern in chain.from_iterable(map(_patterns, _BY_LONGER_NAMES)):
        if category := _category_in_any_case(pattern, name):
            return f"upper and lower case must match: rename it to {pattern.format(category)}"
    all_reviews_of = _category_in_any_case("{}.json", _unpacked(name))
    described = all_reviews_of and any(_category("metadata", other) == all_reviews_of for other in there)
    return _ALL_REVIEWS.format(all_reviews_of) if described else None


def _alone(category: str, kind: Kind, left: Sequence[str]) -> str:
    """The message about a file without its partner: the missing names, and a similarly named file that may be it."""
    other: Kind = "ratings" if kind == "metadata" else "metadata"
    others = {found: name for name in left if (found := _category(other, name))}
    meant = [others[alike] for alike in get_close_matches(category, others, 1, _ALIKE)]
    return f"there is no {_any_of(names(category, other))} beside it" + "".join(
        f"; if {name!r} is that file, give both files the same name" for name in meant
    )


def _files(folder: RawFolder, below: str = "") -> list[str]:
    """The names of the files in the folder, or in one in it, that may be raw files, sorted."""
    endings = _endings()
    return sorted(name for name in folder.names(below) if name.lower().endswith(endings))


@cache
def _patterns(kind: Kind) -> tuple[str, ...]:
    """The names that files of a kind may have, in search order."""
    return tuple(pattern for each in formats(kind) for pattern in each.file_names)


@cache
def _misnamed() -> dict[str, str]:
    """Known file names that are not read -> what to do. Longer names come first, because they are more specific."""
    read = {pattern.removesuffix(".gz") for kind in KINDS for pattern in _patterns(kind)}
    known = {pattern: reason for each in formats() for pattern, reason in each.misnamed.items()}
    return {pattern: known[pattern] for pattern in sorted(known.keys() - read, key=lambda each: (-len(each), each))}


@cache
def _endings() -> tuple[str, ...]:
    """The endings of the names of raw files, including known files that are not read."""
    patterns = [*_misnamed(), *chain.from_iterable(map(_patterns, KINDS))]
    return (".gz", ".json", *sorted({Path(pattern).suffix for pattern in patterns} - {".gz", ".json"}))


def _unpacked(name: str) -> str:
    """The file name without the ending .gz."""
    return name[:-3] if name.lower().endswith(".gz") else name


def _category(kind: Kind, name: str) -> str | None:
    """The category whose file has this name, by the accepted names; None if there is none."""
    return next((found for pattern in _patterns(kind) if (found := category_in(pattern, name))), None)


def _category_in_any_case(pattern: str, name: str) -> str | None:
    """As `category_in`, but upper and lower case do not matter."""
    before, _ = pattern.split("{}")
    found = category_in(pattern, name.lower())
    return name[len(before) : len(before) + len(found)] if found else None
